from .activations import activation_ratio
from .codecs import Codec, ModelCodec, PCACodec, PillowCodec, RateReached, quality_for_rate, train_codec
from .distortions import Distortion
from .engine import audit
from .pruning import ModelChange, Pruning
from .result import DegradationAudit

__all__ = [
    "Codec",
    "DegradationAudit",
    "Distortion",
    "ModelChange",
    "ModelCodec",
    "PCACodec",
    "PillowCodec",
    "Pruning",
    "RateReached",
    "activation_ratio",
    "audit",
    "quality_for_rate",
    "train_codec",
]
