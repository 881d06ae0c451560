"""2D+ segmentation: networks with pretrained encoders or a small one of our own, their training, their scores."""

from captum_region.segmentation.networks import SegmentationNetwork, segmentation_network
from captum_region.segmentation.scores import segmentation_scores
from captum_region.segmentation.training import SegmentationTraining, fit_segmentation
from captum_region.segmentation.unet import SmallUNet

__all__ = [
    "SegmentationNetwork",
    "SegmentationTraining",
    "SmallUNet",
    "fit_segmentation",
    "segmentation_network",
    "segmentation_scores",
]
