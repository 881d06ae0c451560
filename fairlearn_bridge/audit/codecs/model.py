"""ModelCodec: any model with CompressAI's compress and decompress, as a codec with real bytes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_region.batches import as_floats
from captum_region.evaluation import device_of
from fairlearn_bridge.audit.codecs.base import check_uint8, read_numbers, write_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fairlearn_bridge.audit.codecs.base import Shape

_PADDING = 64


class ModelCodec:
    """A neural codec: a model with CompressAI's interface and real entropy coding.

    Images are padded by repeating their edges and coded one by one, as a decoder's rounding may depend on the batch.
    An image's bytes hold every string of the model, their lengths and the shape of the latent, so that nothing else is
    needed to decode them but the image's shape.

    Parameters
    ----------
    model : nn.Module
        With ``compress(images) -> {"strings": [[bytes], ...], "shape": (height, width)}`` and ``decompress(strings,
        shape) -> {"x_hat": images}``, of images 1 x C x height x width in [0, 1], as CompressAI's models. It is copied
        and left as it is; the copy's tables for the entropy coder are updated, if it has ``update``. In CompressAI a
        model that has been updated does not load another's weights: load them first.
    name : str, default="model"
    severity : optional
        What tables show besides the name, such as the trade-off that the model was trained with.
    padding : int, optional
        Height and width are padded to multiples of it. By default the model's ``downsampling_factor``, or 64.

    Raises
    ------
    TypeError, ValueError
        If `model` does not have the methods or `padding` is below 1.

    See Also
    --------
    train_codec : Train a model of CompressAI on your own images.

    Notes
    -----
    CompressAI asks for numpy below 2, but works with numpy 2 when it is installed without its dependencies:
    ``pip install --no-deps compressai`` and ``pip install torch-geometric einops tomli pybind11 pytorch-msssim``.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from torch import nn
    >>> from torch.nn import functional as F
    >>> class Halves(nn.Module):
    ...     downsampling_factor = 2
    ...
    ...     def compress(self, x):
    ...         small = (F.avg_pool2d(x, 2) * 255).byte()
    ...         return {"strings": [[small.numpy().tobytes()]], "shape": small.shape[2:]}
    ...
    ...     def decompress(self, strings, shape):
    ...         small = torch.frombuffer(bytearray(strings[0][0]), dtype=torch.uint8).reshape(1, -1, *shape)
    ...         return {"x_hat": F.interpolate(small / 255, scale_factor=2)}
    >>> codec = ModelCodec(Halves(), "halves")
    >>> data = codec.encode(np.full((1, 3, 5, 7), 100, np.uint8))
    >>> len(data[0]), codec.decode(data, (3, 5, 7)).shape
    (40, (1, 3, 5, 7))
    """

    threads = False

    def __init__(self, model: nn.Module, name: str = "model", *, severity: Any = None, padding: int | None = None):
        for method in ("compress", "decompress"):
            if not callable(getattr(model, method, None)):
                raise TypeError(f"model must have a method {method}, as CompressAI's have; got {type(model).__name__}")
        self.model: Any = copy.deepcopy(model).eval()
        update = getattr(self.model, "update", None)
        if callable(update):
            update(force=True)
        self.name = name
        self.severity = severity
        self.padding = int(getattr(model, "downsampling_factor", _PADDING)) if padding is None else padding
        if self.padding < 1:
            raise ValueError(f"padding must be at least 1, got {padding}")

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """Return the bytes of each image, N x C x height x width of uint8.

        Raises
        ------
        TypeError, ValueError
            If the images are not that, or the model's ``compress`` returns something else than is asked for.
        """
        data = []
        for image in torch.from_numpy(np.array(check_uint8(images))):
            padded = pad_edges(as_floats(image[None]).to(device_of(self.model)), self.padding)
            with torch.inference_mode():
                data.append(_packed(self.model.compress(padded)))
        return data

    def overhead(self, shape: Shape) -> int:
        """Return how many bytes the latent's shape and the strings' lengths take, of a flat grey image of `shape`."""
        (data,) = self.encode(np.full((1, *shape), 128, np.uint8))
        strings, _ = _unpacked(data)
        return len(data) - sum(len(each[0]) for each in strings)

    def decode(self, data: Sequence[bytes], shape: Shape) -> NDArray[np.uint8]:
        """Return the images of bytes, shape (N, channels, height, width).

        Raises
        ------
        ValueError
            If bytes are truncated or not of this model, or hold an image of another size.
        """
        images = np.empty((len(data), *shape), np.uint8)
        for position, one in enumerate(data):
            try:
                strings, latent = _unpacked(one)
                with torch.inference_mode():
                    decoded = self.model.decompress(strings, latent)["x_hat"]
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a model's decoder raises nearly any on bytes that are not its own
                raise ValueError(f"the bytes of image {position} are not of this model: {error}") from error
            images[position] = self._cropped(decoded, shape, position)
        return images

    def _cropped(self, decoded: Tensor, shape: Shape, position: int) -> NDArray[np.uint8]:
        channels, height, width = shape
        padded = (1, channels, *(-(-side // self.padding) * self.padding for side in (height, width)))
        if tuple(decoded.shape) != padded:
            raise ValueError(f"image {position} must be decoded to {padded}, padded; got {tuple(decoded.shape)}")
        image = decoded[0, :, :height, :width].clamp(0, 1).mul(255).round().byte()
        return image.numpy(force=True)


def pad_edges(images: Tensor, multiple: int) -> Tensor:
    """Return images N x C x height x width padded at the right and the bottom to multiples, by repeating their edges.

    Examples
    --------
    >>> import torch
    >>> pad_edges(torch.arange(3.0).reshape(1, 1, 1, 3), 2)[0, 0]
    tensor([[0., 1., 2., 2.],
            [0., 1., 2., 2.]])
    """
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _packed(compressed: Any) -> bytes:
    """Return the latent's shape, the number of strings, their lengths, and the strings, of one image."""
    if not isinstance(compressed, Mapping) or not {"strings", "shape"} <= compressed.keys():
        raise ValueError(f"model.compress must return a dict with strings and shape, got {type(compressed).__name__}")
    strings, shape = compressed["strings"], tuple(compressed["shape"])
    if len(shape) != 2 or not all(len(each) == 1 and isinstance(each[0], bytes) for each in strings):
        raise ValueError(f"model.compress must return lists of one string an image and a shape of 2, got shape {shape}")
    numbers = [*map(int, shape), len(strings), *(len(each[0]) for each in strings)]
    return b"".join([*map(write_number, numbers), *(each[0] for each in strings)])


def _unpacked(data: bytes) -> tuple[list[list[bytes]], tuple[int, int]]:
    numbers = read_numbers(data)
    (height, _), (width, _), (count, end) = (next(numbers, (0, len(data))) for _ in range(3))
    lengths: list[int] = []
    for _ in range(min(count, len(data))):
        length, end = next(numbers, (len(data), len(data)))
        lengths.append(length)
    if not lengths or end + sum(lengths) != len(data):
        raise ValueError(f"there are {len(data)} bytes, their lengths say {end + sum(lengths)}")
    strings = []
    for length in lengths:
        strings.append([data[end : end + length]])
        end += length
    return strings, (height, width)
