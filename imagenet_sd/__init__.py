"""imagenet-sd: a list of classes becomes a synthetic image dataset, an encoder, and its accuracy.

The public names stand in `__init__.pyi`. They are loaded on first use, so importing the package costs nothing and does
not import torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__.append("__version__")
