from .card import ModelCard
from .export import export_mitigator
from .folder import load_mitigator, save_mitigator

__all__ = [
    "ModelCard",
    "export_mitigator",
    "load_mitigator",
    "save_mitigator",
]
