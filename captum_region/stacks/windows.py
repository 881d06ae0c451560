"""Windows of neighbouring slices, read one by one, and random patches of them for training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_region.randomness import RandomState, draw_seed
from captum_region.stacks.stack import WHOLE, Pixels, Stack
from captum_region.stacks.volumes import Volume
from captum_region.validation import check_count

BORDERS = ("reflect", "drop")


class SliceWindows(Dataset[Any]):
    """The windows of a stack: each slice with its neighbours as the channels of an image.

    A torch Dataset and a sequence. A window is read when it is asked for; of a memory map, only its slices.

    Parameters
    ----------
    stack : Stack or ndarray, shape (D, height, width)
        An array is a stack without labels.
    window : int, default=3
        How many slices a window has: an odd number W = 2k + 1.
    border : {"reflect", "drop"}, default="reflect"
        What the first and last k slices get. With "reflect" the stack is mirrored at its first and last slice, which
        are not repeated: before slice 0 come slices 1, 2, ... With "drop" they are centre of no window.

    Attributes
    ----------
    centres : range
        The number of each window's centre slice.

    Raises
    ------
    TypeError, ValueError
        If the window is even or larger than the stack allows, or the border unknown.

    See Also
    --------
    RandomPatches : Parts of windows, for training.

    Notes
    -----
    Item i is a pair: the window, a float32 Tensor of shape (W, height, width) in [0, 1], in the order previous ...
    centre ... next; and the classes of the centre slice, an int64 Tensor of shape (height, width). If the stack has no
    labels, it is the window alone.

    Examples
    --------
    >>> volume = np.arange(4, dtype=np.uint8)[:, None, None] * np.full((8, 8), 51, np.uint8)
    >>> windows = SliceWindows(volume)
    >>> len(windows), [round(float(value), 1) for value in windows[0][:, 0, 0]]
    (4, [0.2, 0.0, 0.2])
    >>> len(SliceWindows(volume, border="drop"))
    2
    """

    def __init__(self, stack: Stack | Volume, *, window: int = 3, border: str = "reflect") -> None:
        self.stack = stack if isinstance(stack, Stack) else Stack(stack)
        self.window = check_count("window", window)
        if self.window % 2 == 0:
            raise ValueError(f"window must be odd, so that it has a centre; got {window}")
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(map(repr, BORDERS))}, got {border!r}")
        self.border = border
        side, depth = self.window // 2, len(self.stack)
        if (border == "reflect" and side >= depth) or (border == "drop" and self.window > depth):
            raise ValueError(f"window must fit into the stack, {window} slices do not fit into {depth} ({border})")
        self.centres = range(side, depth - side) if border == "drop" else range(depth)

    def __len__(self) -> int:
        return len(self.centres)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | Tensor:
        return self.read(index)

    def read(self, index: int, pixels: Pixels = WHOLE) -> tuple[Tensor, Tensor] | Tensor:
        """Return item `index`, or a part of its pixels: slices of rows and of columns.

        Raises
        ------
        IndexError
            If there is no such window.
        """
        centre = self.centres[index]
        images = torch.from_numpy(np.stack([self.stack.image(number, pixels) for number in self.slices(index)]))
        if self.stack.labels is None:
            return images
        return images, torch.from_numpy(self.stack.label(centre, pixels))

    def slices(self, index: int) -> list[int]:
        """Return the numbers of the slices in a window, in order.

        Examples
        --------
        >>> SliceWindows(np.zeros((6, 8, 8), np.uint8), window=5).slices(5)
        [3, 4, 5, 4, 3]
        """
        last, side = len(self.stack) - 1, self.window // 2
        numbers = range(self.centres[index] - side, self.centres[index] + side + 1)
        return [last - abs(last - abs(number)) for number in numbers]

    def digest(self) -> str:
        """Return a digest of all that decides the windows."""
        return f"{self.stack.digest()} {self.window} {self.border}"


class RandomPatches(Dataset[Any]):
    """Random square parts of windows, for training.

    The slices of a window are cut, turned and mirrored together, and with their label: augmented one by one, they would
    no longer lie above each other. Patch i depends on `random_state` and i alone, so the order in which a DataLoader's
    workers make them does not matter. (Workers that are not forked get a copy of the volume, also of a memory map.)

    Parameters
    ----------
    windows : SliceWindows, or a sequence of them
        All with labels and of one window. Each window is drawn equally often.
    size : int
        Side of the patches in pixels.
    length : int, default=1000
        How many patches a pass of a DataLoader has. Patches beyond it can be asked for as well.
    augment : bool, default=True
        Turn the patches by a random multiple of 90 degrees, and mirror half of them.
    flip_z : bool, default=False
        Reverse the order of the slices in half of the patches: previous and next change places. This changes what the
        network can learn, see the arm "stacks flipped at random" of `captum_region.slices`.
    random_state : int, NumPy generator or None
        Decides the patches.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.

    Examples
    --------
    >>> from captum_region.stacks import make_stack
    >>> patches = RandomPatches(SliceWindows(make_stack(random_state=0)), 32, random_state=0)
    >>> window, label = patches[0]
    >>> window.shape, label.shape
    (torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """

    def __init__(
        self,
        windows: SliceWindows | Sequence[SliceWindows],
        size: int,
        *,
        length: int = 1000,
        augment: bool = True,
        flip_z: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.windows = as_windows(windows, name="windows")
        self.size = check_count("size", size)
        self.length = check_count("length", length)
        for each in self.windows:
            if min(each.stack.image_size) < self.size:
                raise ValueError(
                    f"size must be at most the side of the slices, {size} is more than that of {each.stack.name}, "
                    f"{each.stack.image_size[0]} x {each.stack.image_size[1]}"
                )
        self.augment, self.flip_z = augment, flip_z
        self.seed = draw_seed(random_state)
        self._ends = np.cumsum([len(each) for each in self.windows])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index < 0:
            raise IndexError(f"index must be at least 0, got {index}")
        rng = np.random.default_rng((self.seed, index))
        drawn = int(rng.integers(self._ends[-1]))
        volume = int(np.searchsorted(self._ends, drawn, side="right"))
        windows = self.windows[volume]
        top, left = (int(rng.integers(side - self.size + 1)) for side in windows.stack.image_size)
        images, labels = windows.read(
            drawn - int(self._ends[volume]), np.s_[top : top + self.size, left : left + self.size]
        )
        # Drawn in any case, so that patches with and without augmentation are of the same places.
        turns, is_mirrored, is_reversed = rng.integers((4, 2, 2))
        if self.augment:
            images, labels = (part.rot90(int(turns), (-2, -1)) for part in (images, labels))
            images, labels = (part.flip(-1) if is_mirrored else part for part in (images, labels))
        return images.flip(0) if self.flip_z and is_reversed else images, labels


def as_windows(windows: Any, *, name: str) -> list[SliceWindows]:
    """Return windows with labels, of one or several stacks, as a list; TypeError or ValueError if they do not fit."""
    found = [windows] if isinstance(windows, SliceWindows) else list(windows) if isinstance(windows, Sequence) else None
    if not found or not all(isinstance(each, SliceWindows) for each in found):
        raise TypeError(f"{name} must be SliceWindows, or a sequence of them, got {type(windows).__name__}")
    for each in found:
        if each.stack.labels is None:
            raise ValueError(f"{name} must have labels, those of {each.stack.name} have none")
    if len({each.window for each in found}) > 1:
        raise ValueError(f"{name} must all have one window, got {sorted({each.window for each in found})}")
    return found
