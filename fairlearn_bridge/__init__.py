"""Train image classifiers without a spurious attribute, and compare the ways to do so, in fairlearn's terms."""

import lazy_loader

# The names are those of __init__.pyi, each imported when it is first used: a command's --help need not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
