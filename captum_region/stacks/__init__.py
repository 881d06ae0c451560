"""2D+ segmentation's data: volumes from files, windows of neighbouring slices, synthetic stacks of known truth."""

from captum_region.stacks.stack import Stack, read_stack
from captum_region.stacks.synthetic import make_stack
from captum_region.stacks.volumes import read_volume
from captum_region.stacks.windows import RandomPatches, SliceWindows

__all__ = ["RandomPatches", "SliceWindows", "Stack", "make_stack", "read_stack", "read_volume"]
