"""attrlib: attribution maps of image classifiers, and which of them to trust.

The names in `__init__.pyi` are imported when they are first used, so that `import attrlib` takes no time.
"""

import lazy_loader

import attrlib._openmp
import attrlib._torchvision  # noqa: F401  before torchvision is imported, by anybody

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
