"""A trained model to keep: saved without pickle, described, applied to many images, exported."""

import lazy_loader

# The names are those of __init__.pyi, each imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
