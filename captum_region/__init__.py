"""Where in images the information about an attribute sits: region attribution for Captum."""

from captum_region.attribution import MultiScaleRegionAttribution, RegionAttribution
from captum_region.checkpoint import load_classifier, save_classifier
from captum_region.classifiers import DenseRegionClassifier, PatchRegionClassifier, RegionClassifier
from captum_region.confidence import margin, negative_entropy, top_softmax
from captum_region.display import RegionMapDisplay
from captum_region.grid import RegionGrid
from captum_region.maps import RegionMaps, attribute_dataset
from captum_region.training import RegionTraining, fit_region_classifier

__all__ = [
    "DenseRegionClassifier",
    "MultiScaleRegionAttribution",
    "PatchRegionClassifier",
    "RegionAttribution",
    "RegionClassifier",
    "RegionGrid",
    "RegionMapDisplay",
    "RegionMaps",
    "RegionTraining",
    "attribute_dataset",
    "fit_region_classifier",
    "load_classifier",
    "margin",
    "negative_entropy",
    "save_classifier",
    "top_softmax",
]
