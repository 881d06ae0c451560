"""Synthetic faces in which each attribute can be toggled alone, to find and mitigate spurious attributes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from captum_region.datasets.faces.painting import draw
from captum_region.datasets.faces.scene import ATTRIBUTES, LATENTS, POSE
from captum_region.datasets.images import AttributeImages
from captum_region.randomness import RandomState, draw_seed

# Of move_x, move_y, the sine of the turn, and the part by which a face is smaller.
_POSE_LOW = np.array([-0.25, -0.2, -0.7071, 0], np.float32)
_POSE_HIGH = np.array([0.25, 0.2, 0.7071, 0.45], np.float32)


@dataclass(frozen=True, eq=False)
class Faces(AttributeImages):
    """Synthetic faces, with all that is needed to draw each of them again.

    Parameters
    ----------
    images, attributes, identities, skipped
        As in `AttributeImages`; `attributes` holds the six columns of `make_faces`.
    latents : DataFrame of N rows, float32
        The scene parameters besides the attributes, in [0, 1): pose, light, colours, shapes; one column per parameter.
        The last five say how an unaligned face is moved, and are 0 for aligned ones.
    noise_seeds : ndarray of uint64, shape (N,)
        Each face's seed of the sensor noise.

    Raises
    ------
    ValueError
        If `latents` or `noise_seeds` does not have one row per face.
    """

    latents: pd.DataFrame = field(kw_only=True)
    noise_seeds: NDArray[np.uint64] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latents", "noise_seeds"):
            if (rows := len(getattr(self, name))) != len(self):
                raise ValueError(f"{name} must have one row per face: {rows} rows, {len(self)} faces")

    def twin(self, attribute: str, selection: ArrayLike | slice = slice(None)) -> NDArray[np.uint8]:
        """Draw the counterfactuals: the same faces with `attribute` toggled and all else equal, even the noise.

        Parameters
        ----------
        attribute : {"Male", "Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat", "Dark_Skin"}
            The attribute to toggle.
        selection : slice, boolean mask of N or integer positions, default all
            The n faces to draw.

        Returns
        -------
        ndarray of uint8, shape (n, 3, height, width)

        Raises
        ------
        ValueError
            If the attribute is unknown.
        """
        if attribute not in ATTRIBUTES:
            raise ValueError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r}")
        chosen = self.positions(selection)
        flags = self.attributes[list(ATTRIBUTES)].to_numpy(bool)[chosen]
        flags[:, ATTRIBUTES.index(attribute)] ^= True
        return draw(self.latents.to_numpy(np.float32)[chosen], self.noise_seeds[chosen], flags, self.image_size)

    def truth(self, attribute: str, selection: ArrayLike | slice = slice(None)) -> NDArray[np.bool_]:
        """Return where the attribute shows: the pixels that differ between a face and its counterfactual (`twin`).

        Parameters
        ----------
        attribute, selection
            As in `twin`.

        Returns
        -------
        ndarray of bool, shape (n, height, width)

        Raises
        ------
        ValueError
            If the attribute is unknown.
        """
        chosen = self.positions(selection)
        return (self.images[chosen] != self.twin(attribute, chosen)).any(axis=1)


def make_faces(
    n: int,
    size: int | tuple[int, int] = 64,
    *,
    attributes: pd.DataFrame | Mapping[str, ArrayLike] | None = None,
    unaligned: float = 0.0,
    random_state: RandomState = None,
) -> Faces:
    """Draw synthetic faces with freely combined attributes.

    Hair length and style, hats, glasses, smiles and skin do not depend on the sex. `Male` shows in the jaw, chin, neck,
    brows, beard, lips and lashes; each of them is an uncertain cue. `Dark_Skin` is the darker half of all skin tones:
    a group to audit, not an attribute that is hard to see.

    Parameters
    ----------
    n : int
        Number of faces, at least 0.
    size : int or (height, width), default 64
        Size in pixels, at least 16. The face fits the shorter side.
    attributes : DataFrame or mapping, optional
        For each of ``Male``, ``Blond_Hair``, ``Eyeglasses``, ``Smiling``, ``Wearing_Hat`` and ``Dark_Skin`` the n
        truth values, or the probability of True as one float, by default 0.5. The index of a DataFrame is kept.
    unaligned : float, default 0
        How far faces are from the same place, in [0, 1]. At 1, each is moved by up to 0.25 of the shorter side to each
        side and 0.2 up and down, turned by up to 45 degrees, made smaller by up to 45 %, and half of them are mirrored;
        below, all of these are that much less, mirroring rarer. At 0 all have eyes and mouths at nearly the same
        pixels, as in CelebA's aligned images. Everything else about a face does not depend on it.
    random_state : int, RandomState, Generator or None, default None
        With an int, face i depends only on it and on i, not on `n`. With None, the faces differ in each call.

    Returns
    -------
    Faces
        uint8 images of shape (n, 3, height, width), and the latents that drew them.

    Raises
    ------
    TypeError
        If `n` or `size` is not an integer, `attributes` not a mapping, a column not boolean or `random_state` of
        another type.
    ValueError
        If `n` is negative, `size` below 16, a column unknown or of the wrong length, or a probability or `unaligned`
        not in [0, 1].

    Examples
    --------
    Blond hair as a spurious attribute of the sex:

    >>> male = [False, True, False, True]
    >>> faces = make_faces(4, 32, attributes={"Male": male, "Blond_Hair": [True, False, True, False]}, random_state=0)
    >>> faces.images.shape, faces.images.dtype
    ((4, 3, 32, 32), dtype('uint8'))
    >>> faces.truth("Blond_Hair", [0]).shape
    (1, 32, 32)
    >>> bool((make_faces(2, 32, random_state=1).images == make_faces(9, 32, random_state=1).images[:2]).all())
    True
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an integer, got {n!r}")
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    size = _checked_size(size)
    if not 0 <= unaligned <= 1:
        raise ValueError(f"unaligned must be in [0, 1], got {unaligned!r}")
    generator = np.random.default_rng(draw_seed(random_state))
    # A stream each, so that none shifts another when n grows.
    streams = [np.random.default_rng(seed) for seed in generator.integers(2**63, size=5)]
    latents = streams[0].random((n, len(LATENTS)), dtype=np.float32)
    coins = streams[1].random((n, len(ATTRIBUTES) - 1))
    # Below 0.5 for the darker half of the skins that were drawn, so that by default the attribute only names them.
    skin = 0.5 * (latents[:, LATENTS.index("skin")] >= 0.5) + 0.5 * streams[3].random(n)
    table = _attribute_table(n, attributes, np.column_stack([coins, skin]))
    seeds = streams[2].integers(2**63, size=n, dtype=np.uint64)
    pose = streams[4].random((n, len(POSE)), dtype=np.float32)
    pose[:, -1] = pose[:, -1] < unaligned / 2
    pose[:, :-1] = unaligned * (_POSE_LOW + (_POSE_HIGH - _POSE_LOW) * pose[:, :-1])
    latents = np.hstack([latents, pose])
    return Faces(
        draw(latents, seeds, table.to_numpy(bool), size),
        table,
        latents=pd.DataFrame(latents, columns=[*LATENTS, *POSE], index=table.index),
        noise_seeds=seeds,
    )


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in pair):
        raise TypeError(f"size must be an integer or (height, width), got {size!r}")
    if min(pair) < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size!r}")
    return int(pair[0]), int(pair[1])


def _attribute_table(n: int, given: Any, coins: NDArray[np.float64]) -> pd.DataFrame:
    columns = {} if given is None else given
    if not hasattr(columns, "keys"):
        raise TypeError(f"attributes must be a DataFrame or a mapping, got {type(given).__name__}")
    if unknown := [name for name in columns.keys() if name not in ATTRIBUTES]:  # noqa: SIM118 (DataFrame too)
        raise ValueError(f"attributes must be among {', '.join(ATTRIBUTES)}, got {unknown}")
    drawn = zip(ATTRIBUTES, coins.T, strict=True)
    table = {name: _attribute_values(name, columns.get(name, 0.5), coin) for name, coin in drawn}
    return pd.DataFrame(table, index=given.index if isinstance(given, pd.DataFrame) else None)


def _attribute_values(name: str, given: ArrayLike, coin: NDArray[np.float64]) -> NDArray[np.bool_]:
    values = np.asarray(given)
    if values.ndim == 0 and values.dtype.kind == "f":
        if not 0 <= values <= 1:
            raise ValueError(f"attributes[{name!r}] as a probability must be in [0, 1], got {given!r}")
        return coin < values
    if values.dtype.kind != "b" and values.size:
        raise TypeError(f"attributes[{name!r}] must be boolean, or one probability, got dtype {values.dtype}")
    if values.shape != coin.shape:
        raise ValueError(f"attributes[{name!r}] must have shape {coin.shape}, got {values.shape}")
    return values.astype(bool)
