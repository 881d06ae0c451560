"""The configuration of a run."""

from dataclasses import dataclass
from typing import Any

from captum_region.randomness import draw_seed
from captum_region.segmentation.weights import PACKAGED
from captum_region.validation import check_count
from fairlearn_bridge.catalogue import FAST_OTHERS, OTHERS
from fairlearn_bridge.noise import AttributionNoise
from fairlearn_bridge.schemes import SCHEMES, scheme_parameters
from fairlearn_bridge.validation import check_number


@dataclass(frozen=True)
class ExperimentConfig:
    """What to run; see the options of ``fairlearn-bridge run``.

    Attributes
    ----------
    target, confounder : str
        Names of binary attributes: the target, and the spurious attribute that goes along with it.
    schemes : tuple of str
        Of ``fairlearn_bridge.schemes.SCHEMES``. The suffix ``@predict`` perturbs in prediction too, ``@elsewhere`` and
        ``@random`` make it a control, ``@auto`` chooses the quantile, and ``auto`` alone the scheme too. Both controls
        are added for the first scheme.
    others : tuple of str
        Of `OTHERS`: the mitigators to compare with.
    quantile, noise_std : float
        See `AttributionNoise`.
    train_size, test_per_cell, validation_per_cell : int, or None for as many as the data allow
        See `confounded_split`.
    epochs, batch_size, lr
        Of the target classifier.
    backbone, weights : str, optional
        Of `PretrainedClassifier`; by default the target classifier is a `SmallCNN`. The backbone efficientnet-lite0
        has ImageNet's weights by default.
    freeze : bool
        Whether only the backbone's last layer is trained.
    region_epochs : int, optional
        Of the region classifier; by default as many as its recipe says.
    seeds : int
        How many trainings of each arm, with seeds ``random_state``, ``random_state + 1``, ...
    random_state : int
    n_jobs : int, optional
        Number of parallel trainings.
    device : str
    """

    target: str
    confounder: str
    schemes: tuple[str, ...] = ("general_transplant", "specific_transplant", "general_mask@predict", "general_noise")
    others: tuple[str, ...] = FAST_OTHERS
    quantile: float = 0.7
    noise_std: float = 0.5
    train_size: int | None = None
    test_per_cell: int | None = None
    validation_per_cell: int = 25
    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    region_epochs: int | None = None
    seeds: int = 1
    random_state: int = 0
    n_jobs: int | None = None
    device: str = "cpu"
    backbone: str | None = None
    weights: str | None = None
    freeze: bool = False

    @property
    def network(self) -> dict[str, Any]:
        """The parameters of `ImageClassifier` that the backbone decides."""
        if self.backbone is None:
            return {}
        weights = self.weights or (PACKAGED if self.backbone == PACKAGED else None)
        options = {"module__weights": weights, "module__freeze": self.freeze}
        return {"module": self.backbone, "mixed_precision": "auto", **options}

    def __post_init__(self) -> None:
        for name in ("schemes", "others"):
            if isinstance(given := getattr(self, name), str):
                raise TypeError(f"{name} must be a tuple of names, got the text {given!r}")
        for scheme in self.schemes:
            scheme_parameters(scheme)
        AttributionNoise(quantile=self.quantile, noise_std=self.noise_std).validate()
        if self.backbone is None and (self.weights is not None or self.freeze):
            raise ValueError("backbone must be given with weights or freeze, which are about it")
        if not self.schemes:
            raise ValueError(f"schemes must name at least one of {', '.join(SCHEMES)}")
        if unknown := set(self.others) - set(OTHERS):
            raise ValueError(f"others must be of {', '.join(OTHERS)}, got {', '.join(sorted(unknown))}")
        check_number("lr", self.lr, 0, inside=True)
        for name in ("epochs", "batch_size", "seeds"):
            check_count(name, getattr(self, name))
        if self.region_epochs is not None:
            check_count("region_epochs", self.region_epochs)
        draw_seed(self.random_state)  # raises if it is not a seed
        if self.target == self.confounder:
            raise ValueError(f"confounder must be another attribute than the target, got {self.confounder!r} for both")
