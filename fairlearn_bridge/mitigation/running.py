"""mitigate: the whole job from images as they are to a measured classifier to keep."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier

from captum_region.datasets import Faces
from captum_region.io.files import plain_name
from captum_region.io.provenance import joined
from captum_region.page import listed
from captum_region.progress import stage
from fairlearn_bridge.deployment.folder import load_mitigator
from fairlearn_bridge.metrics import FEW
from fairlearn_bridge.mitigation.data import counts_of, leaks, mitigation_data
from fairlearn_bridge.mitigation.measures import CHOSEN, LIKELIEST, decided, measure_all, thresholds_of
from fairlearn_bridge.mitigation.training import train

if TYPE_CHECKING:
    import os

    import pandas as pd

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.experiment.training import Trained
    from fairlearn_bridge.mitigation.configuration import MitigationConfig
    from fairlearn_bridge.mitigation.data import MitigationData

# A cell of fewer validation images is named in the notes.
FEW_TO_CHOOSE = 10
# The folder, beside states of trainings, of models that were fitted.
MODELS = "models"


@dataclass(frozen=True, eq=False)
class Mitigation:
    """A mitigated classifier, with what it was trained and measured on.

    Attributes
    ----------
    config : MitigationConfig
    data : MitigationData
    model : classifier
        Fitted; of two classes scikit-learn's ``FixedThresholdClassifier`` with the threshold chosen on validation
        images. `save_mitigator` keeps it.
    table : DataFrame
        A row a mitigator, decision and measure: ``value``, ``low``, ``high``, and ``difference`` from the ERM baseline
        (``original``) with its interval ``difference_low``, ``difference_high``. The ``decision`` is the likeliest
        class, or of two classes also the ``threshold`` chosen on validation images. Intervals are of 95 %: Wilson's for
        shares; for the worst group, of all cells together; for AUCs and differences by a bootstrap within cells.
    groups : DataFrame
        The accuracy of each class, of each value of a spurious attribute and of each cell, with ``images``, their
        number, and Wilson's interval ``low`` to ``high``.
    counts : DataFrame
        Images by set (rows) and cell (columns).
    thresholds : dict of str to float
        Of each mitigator; empty with more than two classes.
    predictions : DataFrame
        A row a mitigator and image of the validation and the test set.
    trained : Trained
        The trainings.
    notes : list of str
        What is to be kept in mind, such as small cells.
    seconds : dict of str to float
        Of each stage.

    See Also
    --------
    mitigate : Makes it.
    """

    config: MitigationConfig
    data: MitigationData
    model: Any
    table: pd.DataFrame
    groups: pd.DataFrame
    counts: pd.DataFrame
    thresholds: dict[str, float]
    predictions: pd.DataFrame
    trained: Trained
    notes: list[str]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[str]:
        """The other mitigators whose training failed; one that was not applicable did not."""
        trainings = self.trained.trainings
        return list(trainings["mitigator"][trainings["status"] == "failed"])

    @property
    def mitigator(self) -> Any:
        """The model without its threshold."""
        return self.model.estimator.estimator if self.thresholds else self.model

    @property
    def decision(self) -> str:
        """How the model makes predictions of probabilities."""
        return CHOSEN if self.thresholds else LIKELIEST

    @property
    def git(self) -> str | None:
        """The commits of the code that trained."""
        return joined([self.trained.regions.git, *self.trained.trainings["git"]])


def mitigate(
    config: MitigationConfig,
    train_images: AttributeImages,
    validation: AttributeImages | None = None,
    test: AttributeImages | None = None,
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    seconds: dict[str, float] | None = None,
    quiet: bool = True,
) -> Mitigation:
    """Train a classifier of images as they are without a shortcut, and measure it beside one that was not mitigated.

    No cell of target and spurious attribute is made empty, and no image is left out.

    Parameters
    ----------
    config : MitigationConfig
    train_images : AttributeImages
        Images to train on. What is not given below is split off, by person where their identities are known.
    validation, test : AttributeImages, optional
        Images to choose the threshold by, and to measure on.
    checkpoint_dir : path, optional
        A folder from which a stopped call resumes, see `fit_mitigators`.
    seconds : dict, optional
        Durations of earlier stages; those of this call are added.
    quiet : bool, default=True
        No progress on stderr.

    Returns
    -------
    Mitigation

    Raises
    ------
    ValueError
        If something does not fit, nothing can be learnt (see `MitigationConfig.confounders`: a spurious attribute that
        is constant, or constant within each class), or the classifier cannot be trained.
    OSError, MemoryError
        As `fit_mitigators`; what `checkpoint_dir` holds is kept.

    See Also
    --------
    AttributionNoiseMitigator : The mitigator alone.
    holdout_split : Splits off validation and test images.
    worst_group_threshold : Chooses the threshold.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge import MitigationConfig, mitigate
    >>> faces = make_faces(200, 16, random_state=0)
    >>> found = mitigate(MitigationConfig("Male", ("Blond_Hair",), epochs=1, region_epochs=1), faces)
    >>> found.counts.sum(axis=1).to_dict()
    {'train': 132, 'validation': 29, 'test': 39}
    >>> found.model.predict(faces.images).shape, len(found.groups)
    ((200,), 32)
    """
    seconds = {} if seconds is None else seconds
    data = mitigation_data(config, train_images, validation, test)
    counts = counts_of(config, data)
    with tempfile.TemporaryDirectory() as temporary:
        states = None if checkpoint_dir is None else Path(checkpoint_dir)
        # A network of another training must not pass for that of this one, which `fit_mitigators` may have kept.
        folder = (states or Path(temporary)) / MODELS / plain_name(f"{config.scheme}-{config.random_state}")
        trained = train(config, data, folder, states, seconds, quiet)
        fitted = load_mitigator(folder, device=config.device)
    with stage("measuring", seconds, quiet):
        thresholds = thresholds_of(config, data, trained.predictions)
        predictions = decided(trained.predictions, thresholds)
        table, groups = measure_all(config, data, predictions, thresholds)
    if thresholds:
        fitted = FixedThresholdClassifier(
            FrozenEstimator(fitted), threshold=thresholds[config.scheme], response_method="predict_proba"
        )
    held_out = predictions[predictions["set"].isin(["validation", "test"])].reset_index(drop=True)
    return Mitigation(
        config,
        data,
        fitted,
        table,
        groups,
        counts,
        thresholds,
        held_out,
        trained,
        notes_of(config, data, counts),
        seconds,
    )


def notes_of(config: MitigationConfig, data: MitigationData, counts: pd.DataFrame) -> list[str]:
    """Return what is to be kept in mind of the data."""
    notes = leaks(data)
    of = {str(name): {str(cell): int(n) for cell, n in row.items()} for name, row in counts.iterrows()}
    if empty := [cell for cell, count in of["train"].items() if count == 0]:
        notes.append(f"No training image is {listed(empty)}: how a classifier does there, it has not learnt there.")
    if empty := [cell for cell, count in of["test"].items() if count == 0]:
        notes.append(f"No test image is {listed(empty)}: the worst group is one of the other cells.")
    if few := {cell: count for cell, count in of["test"].items() if 0 < count < FEW}:
        notes.append(f"Few test images, which say little of a cell and of the AUC of its images: {_numbered(few)}.")
    if len(set(data.train.labels(config.target).tolist())) == 2:
        if few := {cell: count for cell, count in of["validation"].items() if count < FEW_TO_CHOOSE}:
            notes.append(f"The threshold was chosen with few validation images of some cells: {_numbered(few)}.")
    else:
        notes.append(f"{config.target} has more than two values: the likeliest is predicted, and no threshold chosen.")
    if isinstance(data.test, Faces):
        notes.append("The faces are synthetic: they show how the method works, not how well on photographs.")
    return notes


def _numbered(cells: dict[str, int]) -> str:
    return "; ".join(f"{cell}: {count}" for cell, count in cells.items())
