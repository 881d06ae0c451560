"""RegionClassifier and its two kinds: one sees patches one by one, one does all regions of an image in one pass."""

from captum_region.classifiers.base import Recipe, RegionClassifier, forward_regions
from captum_region.classifiers.dense import DenseRegionClassifier
from captum_region.classifiers.patch import PatchRegionClassifier

__all__ = [
    "DenseRegionClassifier",
    "PatchRegionClassifier",
    "Recipe",
    "RegionClassifier",
    "forward_regions",
]
