"""A classifier of the user's own images as they are: trained without a shortcut, measured, kept."""

import lazy_loader

# The names are those of __init__.pyi, each imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
