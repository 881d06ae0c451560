from .attribution import MultiScaleRegionAttribution, RegionAttribution
from .classifiers import DenseRegionClassifier, PatchRegionClassifier, RegionClassifier
from .confidence import margin, negative_entropy, top_softmax
from .display import RegionMapDisplay
from .grid import RegionGrid
from .io.checkpoint import load_classifier, save_classifier
from .maps import RegionMaps, attribute_dataset
from .slices import compare_first_layers
from .training import RegionTraining, fit_region_classifier

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
    "compare_first_layers",
    "fit_region_classifier",
    "load_classifier",
    "margin",
    "negative_entropy",
    "save_classifier",
    "top_softmax",
]
