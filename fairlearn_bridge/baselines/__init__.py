"""The other mitigators and controls, each a fairlearn-style estimator."""

from fairlearn_bridge.baselines.base import NotApplicableError
from fairlearn_bridge.baselines.last_layer import (
    AdversarialLastLayer,
    EmbeddingCorrelationRemoval,
    LastLayerRetraining,
    last_features,
)
from fairlearn_bridge.baselines.retraining import JTT, MaskTune
from fairlearn_bridge.baselines.thresholds import ThresholdShift
from fairlearn_bridge.baselines.weighting import BalancedResampling, GroupDRO, Reweighing

__all__ = [
    "JTT",
    "AdversarialLastLayer",
    "BalancedResampling",
    "EmbeddingCorrelationRemoval",
    "GroupDRO",
    "LastLayerRetraining",
    "MaskTune",
    "NotApplicableError",
    "Reweighing",
    "ThresholdShift",
    "last_features",
]
