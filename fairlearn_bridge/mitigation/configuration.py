"""The configuration of a mitigation."""

from dataclasses import dataclass, fields

from captum_region.page import listed
from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.schemes import scheme_parameters
from fairlearn_bridge.validation import check_number


@dataclass(frozen=True)
class MitigationConfig:
    """What to train, and without which shortcut; see the options of ``fairlearn-bridge mitigate``.

    Parameters
    ----------
    target : str
        The attribute to classify, of any number of classes, or ``attribute=value``.
    confounders : tuple of str
        The spurious attributes, of any number of values each. Of several, their combinations with the target are the
        cells.
    scheme : str, default="specific_transplant"
        How training images are perturbed, as ``schemes`` of ``fairlearn-bridge run``: ``general_mask@predict``,
        ``specific_transplant+group_dro``, ``auto``.
    others : tuple of str, default=()
        Mitigators to compare with, of `fairlearn_bridge.catalogue.OTHERS`.
    quantile, noise_std : float
        See `AttributionNoise`.
    validation_share, test_share : float
        Of the images, where the data have no such sets of their own; see `holdout_split`.
    epochs, batch_size, lr, region_epochs
        Of the classifiers, and of the region classifier.
    backbone, weights : str, optional
        Of `PretrainedClassifier`; by default the classifiers are `SmallCNN`.
    freeze : bool
        Whether only the backbone's last layer is trained.
    random_state : int
    n_jobs : int, optional
        Number of parallel trainings.
    device : str

    Raises
    ------
    ValueError
        If a value does not fit, by name.

    See Also
    --------
    mitigate : Takes it.

    Examples
    --------
    >>> MitigationConfig("Smiling", ("lighting",)).scheme
    'specific_transplant'
    """

    target: str
    confounders: tuple[str, ...]
    scheme: str = "specific_transplant"
    others: tuple[str, ...] = ()
    quantile: float = 0.5
    noise_std: float = 0.5
    validation_share: float = 0.15
    test_share: float = 0.2
    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    region_epochs: int | None = None
    backbone: str | None = None
    weights: str | None = None
    freeze: bool = False
    random_state: int = 0
    n_jobs: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.confounders, tuple) or not self.confounders:
            raise ValueError(f"confounders must be a tuple with a name at least, got {self.confounders!r}")
        if len(set(self.confounders)) < len(self.confounders):
            raise ValueError(f"confounders must be named once each, got {', '.join(self.confounders)}")
        if self.target in self.confounders:
            raise ValueError(f"confounder must be another attribute than the target, got {self.target!r} for both")
        if "control" in scheme_parameters(self.scheme):
            raise ValueError(f"scheme must be one to keep, no control as {self.scheme}")
        for name in ("validation_share", "test_share"):
            check_number(name, getattr(self, name), 0, 1, inside=True)
        if self.validation_share + self.test_share >= 1:
            both = f"{self.validation_share:g} and {self.test_share:g}"
            raise ValueError(f"validation_share and test_share must add up to less than 1, got {both}")
        _ = self.experiment  # raises if another value does not fit

    @property
    def confounder(self) -> str:
        """The spurious attributes in words."""
        return listed(self.confounders)

    @property
    def experiment(self) -> ExperimentConfig:
        """The experiment that has the same arms."""
        shared = {one.name for one in fields(ExperimentConfig)} & {one.name for one in fields(self)}
        values = {name: getattr(self, name) for name in shared}
        return ExperimentConfig(confounder=self.confounder, schemes=(self.scheme,), **values)
