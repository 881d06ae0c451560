"""Synthetic faces in which each attribute can be toggled alone, to find and mitigate spurious attributes."""

from captum_region.datasets.faces.scene import ATTRIBUTES
from captum_region.datasets.faces.synthetic import Faces, make_faces

__all__ = ["ATTRIBUTES", "Faces", "make_faces"]
