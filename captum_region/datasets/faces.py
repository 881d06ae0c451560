"""Drawn faces whose every attribute can be toggled alone, for finding and mitigating confounders."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from captum_region.datasets.images import AttributeImages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Self

    from numpy.typing import ArrayLike, NDArray

    # Always float32; to numpy's stubs, though not to numpy, its product with a Python float is a float64.
    Plane: TypeAlias = NDArray[Any]

ATTRIBUTES = ("Male", "Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat")

# Each is uniform in [0, 1) and independent of the attributes, so that a toggled attribute leaves all of them alone.
_LATENTS = """
shift_x shift_y rotation scale aspect light_x light_y brightness contrast cast_warm blur noise
wall_r wall_g wall_b wall_end_r wall_end_g wall_end_b wall_mark_r wall_mark_g wall_mark_b
wall_x wall_y wall_kind wall_waves wall_phase wall_strength shirt_r shirt_g shirt_b shoulders neckline
skin skin_hue face_width ears rim blush part hairline fringe_tilt side_locks
hair_colour hair_brightness hair_length hair_volume hair_taper hair_square hair_curls hair_strands
eye_gap eye_height eye_width eye_open gaze iris brow_colour brow_arch brow_slope nose_width nose_length
mouth_height mouth_width mouth_curve mouth_open teeth shadow_r shadow_g shadow_b
jaw_width jaw_square chin neck brow_thick brow_low beard moustache lip_full lip_red lashes eye_shadow
frame_r frame_g frame_b glass_width glass_height glass_round glass_thick glass_tint
hat_r hat_g hat_b hat_kind hat_line hat_height hat_side
""".split()  # noqa: SIM905 (a list of strings is hard to read)
_COLUMN = {name: column for column, name in enumerate(_LATENTS)}

_SKIN = [(0.30, 0.18, 0.12), (0.52, 0.34, 0.23), (0.76, 0.56, 0.42), (0.90, 0.71, 0.57), (0.98, 0.84, 0.75)]
_BLOND = [(0.57, 0.42, 0.22), (0.74, 0.57, 0.30), (0.86, 0.70, 0.40), (0.93, 0.82, 0.58), (0.95, 0.89, 0.74)]
_IRIS = [(0.12, 0.07, 0.04), (0.30, 0.18, 0.08), (0.32, 0.36, 0.16), (0.35, 0.42, 0.45), (0.22, 0.42, 0.62)]
_NOT_BLOND = [
    *[(0.50, 0.50, 0.51), (0.20, 0.19, 0.19), (0.07, 0.06, 0.07), (0.20, 0.12, 0.08), (0.33, 0.21, 0.13)],
    *[(0.46, 0.32, 0.21), (0.40, 0.19, 0.10), (0.58, 0.24, 0.10)],
]

# How far one cue of the sex spreads about its mean, in distances between the two means, and how far these lie apart,
# in those written with each cue. No cue alone is sure, all of them together nearly are; and they show enough at 48 px
# for a small network to learn them from 2,400 faces (at 1.6 and 1 it leant on the hair alone).
_SPREAD = 1.0
_DISTANCE = 1.4
# Planes of one chunk should stay in the processor's cache.
_CHUNK_PIXELS = 2**17


@dataclass(frozen=True, eq=False)
class Faces(AttributeImages):
    """Drawn faces, with all that is needed to draw each of them again.

    Parameters
    ----------
    images, attributes, identities, skipped
        As in `AttributeImages`; `attributes` holds the five columns of `make_faces`.
    latents : DataFrame of N rows, float32 in [0, 1)
        The scene parameters besides the attributes: pose, light, colours, shapes. One column a parameter.
    noise_seeds : ndarray of uint64, shape (N,)
        Seed of the sensor noise of each face.

    Raises
    ------
    ValueError
        If `latents` or `noise_seeds` has not one row a face.
    """

    latents: pd.DataFrame = field(kw_only=True)
    noise_seeds: NDArray[np.uint64] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latents", "noise_seeds"):
            if len(getattr(self, name)) != len(self):
                raise ValueError(f"{name} must have a row a face: {len(getattr(self, name))} rows, {len(self)} faces")

    def subset(self, selection: ArrayLike | slice) -> Self:
        """Return the faces at `selection`: a slice, a boolean mask of N, or integer positions."""
        chosen = self.positions(selection)
        # The base cuts what it knows with `replace`, which checks the lengths, so all is cut in one go here.
        return replace(
            self,
            images=self.images[chosen],
            attributes=self.attributes.iloc[chosen],
            identities=None if self.identities is None else self.identities[chosen],
            latents=self.latents.iloc[chosen],
            noise_seeds=self.noise_seeds[chosen],
        )

    def twin(self, attribute: str, selection: ArrayLike | slice = slice(None)) -> NDArray[np.uint8]:
        """Draw the same faces with `attribute` toggled and everything else equal, the noise of each pixel too.

        Parameters
        ----------
        attribute : {"Male", "Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat"}
        selection : slice, boolean mask of N or integer positions, default all
            Which faces: n of N.

        Returns
        -------
        ndarray of uint8, shape (n, 3, height, width)

        Raises
        ------
        ValueError
            If there is no such attribute.
        """
        if attribute not in ATTRIBUTES:
            raise ValueError(f"attribute must be one of {', '.join(ATTRIBUTES)}, got {attribute!r}")
        chosen = self.positions(selection)
        flags = self.attributes[list(ATTRIBUTES)].to_numpy(bool)[chosen]
        flags[:, ATTRIBUTES.index(attribute)] ^= True
        return _draw(self.latents.to_numpy(np.float32)[chosen], self.noise_seeds[chosen], flags, self.image_size)

    def truth(self, attribute: str, selection: ArrayLike | slice = slice(None)) -> NDArray[np.bool_]:
        """Return where the attribute shows: the pixels in which a face and its `twin` differ.

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
            If there is no such attribute.
        """
        chosen = self.positions(selection)
        differs: NDArray[np.bool_] = (self.images[chosen] != self.twin(attribute, chosen)).any(axis=1)
        return differs


def make_faces(
    n: int,
    size: int | tuple[int, int] = 64,
    *,
    attributes: pd.DataFrame | Mapping[str, ArrayLike] | None = None,
    random_state: int | np.random.RandomState | np.random.Generator | None = None,
) -> Faces:
    """Draw faces with freely combined attributes.

    Hair length and style, hats, glasses and smiles say nothing of the sex: `Male` shows in the jaw, chin, neck, brows,
    beard, lips and lashes, each of them an unsure cue.

    Parameters
    ----------
    n : int
        Number of faces, at least 0.
    size : int or (height, width), default 64
        Size in pixels, at least 16. The face fits the shorter side.
    attributes : DataFrame or mapping, optional
        For each of ``Male``, ``Blond_Hair``, ``Eyeglasses``, ``Smiling`` and ``Wearing_Hat`` the n truth values, or
        the probability of True as one float. An attribute not given is a fair coin. A DataFrame's index is kept.
    random_state : int, RandomState, Generator or None, default None
        With an int, face i depends on it and on i alone, not on `n`. None draws fresh entropy.

    Returns
    -------
    Faces
        uint8 images of shape (n, 3, height, width), and the latents that drew them.

    Raises
    ------
    TypeError
        If `n` or `size` is no integer, `attributes` no mapping, a column not boolean or `random_state` of another type.
    ValueError
        If `n` is negative, `size` below 16, a column unknown or of the wrong length, or a probability not in [0, 1].

    Examples
    --------
    Blond hair that tells the sex:

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
    height, width = _checked_size(size)
    # A stream each, so that none shifts another when n grows.
    streams = [np.random.default_rng(seed) for seed in _generator(random_state).integers(2**63, size=3)]
    latents = streams[0].random((n, len(_LATENTS)), dtype=np.float32)
    table = _attribute_table(n, attributes, streams[1].random((n, len(ATTRIBUTES))))
    seeds = streams[2].integers(2**63, size=n, dtype=np.uint64)
    return Faces(
        _draw(latents, seeds, table.to_numpy(bool), (height, width)),
        table,
        latents=pd.DataFrame(latents, columns=_LATENTS, index=table.index),
        noise_seeds=seeds,
    )


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int | np.integer) and not isinstance(side, bool) for side in pair):
        raise TypeError(f"size must be an integer or (height, width), got {size!r}")
    if min(pair) < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size!r}")
    return int(pair[0]), int(pair[1])


def _generator(random_state: object) -> np.random.Generator:
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31, size=4))
    if random_state is None or (isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)):
        return np.random.default_rng(random_state)
    raise TypeError(f"random_state must be None, an integer, a RandomState or a Generator, got {random_state!r}")


def _attribute_table(n: int, given: Any, coins: NDArray[np.float64]) -> pd.DataFrame:
    columns = {} if given is None else given
    if not hasattr(columns, "keys"):
        raise TypeError(f"attributes must be a DataFrame or a mapping, got {type(given).__name__}")
    if unknown := [name for name in columns.keys() if name not in ATTRIBUTES]:  # noqa: SIM118 (DataFrame too)
        raise ValueError(f"attributes must be among {', '.join(ATTRIBUTES)}, got {unknown}")
    table = {
        name: _attribute_values(name, columns.get(name, 0.5), coin)
        for name, coin in zip(ATTRIBUTES, coins.T, strict=True)
    }
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


# Drawing. Only + - * / sqrt, floor, min and max act on arrays: these round alike at every position of an array, so a
# face comes out the same to the bit whichever faces share its chunk.


def _draw(
    latents: Plane, seeds: NDArray[np.uint64], flags: NDArray[np.bool_], size: tuple[int, int]
) -> NDArray[np.uint8]:
    images = np.empty((len(latents), 3, *size), np.uint8)
    step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
    # With its own size of 8192 numpy (2.4) goes a slow way through (B, H, W) * (B, 1, 1) when H * W is less.
    buffer = np.setbufsize(1024)
    try:
        for start in range(0, len(latents), step):
            chunk = slice(start, start + step)
            images[chunk] = _draw_chunk(_Scene(latents[chunk], flags[chunk], size), seeds[chunk])
    finally:
        np.setbufsize(buffer)
    return images


def _draw_chunk(scene: _Scene, seeds: NDArray[np.uint64]) -> NDArray[np.uint8]:
    _paint_background(scene)
    hair, strands, hair_colour = _hair(scene)
    scene.paint(hair, hair_colour * 0.75)
    _paint_body(scene)
    _paint_head(scene)
    _paint_nose(scene.rows(-0.09, 0.15, 0.07))
    _paint_eyes(scene.rows(-0.10, 0.05, 0.19))
    _paint_brows(scene.rows(-0.17, -0.02, 0.19))
    _paint_mouth(scene.rows(0.07, 0.3, 0.17))
    scene.paint(hair * (1 - _face_opening(scene)), strands[:, None] * hair_colour)
    _put_on(scene.rows(-0.6, 0.0, 0.5), "Wearing_Hat", _paint_hat)
    _put_on(scene.rows(-0.1, 0.08, 0.27), "Eyeglasses", _paint_glasses)
    return _photograph(scene, seeds)


def _put_on(scene: _Scene, attribute: str, paint: Callable[[_Scene], None]) -> None:
    """Paint what only some wear on those alone."""
    wearers = np.flatnonzero(scene.flags[attribute])
    part = copy.copy(scene)
    for name in ("latents", "x", "y", "side", "pixel", "face_width", "canvas"):
        setattr(part, name, getattr(scene, name)[wearers])
    paint(part)
    scene.canvas[wearers] = part.canvas


class _Scene:
    """A chunk of B faces: latents, attributes, the canvas (B, 3, H, W) and the face's coordinates (B, H, W).

    In face coordinates the origin is between the eyes and the nose, y points to the chin, and the shorter side of the
    image is 1. Parameters of a face have shape (B, 1, 1), colours (B, 3, 1, 1).
    """

    def __init__(self, latents: Plane, flags: NDArray[np.bool_], size: tuple[int, int]) -> None:
        self.latents = latents
        self.flags = dict(zip(ATTRIBUTES, flags.T.astype(np.float32)[..., None, None], strict=True))
        self.canvas: Plane = np.empty((len(latents), 3, *size), np.float32)
        unit = min(size)
        self.across, self.down = (
            ((np.arange(side, dtype=np.float32) + (0.5 - side / 2)) / unit) for side in size[::-1]
        )
        self.down = self.down[:, None]
        scale = self.between("scale", 0.85, 1.1)
        width = scale * self.between("aspect", 0.93, 1.07)
        sine = self.between("rotation", -0.2, 0.2)
        cosine = np.sqrt(1 - sine * sine)
        u, v = self.across - self.between("shift_x", -0.06, 0.06), self.down - self.between("shift_y", -0.03, 0.09)
        self.x: Plane = (cosine / width) * u + (sine / width) * v
        self.y: Plane = (cosine / scale) * v - (sine / scale) * u
        self.side: Plane = np.abs(self.x)
        self.kept = slice(None)
        self.pixel: Plane = (1.3 / unit) / scale
        self.face_width = self.between("face_width", 0.2, 0.235)
        self.skin = _ramp(_SKIN, self.latent("skin")) * self.tint("skin_hue", 0.05)

    def latent(self, name: str) -> Plane:
        values: Plane = self.latents[:, _COLUMN[name], None, None]
        return values

    def between(self, name: str, low: float, high: float) -> Plane:
        return low + (high - low) * self.latent(name)

    def cue(self, name: str, female: float, male: float, low: float, high: float, spread: float = _SPREAD) -> Plane:
        """Return a value whose mean depends on the sex; the two distributions overlap."""
        centred = 2 * self.latent(name) - 1
        bell = centred * (1 + centred * centred) * (spread / 2)
        value = (female + male) / 2 + _DISTANCE * (male - female) * (self.flags["Male"] - 0.5 + bell)
        clipped: Plane = np.clip(value, low, high)
        return clipped

    def colour(self, name: str, low: float = 0.05, high: float = 0.95) -> Plane:
        first = _COLUMN[f"{name}_r"]
        channels: Plane = self.latents[:, first : first + 3, None, None]
        return low + (high - low) * channels

    def tint(self, name: str, strength: float) -> Plane:
        """Return a factor for colours that makes them warmer or colder."""
        amount = self.between(name, -strength, strength)[:, None]
        return 1 + amount * _tone(1, 0, -1)

    def rows(self, top: float, bottom: float, reach: float) -> _Scene:
        """View the image rows that a part within y = [top, bottom], x = [-reach, reach] can touch in any pose."""
        tilt, shift, scale = 0.24 * reach, (-0.03, 0.09), (0.85, 1.1)
        first = min(top * factor for factor in scale) - tilt + shift[0]
        last = max(bottom * factor for factor in scale) + tilt + shift[1]
        inside = np.flatnonzero((self.down[:, 0] >= first) & (self.down[:, 0] <= last))
        band = copy.copy(self)
        band.kept = kept = slice(int(inside[0]), int(inside[-1]) + 1)
        band.x, band.y, band.side = self.x[:, kept], self.y[:, kept], self.side[:, kept]
        band.canvas, band.down = self.canvas[:, :, kept], self.down[kept]
        return band

    def paint(self, cover: Plane, colour: Plane) -> None:
        # Not canvas + cover * (colour - canvas): a cover of 1 must leave no trace of what lies below, not even a
        # rounding error, for a twin to differ only where it is seen.
        cover = cover[:, None]
        self.canvas *= 1 - cover
        self.canvas += cover * colour

    def fill(self, distance: Plane, colour: Plane, opacity: Plane | float = 1.0, soft: float = 0.0) -> None:
        """Paint the inside of a shape, given by a signed distance, with an edge of one pixel or `soft`."""
        cover = _cover(distance, np.maximum(self.pixel, soft))
        cover *= opacity
        self.paint(cover, colour)


def _cover(distance: Plane, edge: Plane) -> Plane:
    ramp = distance * (-1 / edge)
    ramp += 0.5
    np.clip(ramp, 0, 1, out=ramp)
    smooth = ramp * -2
    smooth += 3
    smooth *= ramp
    smooth *= ramp
    return smooth


def _ellipse(x: Plane, y: Plane, width: Plane | float, height: Plane | float) -> Plane:
    """Near its edge the signed distance to an ellipse of these half axes."""
    x, y = x * (1 / width), y * (1 / height)
    x *= x
    y *= y
    x += y
    x -= 1
    x *= np.asarray(np.minimum(width, height) / 2, np.float32)
    return x


def _egg(x: Plane, y: Plane, width: Plane, top: Plane, bottom: Plane, square: Plane, taper: Plane | None) -> Plane:
    """Signed distance to an egg: half width at y = 0, extent up and down, squareness and widening downwards."""
    down = np.maximum(y * (1 / bottom), y * (-1 / top))
    x = x * (1 / width)
    if taper is not None:
        x /= 1 + taper * np.clip(y * (1 / bottom), 0, 1)
    down *= down
    x *= x
    x += down * ((1 - square) + square * down)
    x -= 1
    x *= width / 2
    return x


def _wave(phase: Plane) -> Plane:
    """Return a triangle wave between 0 and 1 of period 1."""
    phase = phase - np.floor(phase)
    phase -= 0.5
    np.abs(phase, out=phase)
    phase *= 2
    return phase


def _tone(red: float, green: float, blue: float) -> Plane:
    return np.array([red, green, blue], np.float32)[:, None, None]


def _ramp(palette: list[tuple[float, float, float]], position: Plane) -> Plane:
    """Colours along a palette, at positions in [0, 1) of shape (B, 1, 1)."""
    stops = np.array(palette, np.float32)
    place = position[:, 0, 0] * np.float32(len(stops) - 1)
    first = np.minimum(place.astype(np.intp), len(stops) - 2)
    fraction = (place - first.astype(np.float32))[:, None]
    colours: Plane = stops[first] * (1 - fraction) + stops[first + 1] * fraction
    return colours[:, :, None, None]


def _paint_background(scene: _Scene) -> None:
    across, down = scene.between("wall_x", -1, 1), scene.between("wall_y", -1, 1)
    slope = scene.across * across + scene.down * down
    crossed = scene.across * down - scene.down * across
    waves, phase = scene.between("wall_waves", 1, 5), scene.latent("wall_phase")
    pattern = _wave(slope * waves + phase)
    blotches = (scene.latent("wall_kind") < 0.6).astype(np.float32)
    pattern *= np.maximum(_wave(crossed * waves * 0.8 + phase), 1 - blotches)
    pattern *= scene.between("wall_strength", 0, 0.5)
    # Walls are duller than clothes.
    start, end, mark = (scene.colour(name) for name in ("wall", "wall_end", "wall_mark"))
    start = 0.45 * (start + start.mean(axis=1, keepdims=True))
    change = (end - start) * 0.4
    np.multiply(slope[:, None], change, out=scene.canvas)
    scene.canvas += start
    scene.canvas += pattern[:, None] * (mark - start)


def _hair_shape(scene: _Scene) -> tuple[Plane, Plane]:
    volume = scene.between("hair_volume", 0.02, 0.07)
    return scene.face_width + volume, 0.29 + volume


def _hair(scene: _Scene) -> tuple[Plane, Plane, Plane]:
    """Return cover (B, H, W), shade (B, H, W) and colour (B, 3, 1, 1) of all hair, behind the face and before it."""
    width, top = _hair_shape(scene)
    length = scene.latent("hair_length")
    bottom = 0.05 + 0.55 * length * length
    distance = _egg(
        scene.x,
        scene.y,
        width,
        top,
        bottom,
        scene.between("hair_square", 0.3, 1),
        scene.between("hair_taper", -0.1, 0.3),
    )
    curls = np.maximum(scene.between("hair_curls", -0.03, 0.03), 0)
    strands = _wave(scene.x * scene.between("hair_strands", 8, 20) + scene.y * scene.between("fringe_tilt", -4, 4))
    distance += curls * (strands + _wave(scene.y * 11) - 1)
    strands *= -0.22
    strands += 1.08
    strands -= 0.35 * np.abs(scene.y + 0.2)
    blond = _ramp(_BLOND, scene.latent("hair_colour"))
    colour = np.where(scene.flags["Blond_Hair"][:, None] > 0, blond, _ramp(_NOT_BLOND, scene.latent("hair_colour")))
    colour = colour * scene.between("hair_brightness", 0.8, 1.15)[:, None]
    return _cover(distance, scene.pixel), strands, colour


def _face_opening(scene: _Scene) -> Plane:
    """Cover of the part of the head's disc that the hair leaves free."""
    width = scene.face_width + scene.between("side_locks", -0.035, 0.0)
    x = scene.x - scene.between("part", -0.03, 0.03)
    y = scene.y + scene.between("fringe_tilt", -0.3, 0.3) * scene.x
    bottom, square = np.full_like(width, 0.9), np.full_like(width, 0.8)
    return _cover(_egg(x, y, width, scene.between("hairline", 0.14, 0.25), bottom, square, None), scene.pixel)


def _paint_body(scene: _Scene) -> None:
    scene = scene.rows(0.1, 0.9, 0.6)
    neck = scene.cue("neck", 0.088, 0.112, 0.06, 0.15)
    lower = np.maximum(scene.y - 0.36, 0)
    shade = 0.62 + np.clip(scene.y * 2 - 0.5, 0, 0.3)
    distance = scene.side - neck
    distance -= lower * lower * 4
    np.maximum(distance, 0.1 - scene.y, out=distance)
    scene.fill(distance, scene.skin * shade[:, None])
    below = scene.y - 0.74
    distance = _ellipse(scene.x, below, scene.between("shoulders", 0.4, 0.55), 0.36)
    neckline = scene.between("neckline", 0.05, 0.16)
    np.maximum(distance, -_ellipse(scene.x, scene.y - 0.36, 0.125, neckline), out=distance)
    scene.fill(distance, scene.colour("shirt"))


def _paint_head(scene: _Scene) -> None:
    ears = scene.rows(-0.06, 0.1, 0.28)
    edge = ears.side - ears.face_width
    ears.fill(_ellipse(edge, ears.y - 0.02, scene.between("ears", 0.02, 0.035), 0.055), scene.skin * 0.85)
    chin = scene.cue("chin", 0.285, 0.31, 0.25, 0.36)
    square = scene.cue("jaw_square", 0.25, 0.6, 0, 1)
    taper = scene.cue("jaw_width", -0.26, -0.1, -0.45, 0.08)
    distance = _egg(scene.x, scene.y, scene.face_width, np.full_like(chin, 0.29), chin, square, taper)
    # The roundness is that of the skull, not of the jaw, lest the sex shades the whole face.
    shade = _ellipse(scene.x, scene.y, scene.face_width, 0.3) * scene.between("rim", 1, 4)
    np.clip(shade, -0.25, 0.1, out=shade)
    np.subtract(0.8, shade, out=shade)
    head = _cover(distance, scene.pixel)
    scene.paint(head, scene.skin * shade[:, None])
    _paint_beard(scene.rows(0.03, 0.38, 0.25), head)
    cheeks = scene.rows(0.0, 0.16, 0.2)
    blush = scene.between("blush", 0, 0.25) + 0.2 * scene.flags["Smiling"]
    spot = _ellipse(cheeks.side - 0.125, cheeks.y - 0.08, 0.05, 0.04)
    cheeks.fill(spot, scene.skin * _tone(1.05, 0.68, 0.66), blush, soft=0.05)


def _paint_beard(scene: _Scene, head: Plane) -> None:
    colour = _ramp(_NOT_BLOND, scene.latent("brow_colour")) * 0.6 + scene.skin * 0.15
    free = _ellipse(scene.x, scene.y + 0.02, scene.face_width * 0.95, 0.15)
    beard = _cover(np.maximum(-free, 0.06 - scene.y), np.full_like(scene.pixel, 0.05))
    beard *= head[:, scene.kept]
    beard *= scene.cue("beard", -0.75, 0.35, 0, 0.75, spread=0.6)
    scene.paint(beard, colour)
    lip = scene.rows(0.08, 0.2, 0.1)
    above = lip.y - lip.between("mouth_height", 0.155, 0.18) + 0.032
    moustache = _ellipse(lip.x, above + lip.x * lip.x * -2, 0.075, 0.016)
    lip.fill(moustache, colour, lip.cue("moustache", -0.75, 0.25, 0, 0.75, spread=0.6), soft=0.02)


def _paint_nose(scene: _Scene) -> None:
    width, tip = scene.between("nose_width", 0.025, 0.042), scene.between("nose_length", 0.075, 0.105)
    dark, light = scene.skin * 0.6, np.minimum(scene.skin * 1.15, 1)
    below = scene.y - tip
    shadow = scene.x - np.where(scene.latent("light_x") < 0.5, width, -width) * 0.6
    scene.fill(_ellipse(shadow, scene.y - 0.03, 0.012, 0.07), dark, 0.35, soft=0.03)
    scene.fill(_ellipse(scene.x, below, width, 0.022), light, 0.5, soft=0.02)
    scene.fill(_ellipse(scene.side - width * 0.55, below - 0.018, 0.012, 0.007), dark, 0.9)


def _eye_centre(scene: _Scene) -> tuple[Plane, Plane]:
    return scene.between("eye_gap", 0.09, 0.11), scene.between("eye_height", -0.03, -0.005)


def _paint_eyes(scene: _Scene) -> None:
    gap, height = _eye_centre(scene)
    width, opened = scene.between("eye_width", 0.042, 0.055), scene.between("eye_open", 0.017, 0.028)
    x, y = scene.side - gap, scene.y - height
    shadow = scene.cue("eye_shadow", 0.3, -0.1, 0, 0.8)
    scene.fill(_ellipse(x, y + 0.025, width, 0.026), scene.colour("shadow", 0.1, 0.7), shadow, soft=0.025)
    # Two arcs that meet in the corners of the eye.
    arc = x * (1 / width)
    arc *= arc
    lid = (1 - arc) * opened
    eye = np.abs(y) - lid
    white = _cover(eye, scene.pixel)
    scene.paint(white, 0.93 * scene.tint("skin_hue", 0.05))
    glance = np.where(scene.x < 0, scene.between("gaze", -0.014, 0.014), scene.between("gaze", 0.014, -0.014))
    pupil = _ellipse(x - glance, y, 0.024, 0.024)
    iris = _cover(pupil, scene.pixel)
    iris *= white
    scene.paint(iris, _ramp(_IRIS, scene.latent("iris")))
    pupil += 0.013
    iris = _cover(pupil, scene.pixel)
    iris *= white
    scene.paint(iris, _tone(0.04, 0.04, 0.04))
    lashes = scene.cue("lashes", 0.010, 0.005, 0.002, 0.016)
    np.abs(y + lid, out=lid)
    lid -= lashes
    np.maximum(lid, (arc - 1.25) * width, out=lid)
    scene.fill(lid, scene.skin * 0.18)


def _paint_brows(scene: _Scene) -> None:
    gap, height = _eye_centre(scene)
    x = scene.side - gap
    x *= 16
    line = scene.cue("brow_low", 0.074, 0.06, 0.045, 0.09) + scene.between("brow_slope", -0.012, 0.012) * x
    x *= x
    line -= scene.between("brow_arch", 0, 0.018) * x
    distance = np.abs(scene.y - height + line)
    distance -= scene.cue("brow_thick", 0.008, 0.0125, 0.004, 0.018)
    x -= 1
    x *= 0.03
    np.maximum(distance, x, out=distance)
    colour = _ramp(_NOT_BLOND, scene.latent("brow_colour"))
    scene.fill(distance, colour * 0.7 + scene.skin * 0.12, 0.9)


def _paint_mouth(scene: _Scene) -> None:
    smiling = scene.flags["Smiling"]
    curve = scene.between("mouth_curve", -0.014, 0.004) + smiling * scene.between("mouth_curve", 0.05, 0.06)
    width = scene.between("mouth_width", 0.06, 0.08) * (1 + smiling * 0.5)
    full = scene.cue("lip_full", 0.0175, 0.013, 0.007, 0.025)
    red = scene.cue("lip_red", 0.55, 0.2, 0, 1)[:, None]
    lips = scene.skin * ((1 - red) * 0.75) + red * _tone(0.72, 0.16, 0.22)
    arc = scene.x * (1 / width)
    arc *= arc
    middle = scene.y - scene.between("mouth_height", 0.155, 0.18)
    middle += curve * (arc - 0.5)
    np.subtract(1, arc, out=arc)
    # A smile opens the mouth for most, a serious face for few.
    teeth = scene.between("mouth_open", -0.02, 0.012) + smiling * scene.between("teeth", 0.02, 0.04)
    opened = np.maximum(teeth, 0.002)
    gape = np.abs(middle)
    scene.fill(gape - arc * (full + opened), lips)
    distance = gape - (arc - 0.12) * opened
    scene.fill(distance, _tone(0.25, 0.06, 0.07))
    bite = middle - scene.between("teeth", -0.004, 0.02)
    np.maximum(distance + 0.003, bite, out=distance)
    scene.fill(distance, _tone(0.92, 0.92, 0.92))


def _paint_hat(scene: _Scene) -> None:
    width, top = _hair_shape(scene)
    width, top = width + 0.012, top + scene.between("hat_height", 0.015, 0.06)
    kind = scene.latent("hat_kind")
    rising = scene.y + scene.between("hat_line", 0.14, 0.19) + scene.x * scene.x * 0.4
    dome = _egg(scene.x, scene.y, width, top, np.ones_like(top), np.full_like(top, 0.6), None)
    np.maximum(dome, rising, out=dome)
    colour = scene.colour("hat")
    scene.fill(dome, colour * (0.85 + 0.3 * _wave(scene.x * 14))[:, None])
    beanie, brimmed = kind < 0.4, kind > 0.7
    reach = np.where(beanie, width, np.where(brimmed, width + 0.12, 0.25)).astype(np.float32)
    deep = np.where(beanie, 0.04, 0.02).astype(np.float32)
    aside = np.where(beanie | brimmed, 0, scene.between("hat_side", -0.1, 0.1)).astype(np.float32)
    brim = np.abs(rising + deep * 0.5)
    brim -= deep
    np.maximum(brim, np.abs(scene.x - aside) - reach, out=brim)
    scene.fill(brim, colour * 0.7)


def _paint_glasses(scene: _Scene) -> None:
    gap, height = _eye_centre(scene)
    width, tall = scene.between("glass_width", 0.06, 0.08), scene.between("glass_height", 0.04, 0.06)
    corner = tall * scene.between("glass_round", 0.25, 0.95)
    x, y = np.abs(scene.side - gap), np.abs(scene.y - height)
    temple = np.maximum(y, 0.0)
    np.maximum(x - (width - corner), 0, out=x)
    np.maximum(y - (tall - corner), 0, out=y)
    x *= x
    y *= y
    x += y
    lens = np.sqrt(x, out=x)
    lens -= corner
    tint = np.maximum(scene.between("glass_tint", -0.8, 0.8), 0.06)
    colour = scene.colour("frame", 0.02, 0.7)
    scene.fill(lens, colour * 0.5, tint)
    thick = scene.between("glass_thick", 0.005, 0.011)
    # Bridge and temples lie on one line, outside of the lenses and inside of the ears.
    temple -= 0.006
    np.maximum(temple, -lens, out=temple)
    np.maximum(temple, scene.side - scene.face_width - 0.01, out=temple)
    np.abs(lens, out=lens)
    lens -= thick
    np.minimum(lens, temple, out=lens)
    scene.fill(lens, colour)


def _photograph(scene: _Scene, seeds: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Light the scene, blur it and add the sensor's noise."""
    canvas = scene.canvas
    light = scene.across * scene.between("light_x", -0.5, 0.5) + scene.down * scene.between("light_y", -0.4, 0.2)
    light += scene.between("brightness", 0.75, 1.2)
    light *= 255
    canvas *= light[:, None]
    contrast = scene.between("contrast", 0.7, 1.1)[:, None]
    canvas *= contrast * scene.tint("cast_warm", 0.12)
    # Half a grey level more, for the cut to whole levels below rounds down.
    canvas += 110 * (1 - contrast) + 0.5
    blur = scene.between("blur", 0, 0.2)[:, None]
    for axis in (2, 3):
        flow = np.diff(canvas, axis=axis)
        flow *= blur
        before, after = [(slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1))]
        canvas[before] -= flow
        canvas[after] += flow
    # The sum of four random bytes is near to normal, and three times as fast.
    grain = np.empty(canvas.shape, np.uint16)
    for seed, out in zip(seeds, grain, strict=True):
        words = np.random.SFC64(seed).random_raw((out.size + 1) // 2)
        first, *others = words.view(np.uint8)[: 4 * out.size].reshape(4, *out.shape)
        out[:] = first
        for byte in others:
            out += byte
    noise = grain.astype(np.float32)
    noise -= 510
    noise *= scene.between("noise", 0.01, 0.05)[:, None] * (255 / 147.8)
    canvas += noise
    np.clip(canvas, 0, 255, out=canvas)
    return canvas.astype(np.uint8)
