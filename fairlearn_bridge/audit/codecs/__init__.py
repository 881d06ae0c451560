"""Codecs to audit: Pillow's, principal components, neural ones; the quality that reaches a rate."""

import lazy_loader

# The names are those of __init__.pyi, each imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
