from .card import ModelCard
from .folder import load_mitigator, save_mitigator

__all__ = [
    "ModelCard",
    "load_mitigator",
    "save_mitigator",
]
