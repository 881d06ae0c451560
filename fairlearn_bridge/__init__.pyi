from .baselines import (
    JTT,
    AdversarialLastLayer,
    BalancedResampling,
    EmbeddingCorrelationRemoval,
    GroupDRO,
    LastLayerRetraining,
    LearningFromFailure,
    LowSpuriosityRetraining,
    MaskTune,
    NotApplicableError,
    Reweighing,
    ThresholdShift,
)
from .classifier import ImageClassifier
from .comparison import compare_mitigators, fit_mitigators
from .deployment import ModelCard, export_mitigator, load_mitigator, save_mitigator
from .distributed import AcceleratedImageClassifier
from .holdout import HoldoutSplit, holdout_split
from .inspection import cell_counts, find_confounders
from .metrics import measure, pareto_front, signed_gap, summarize
from .mitigation import Mitigation, MitigationConfig, MitigationData, mitigate
from .mitigator import AttributionNoiseMitigator
from .networks import PretrainedClassifier, SmallCNN
from .noise import AttributionNoise, additive_noise, grey_out, published_noise, quantile_mask
from .overlap import AttributeOverlap, attribute_overlap, map_overlap
from .perturbed import PerturbedDataset, fit_noise
from .protocol import ConfoundedSplit, confounded_split
from .samples import Samples
from .selection import CrossedAUC, estimate_crossed_auc
from .spuriosity import RankingGap, rank_by_evidence, ranking_gap
from .threshold import worst_group_threshold

__all__ = [
    "JTT",
    "AcceleratedImageClassifier",
    "AdversarialLastLayer",
    "AttributeOverlap",
    "AttributionNoise",
    "AttributionNoiseMitigator",
    "BalancedResampling",
    "ConfoundedSplit",
    "CrossedAUC",
    "EmbeddingCorrelationRemoval",
    "GroupDRO",
    "HoldoutSplit",
    "ImageClassifier",
    "LastLayerRetraining",
    "LearningFromFailure",
    "LowSpuriosityRetraining",
    "MaskTune",
    "Mitigation",
    "MitigationConfig",
    "MitigationData",
    "ModelCard",
    "NotApplicableError",
    "PerturbedDataset",
    "PretrainedClassifier",
    "RankingGap",
    "Reweighing",
    "Samples",
    "SmallCNN",
    "ThresholdShift",
    "additive_noise",
    "attribute_overlap",
    "cell_counts",
    "compare_mitigators",
    "confounded_split",
    "estimate_crossed_auc",
    "export_mitigator",
    "find_confounders",
    "fit_mitigators",
    "fit_noise",
    "grey_out",
    "holdout_split",
    "load_mitigator",
    "map_overlap",
    "measure",
    "mitigate",
    "pareto_front",
    "published_noise",
    "quantile_mask",
    "rank_by_evidence",
    "ranking_gap",
    "save_mitigator",
    "signed_gap",
    "summarize",
    "worst_group_threshold",
]
