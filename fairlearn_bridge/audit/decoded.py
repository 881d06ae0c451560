"""Decoded: degraded images as PNG files, a folder each degradation, whole or not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from captum_region.io.files import PARTIAL, plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Decoded:
    """Writes what `audit` hands to ``on_images``: ``folder/DEGRADATION/IMAGE.png``.

    Parameters
    ----------
    folder : path
        Made, with its parents.
    names : iterable
        Of the images: file names, whose suffix is replaced, or numbers.
    """

    def __init__(self, folder: Path, names: Iterable[Any]) -> None:
        self.folder = folder
        given = [str(name) for name in names]
        self.names = [plain_name(str(Path(name).with_suffix(""))) for name in given]
        if len(set(self.names)) < len(given):  # such as 1.png and 1.jpg
            self.names = [f"{number}_{plain_name(name)}" for number, name in enumerate(given)]

    def __call__(self, name: str, start: int, images: NDArray[np.uint8]) -> None:
        """Write a batch of images, the first of which is number `start`; after the last, the folder gets its name."""
        beside, folder = (self.folder / f"{prefix}{plain_name(name)}" for prefix in (PARTIAL, ""))
        if start == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        for number, image in enumerate(images, start):
            picture = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
            Image.fromarray(picture).save(beside / f"{self.names[number]}.png")
        if start + len(images) == len(self.names):
            shutil.rmtree(folder, ignore_errors=True)
            beside.rename(folder)
