"""The other mitigators and controls, each a fairlearn-style estimator."""

import lazy_loader

# The names are those of __init__.pyi, each imported when it is first used: fairlearn's adversaries take their time.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
