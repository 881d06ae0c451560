"""The former name of `captum_region.saliency`, kept importable."""

from captum_region.saliency import *  # noqa: F403
from captum_region.saliency import __all__ as __all__
