"""Region classifiers against each other and against what else makes maps: how fast, how good."""

from captum_region.comparison.saliency import SaliencyComparison, compare_saliency

__all__ = ["SaliencyComparison", "compare_saliency"]
