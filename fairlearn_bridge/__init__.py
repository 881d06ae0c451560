"""Train image classifiers without a confounder, and compare the ways to do so, in fairlearn's terms."""

from fairlearn_bridge.baselines import (
    JTT,
    AdversarialLastLayer,
    BalancedResampling,
    EmbeddingCorrelationRemoval,
    GroupDRO,
    LastLayerRetraining,
    MaskTune,
    NotApplicableError,
    Reweighing,
    ThresholdShift,
)
from fairlearn_bridge.classifier import ImageClassifier, SmallCNN
from fairlearn_bridge.comparison import (
    Samples,
    compare_mitigators,
    fit_mitigators,
    measure,
    pareto_front,
    signed_gap,
    summarize,
)
from fairlearn_bridge.distributed import AcceleratedImageClassifier
from fairlearn_bridge.inspection import cell_counts, find_confounders
from fairlearn_bridge.mitigator import AttributionNoiseMitigator
from fairlearn_bridge.noise import AttributionNoise, additive_noise, grey_out, quantile_mask
from fairlearn_bridge.protocol import ConfoundedSplit, confounded_split
from fairlearn_bridge.selection import CrossedAUC, estimate_crossed_auc

__all__ = [
    "JTT",
    "AcceleratedImageClassifier",
    "AdversarialLastLayer",
    "AttributionNoise",
    "AttributionNoiseMitigator",
    "BalancedResampling",
    "ConfoundedSplit",
    "CrossedAUC",
    "EmbeddingCorrelationRemoval",
    "GroupDRO",
    "ImageClassifier",
    "LastLayerRetraining",
    "MaskTune",
    "NotApplicableError",
    "Reweighing",
    "Samples",
    "SmallCNN",
    "ThresholdShift",
    "additive_noise",
    "cell_counts",
    "compare_mitigators",
    "confounded_split",
    "estimate_crossed_auc",
    "find_confounders",
    "fit_mitigators",
    "grey_out",
    "measure",
    "pareto_front",
    "quantile_mask",
    "signed_gap",
    "summarize",
]
