"""Region maps compared with other attribution methods: localisation, where the truth is known, and faithfulness."""

from captum_region.saliency.choice import choose_methods, smoothed
from captum_region.saliency.compare import SaliencyComparison, compare_saliency, saliency_table
from captum_region.saliency.methods import captum_methods, floors, region_methods, superpixel_methods
from captum_region.saliency.study import Study, study_attribute

__all__ = [
    "SaliencyComparison",
    "Study",
    "captum_methods",
    "choose_methods",
    "compare_saliency",
    "floors",
    "region_methods",
    "saliency_table",
    "smoothed",
    "study_attribute",
    "superpixel_methods",
]
