"""run_audit: the whole job from images to an audit: codecs, a classifier trained on originals, degradations, groups."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from skorch.callbacks import Callback

from captum_region.datasets import Faces
from captum_region.io.provenance import git_state
from captum_region.labels import check_classes
from captum_region.progress import progress_bar, stage
from captum_region.randomness import draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.audit.degradations import cases_of
from fairlearn_bridge.audit.engine import audit
from fairlearn_bridge.audit.inputs import audited
from fairlearn_bridge.audit.prediction import check_trainable, predictor_of
from fairlearn_bridge.audit.pruning import Pruning
from fairlearn_bridge.audit.realism import has_embedding
from fairlearn_bridge.audit.specifications import check_codec, codecs_of, distortion_of, own_classifier
from fairlearn_bridge.audit.words import SIGNIFICANT
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.samples import groups_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.audit.engine import OnImages
    from fairlearn_bridge.audit.result import DegradationAudit

# Codecs are trained and batch statistics estimated on so many training images, drawn at random.
LEARNED_FROM = 1000
# A classifier is weak that is better than guessing by less than this.
_LITTLE = 0.1


@dataclass(frozen=True)
class AuditConfig:
    """What to audit; see the options of ``fairlearn-bridge audit``.

    Attributes
    ----------
    target : str
        What the classifier classifies: an attribute of any number of classes, or ``attribute=value``.
    groups : tuple of str
        Attributes whose values, or their combinations, are the groups.
    codecs, distortions : tuple of str
        As ``jpeg:5``, ``pca:64`` and ``blur:1,2,4``, see `fairlearn_bridge.audit.specifications`.
    bpp : tuple of float
        Rates, for each of which each codec's quality is found.
    amounts : tuple of float
        Shares of the weights that are pruned.
    reestimate : bool
        Whether batch statistics are estimated anew after pruning.
    retrain : bool
        Whether the classifier is trained on degraded images too, for the shares.
    model : str, optional
        ``module:function`` of your own classifier; by default an `ImageClassifier` is trained on the originals.
    epochs, batch_size, lr
        Of that training.
    n_bootstrap, n_permutations : int
    random_state : int
    n_jobs : int, optional
        Images that are encoded at a time.
    device : str
    """

    target: str
    groups: tuple[str, ...]
    codecs: tuple[str, ...] = ()
    distortions: tuple[str, ...] = ()
    bpp: tuple[float, ...] = ()
    amounts: tuple[float, ...] = ()
    reestimate: bool = False
    retrain: bool = False
    model: str | None = None
    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    n_bootstrap: int = 1000
    n_permutations: int = 1000
    random_state: int = 0
    n_jobs: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("groups must name an attribute, got none")
        if self.target in self.groups:
            raise ValueError(f"groups must be of another attribute than the target, got {self.target!r} for both")
        if not (self.codecs or self.distortions or self.amounts):
            raise ValueError("codecs, distortions or amounts must be given, got none")
        for text in self.codecs:
            check_codec(text, for_rate=bool(self.bpp))
        for text in self.distortions:
            distortion_of(text)
        if self.amounts:
            Pruning(self.amounts, reestimate_on=None)
        if self.bpp and not self.codecs:
            raise ValueError("bpp must come with codecs, got none")
        if self.retrain and not self.changes_images:
            raise ValueError("retrain must come with codecs or distortions: pruning changes no images to train on")
        for name in ("epochs", "batch_size", "n_bootstrap", "n_permutations"):
            check_count(name, getattr(self, name))
        draw_seed(self.random_state)  # raises if it is not a seed

    @property
    def changes_images(self) -> bool:
        """Whether images are degraded, and not the classifier alone."""
        return bool(self.codecs or self.distortions)


@dataclass(frozen=True)
class AuditRun:
    """An audit with what it was made of.

    Attributes
    ----------
    config : AuditConfig
    found : DegradationAudit
    rates : list of dict
        The ``codec``, ``bpp``, ``reached`` and ``quality`` of each rate that was asked for.
    losses : list of float
        The classifier's training loss by epoch; empty for one of your own.
    remarks : list of str
        What is to be kept in mind, such as small groups.
    synthetic : bool
        Whether the images are synthetic faces.
    seconds : dict of str to float
        Of each stage.
    git : str or None
        The commit of the code.
    """

    config: AuditConfig
    found: DegradationAudit
    rates: list[dict[str, Any]]
    losses: list[float]
    remarks: list[str]
    synthetic: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    git: str | None = None

    # Each is asked for again and again, by the table, the words and the plots.
    @cached_property
    def table(self) -> pd.DataFrame:
        """`DegradationAudit.table`."""
        return self.found.table()

    @cached_property
    def by_group(self) -> pd.DataFrame:
        """`DegradationAudit.to_frame`."""
        return self.found.to_frame()

    @cached_property
    def drift(self) -> pd.DataFrame:
        """`DegradationAudit.drift`."""
        return self.found.drift()

    @cached_property
    def spectrum(self) -> pd.DataFrame | None:
        """`DegradationAudit.spectrum`, or None: it is not measured of pruning, or without an embedding."""
        return self.found.spectrum() if "frechet" in self.table else None


def run_audit(
    config: AuditConfig,
    train: AttributeImages,
    test: AttributeImages,
    *,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    on_images: OnImages | None = None,
    seconds: dict[str, float] | None = None,
    quiet: bool = True,
) -> AuditRun:
    """Train a classifier on originals, and audit what degradations take from it, group by group.

    Parameters
    ----------
    config : AuditConfig
    train : AttributeImages
        What the classifier, and codecs that learn, are trained on.
    test : AttributeImages
        What is audited: other images of the same size.
    checkpoint_dir : path, optional
        A folder from which stopped trainings and audits resume.
    on_images : callable, optional
        See `audit`.
    seconds : dict, optional
        Durations of earlier stages; those of the audit are added.
    quiet : bool, default=True
        No progress on stderr.

    Returns
    -------
    AuditRun

    Raises
    ------
    TypeError, ValueError
        If something does not fit, a group has fewer than 30 images, or a rate cannot be reached; before any training.

    See Also
    --------
    audit : The audit alone, of your own classifier and degradations.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> train, test = make_faces(100, 32, random_state=0), make_faces(120, 32, random_state=1)
    >>> config = AuditConfig("Smiling", ("Dark_Skin",), codecs=("jpeg:5",), epochs=1, n_bootstrap=100)
    >>> run = run_audit(config, train, test)
    >>> run.found.names, run.remarks[0]
    (['jpeg 5'], 'groups of fewer than 200 images have wide intervals: ...')
    """
    seconds = {} if seconds is None else seconds
    labels, target = _targets(config.target, train, test)
    groups = groups_of(test, config.groups)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        audited(test.images, groups, target)  # before hours of training
    remarks = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    classifier = None if config.model is None else own_classifier(config.model)
    if classifier is None:
        _check_classes(config.target, labels, target)
    else:
        predictor_of(classifier).codes(target, config.target)
        if config.retrain:
            check_trainable(classifier, has_confounder=False)
    with stage("preparing the degradations", seconds, quiet):
        degradations, rates = degradations_of(config, train)
    losses: list[float] = []
    if classifier is None:
        with stage("training the classifier on originals", seconds, quiet):
            classifier = trainer(config, checkpoint_dir)
            ((_, epochs),) = classifier.callbacks
            with epochs.shown(progress_bar(total=config.epochs, unit="epoch", disable=quiet)):
                classifier.fit(train.images, labels)
            losses = [float(loss) for loss in classifier.history_[:, "train_loss"]]
    with stage("auditing", seconds, quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small groups: the remarks say so
        found = audit(
            degradations,
            classifier,
            test.images,
            groups,
            target=target,
            train=(train.images, labels) if config.retrain else None,
            embed="classifier" if config.changes_images and has_embedding(classifier) else None,
            n_bootstrap=config.n_bootstrap,
            n_permutations=config.n_permutations,
            on_images=on_images,
            n_jobs=config.n_jobs,
            random_state=config.random_state,
            checkpoint_dir=checkpoint_dir,
            show_progress=not quiet,
        )
    remarks += _weakness(found)
    if len(found.names) / (config.n_permutations + 1) >= SIGNIFICANT:
        wanted = math.ceil(len(found.names) / SIGNIFICANT)
        remarks.append(
            f"with {config.n_permutations} draws no corrected p of {len(found.names)} degradations can be below "
            f"{SIGNIFICANT:g}: take more than {wanted}"
        )
    return AuditRun(config, found, rates, losses, remarks, isinstance(test, Faces), seconds, git_state())


def _targets(name: str, train: AttributeImages, test: AttributeImages) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the target of both sets, of one type: where one has numbers, the other's 0 and 1 are not booleans."""
    parts = [one.labels(name) for one in (train, test)]
    number = next((part.dtype for part in parts if part.dtype.kind in "iuf"), None)
    first, second = (part.astype(number) if number is not None and part.dtype == bool else part for part in parts)
    return check_classes(first, len(train), name=f"{name} of train", least=2), second


def _check_classes(name: str, trained: NDArray[Any], audited: NDArray[Any]) -> None:
    if unknown := {*audited.tolist()} - {*trained.tolist()}:
        raise ValueError(
            f"target {name} must have classes that occur in training, {np.unique(trained).tolist()}; of the audited "
            f"images some have {sorted(unknown, key=str)}"
        )


def _weakness(found: DegradationAudit) -> list[str]:
    """Return a remark if the classifier has little to lose."""
    right = float((found.target == found.classes[found.original.predicted]).mean())
    guessed = float(np.unique(found.target, return_counts=True)[1].max() / len(found.target))
    if right >= guessed + _LITTLE:
        return []
    return [
        f"the classifier is right for {100 * right:.0f} % of the originals, where guessing the commonest class is "
        f"for {100 * guessed:.0f} %: it has little to lose, so train it better first"
    ]


def degradations_of(config: AuditConfig, train: AttributeImages) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the degradations by name, and the rates that codecs reach; what learns does so on training images."""
    # Drawn: a data set may be sorted, and codecs must not learn from its first group alone.
    # Nor sorted again: rates are measured on the first of them.
    drawn = np.random.default_rng(config.random_state).permutation(len(train))[:LEARNED_FROM]
    learned_from = train.images[drawn]
    codecs, rates = codecs_of(config.codecs, config.bpp, learned_from, config.n_jobs)
    degradations: dict[str, Any] = dict(codecs)
    for distortion in map(distortion_of, config.distortions):  # of one kind there may be several, and a codec
        before = degradations.get(distortion.name, [])
        degradations[distortion.name] = [*(before if isinstance(before, list) else [before]), distortion]
    if config.amounts:
        pruning = Pruning(config.amounts, reestimate_on=learned_from if config.reestimate else None)
        degradations[pruning.name] = pruning
    cases_of(degradations)  # or one that is named twice would be refused after the training
    return degradations, rates


def trainer(config: AuditConfig, checkpoint_dir: str | os.PathLike[str] | None = None) -> ImageClassifier:
    """Return the classifier that is trained by default, before it is."""
    return ImageClassifier(
        max_epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        device=config.device,
        random_state=config.random_state,
        checkpoint_dir=checkpoint_dir,
        callbacks=[("epoch_bar", _EpochBar())],
    )


class _EpochBar(Callback):  # type: ignore[misc]
    """Moves a bar after each epoch, if it has one; no part of what identifies a training, and not cloned."""

    _bar: Any = None

    def __reduce__(self) -> Any:
        return _EpochBar, ()

    @contextmanager
    def shown(self, bar: Any) -> Iterator[None]:
        """Move `bar` in a block."""
        with bar:
            self._bar = bar
            try:
                yield
            finally:
                del self._bar  # skorch takes what is in an instance for a parameter

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(len(net.history) - self._bar.n)
