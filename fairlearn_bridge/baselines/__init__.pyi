from .base import NotApplicableError
from .failure import LearningFromFailure
from .last_layer import (
    AdversarialLastLayer,
    EmbeddingCorrelationRemoval,
    LastLayerRetraining,
    last_features,
)
from .low_spuriosity import LowSpuriosityRetraining
from .retraining import JTT, MaskTune
from .thresholds import ThresholdShift
from .weighting import BalancedResampling, GroupDRO, Reweighing

__all__ = [
    "JTT",
    "AdversarialLastLayer",
    "BalancedResampling",
    "EmbeddingCorrelationRemoval",
    "GroupDRO",
    "LastLayerRetraining",
    "LearningFromFailure",
    "LowSpuriosityRetraining",
    "MaskTune",
    "NotApplicableError",
    "Reweighing",
    "ThresholdShift",
    "last_features",
]
