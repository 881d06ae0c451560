"""Images with attributes: synthetic faces with exact truth, and readers of real data sets."""

from captum_region.datasets.conversion import from_dataset
from captum_region.datasets.faces import Faces, make_faces
from captum_region.datasets.images import AttributeImages
from captum_region.datasets.readers import load_celeba, load_fairface, load_table, load_utkface, read_attributes

__all__ = [
    "AttributeImages",
    "Faces",
    "from_dataset",
    "load_celeba",
    "load_fairface",
    "load_table",
    "load_utkface",
    "make_faces",
    "read_attributes",
]
