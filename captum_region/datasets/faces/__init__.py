"""Drawn faces whose every attribute can be toggled alone, for finding and mitigating confounders."""

from captum_region.datasets.faces.scene import ATTRIBUTES
from captum_region.datasets.faces.synthetic import Faces, make_faces

__all__ = ["ATTRIBUTES", "Faces", "make_faces"]
