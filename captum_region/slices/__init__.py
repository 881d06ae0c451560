"""Does a 2D+ network lean to one slice, why, and what takes that away: first layers compared, checkpoints inspected."""

from captum_region.slices.compare import compare_first_layers
from captum_region.slices.inspection import SliceInspection, inspect_slices
from captum_region.slices.results import FirstLayerComparison

__all__ = ["FirstLayerComparison", "SliceInspection", "compare_first_layers", "inspect_slices"]
