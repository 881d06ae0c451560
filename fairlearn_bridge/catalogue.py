"""The mitigators of others that a run can put beside the schemes, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import fairlearn_bridge

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairlearn_bridge import ImageClassifier


class Other(NamedTuple):
    """A mitigator of others: how it is made of the target classifier, and a sentence about it.

    With `on_original` it changes no training of the network, and gets the fitted original for it.
    """

    make: Callable[[ImageClassifier], Any]
    sentence: str
    on_original: bool = False


def _threshold_optimizer(base: ImageClassifier) -> Any:
    from fairlearn.postprocessing import ThresholdOptimizer

    return ThresholdOptimizer(estimator=base, constraints="equalized_odds", predict_method="predict_proba")


def _exponentiated_gradient(base: ImageClassifier) -> Any:
    from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient

    return ExponentiatedGradient(base, EqualizedOdds(), max_iter=5)


# Each class is imported when it is made: a command's --help, which lists the names, need not wait for torch.
OTHERS = {
    "reweighing": Other(
        lambda base: fairlearn_bridge.Reweighing(base),
        "Weighs each training image so that {target} and {confounder} are independent.",
    ),
    "resampling": Other(
        lambda base: fairlearn_bridge.BalancedResampling(base),
        "Draws as many training images of each cell, of small cells again and again.",
    ),
    "group_dro": Other(
        lambda base: fairlearn_bridge.GroupDRO(base), "Minimises the loss of the worst cell (GroupDRO)."
    ),
    "jtt": Other(
        lambda base: fairlearn_bridge.JTT(base),
        "Trains shortly, then anew with what that got wrong weighed more (JTT), not told {confounder}.",
    ),
    "last_layer": Other(
        lambda base: fairlearn_bridge.LastLayerRetraining(base),
        "Trains the last layer anew on as many images of each cell (DFR).",
        on_original=True,
    ),
    "masktune": Other(
        lambda base: fairlearn_bridge.MaskTune(base),
        "Trains on with what Grad-CAM says it looks at hidden (MaskTune), not told {confounder}.",
    ),
    "correlation_remover": Other(
        lambda base: fairlearn_bridge.EmbeddingCorrelationRemoval(base),
        "Trains the last layer anew on an embedding without its correlation with {confounder} (fairlearn's "
        "CorrelationRemover), of which it is told in prediction also.",
        on_original=True,
    ),
    "adversarial": Other(
        lambda base: fairlearn_bridge.AdversarialLastLayer(base),
        "Trains the last layer anew against an adversary that reads {confounder} off its output (fairlearn's).",
        on_original=True,
    ),
    "threshold_optimizer": Other(
        _threshold_optimizer,
        "Chooses thresholds with and without {confounder} for equalized odds on the training images (fairlearn's "
        "ThresholdOptimizer), told {confounder} in prediction also.",
        on_original=True,
    ),
    "exponentiated_gradient": Other(
        _exponentiated_gradient,
        "Mixes classifiers, each trained with other weights, towards equalized odds (fairlearn's "
        "ExponentiatedGradient), in 5 rounds of up to 9 trainings, where its default is 50 rounds.",
    ),
}
# The others train the network twice at most.
SLOW_OTHERS = ("exponentiated_gradient",)
FAST_OTHERS = tuple(name for name in OTHERS if name not in SLOW_OTHERS)
