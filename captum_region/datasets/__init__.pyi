from .conversion import from_dataset
from .faces import Faces, make_faces
from .images import AttributeImages
from .readers import load_celeba, load_fairface, load_table, load_utkface, read_attributes

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
