from .base import Codec
from .model import ModelCodec
from .pca import PCACodec
from .pillow import PillowCodec
from .rate import RateReached, quality_for_rate
from .training import train_codec

__all__ = [
    "Codec",
    "ModelCodec",
    "PCACodec",
    "PillowCodec",
    "RateReached",
    "quality_for_rate",
    "train_codec",
]
