from .celeba import load_celeba
from .conversion import from_dataset
from .faces import Faces, make_faces
from .fairface import load_fairface
from .images import AttributeImages
from .properties import image_properties, property_attribute
from .readers import read_attributes
from .tables import load_table
from .utkface import load_utkface

__all__ = [
    "AttributeImages",
    "Faces",
    "from_dataset",
    "image_properties",
    "load_celeba",
    "load_fairface",
    "load_table",
    "load_utkface",
    "make_faces",
    "property_attribute",
    "read_attributes",
]
