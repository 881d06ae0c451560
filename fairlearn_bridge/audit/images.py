"""Images as the bytes that are degraded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captum_region.batches import ImageData


def as_bytes(images: ImageData) -> NDArray[np.uint8]:
    """Return images, uint8 or float in [0, 1], as an array of uint8, floats rounded to the nearest.

    Examples
    --------
    >>> import torch
    >>> as_bytes(torch.tensor([0.0, 0.5, 1.0]))
    array([  0, 128, 255], dtype=uint8)
    """
    tensor = images if isinstance(images, Tensor) else torch.from_numpy(images.copy())
    tensor = tensor if tensor.dtype == torch.uint8 else tensor.double().mul(255).round().byte()
    return tensor.numpy(force=True)
