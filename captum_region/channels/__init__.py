"""Which channels, such as the slices of a stack, a network attends to: shares of any Captum attribution by channel."""

from captum_region.channels.attribution import ChannelAttribution, channel_mask
from captum_region.channels.segmentation import SegmentationEvidence, segmentation_evidence
from captum_region.channels.shares import ChannelShares, channel_shares, slice_asymmetry
from captum_region.channels.symmetry import KernelAsymmetry, SwapTest, kernel_asymmetry, swap_test

__all__ = [
    "ChannelAttribution",
    "ChannelShares",
    "KernelAsymmetry",
    "SegmentationEvidence",
    "SwapTest",
    "channel_mask",
    "channel_shares",
    "kernel_asymmetry",
    "segmentation_evidence",
    "slice_asymmetry",
    "swap_test",
]
