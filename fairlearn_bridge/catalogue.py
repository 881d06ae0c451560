"""The published mitigators that a run can compare with the schemes, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import fairlearn_bridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairlearn_bridge import ImageClassifier


class Other(NamedTuple):
    """A published mitigator: the name of its class here, or a function that makes it, and a sentence about it.

    With `on_original` it leaves the training of the network as it is, and gets the fitted ERM baseline.
    """

    mitigator: str | Callable[[ImageClassifier], Any]
    sentence: str
    on_original: bool = False

    def make(self, base: ImageClassifier, region_classifier: Any = None, value: int = 1) -> Any:
        """Return the mitigator of a target classifier, with the region classifier and its class, if it takes them.

        Its class is imported now, as --help need not wait for torch.
        """
        make = getattr(fairlearn_bridge, self.mitigator) if isinstance(self.mitigator, str) else self.mitigator
        made = make(base)
        given = {"region_classifier": region_classifier, "value": value}
        made.set_params(**{name: each for name, each in given.items() if name in made.get_params(deep=False)})
        return made


def _threshold_optimizer(base: ImageClassifier) -> Any:
    from fairlearn.postprocessing import ThresholdOptimizer

    return ThresholdOptimizer(estimator=base, constraints="equalized_odds", predict_method="predict_proba")


def _exponentiated_gradient(base: ImageClassifier) -> Any:
    from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient

    return ExponentiatedGradient(base, EqualizedOdds(), max_iter=5)


OTHERS = {
    "reweighing": Other("Reweighing", "Weights each training image so that {target} and {confounder} are independent."),
    "resampling": Other(
        "BalancedResampling", "Draws equally many training images of each cell, those of small cells repeatedly."
    ),
    "group_dro": Other("GroupDRO", "Minimises the loss of the worst group (GroupDRO)."),
    "jtt": Other(
        "JTT", "Trains briefly, then again with more weight on the mistakes (JTT), without using {confounder}."
    ),
    "lff": Other(
        "LearningFromFailure",
        "Learns most from the images at which a biased network fails (LfF), without using {confounder}.",
    ),
    "last_layer": Other(
        "LastLayerRetraining", "Retrains the last layer on equally many images of each cell (DFR).", on_original=True
    ),
    "low_spuriosity": Other(
        "LowSpuriosityRetraining",
        "Retrains the last layer on the quarter of each class in which {confounder} shows least to the region "
        "classifier (spuriosity rankings).",
        on_original=True,
    ),
    "masktune": Other(
        "MaskTune",
        "Continues training with the pixels hidden that Grad-CAM marks (MaskTune), without using {confounder}.",
    ),
    "correlation_remover": Other(
        "EmbeddingCorrelationRemoval",
        "Retrains the last layer on an embedding without its correlation with {confounder} (fairlearn's "
        "CorrelationRemover), which it also needs in prediction.",
        on_original=True,
    ),
    "adversarial": Other(
        "AdversarialLastLayer",
        "Retrains the last layer against an adversary that predicts {confounder} from its output (fairlearn's).",
        on_original=True,
    ),
    "threshold_optimizer": Other(
        _threshold_optimizer,
        "Chooses thresholds with and without {confounder} for equalized odds on the training images (fairlearn's "
        "ThresholdOptimizer), which needs {confounder} in prediction too.",
        on_original=True,
    ),
    "exponentiated_gradient": Other(
        _exponentiated_gradient,
        "Mixes classifiers, each trained with other weights, towards equalized odds (fairlearn's "
        "ExponentiatedGradient), in 5 rounds of up to 9 trainings, where its default is 50 rounds.",
    ),
}
# The others train the network twice at most, or two at once.
SLOW_OTHERS = ("exponentiated_gradient",)
FAST_OTHERS = tuple(name for name in OTHERS if name not in SLOW_OTHERS)
