"""A scene of drawn faces: its parameters, coordinates and canvas, and the shapes and colours to paint with."""

import copy
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Always float32; to numpy's stubs, though not to numpy, its product with a Python float is a float64, or Any.
Plane: TypeAlias = NDArray[Any]

ATTRIBUTES = ("Male", "Blond_Hair", "Eyeglasses", "Smiling", "Wearing_Hat", "Dark_Skin")

# Each is uniform in [0, 1), and a toggled attribute leaves all of them alone. All are independent of the attributes but
# skin, whose half decides Dark_Skin where it is not given.
LATENTS = """
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
# How a face that is not aligned is moved: those of an aligned one are all 0.
POSE = ("move_x", "move_y", "turn", "shrink", "mirror")
_COLUMN = {name: column for column, name in enumerate([*LATENTS, *POSE])}

_SKIN = [(0.30, 0.18, 0.12), (0.52, 0.34, 0.23), (0.76, 0.56, 0.42), (0.90, 0.71, 0.57), (0.98, 0.84, 0.75)]

# How far one cue of the sex spreads about its mean, in distances between the two means, and how far these lie apart,
# in those written with each cue. No cue alone decides the sex, all of them together nearly do; and they show enough at
# 48 px for a small network to learn them from 2,400 faces (at 1.6 and 1 it used the hair alone).
_SPREAD = 1.0
_DISTANCE = 1.4


class Scene:
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
        self.is_aligned = not latents[:, len(LATENTS) :].any()
        u, v, size_of_all = self._placed()
        u, v = u - self.between("shift_x", -0.06, 0.06), v - self.between("shift_y", -0.03, 0.09)
        self.x: Plane = (cosine / width) * u + (sine / width) * v
        self.y: Plane = (cosine / scale) * v - (sine / scale) * u
        self.side: Plane = np.abs(self.x)
        self.kept = slice(None)
        self.pixel: Plane = (1.3 / unit) / (scale * size_of_all)
        self.face_width = self.between("face_width", 0.2, 0.235)
        skin = self.latent("skin")
        # The place within its half of the palette; which half, the attribute decides.
        tone_of = skin - 0.5 * np.floor(2 * skin) + 0.5 * (1 - self.flags["Dark_Skin"])
        self.skin = ramp(_SKIN, tone_of) * self.tint("skin_hue", 0.05)

    def _placed(self) -> tuple[Plane, Plane, Plane | float]:
        """Return the coordinates in an aligned image of the pixels of this one, and how large the face is in it."""
        if self.is_aligned:
            return self.across, self.down, 1.0
        u, v = self.across - self.latent("move_x"), self.down - self.latent("move_y")
        size, sine = 1 - self.latent("shrink"), self.latent("turn")
        cosine = np.sqrt(1 - sine * sine)
        flip = 1 - 2 * self.latent("mirror")
        return (cosine * u + sine * v) * (flip / size), (cosine * v - sine * u) / size, size

    def latent(self, name: str) -> Plane:
        """Return a parameter, in [0, 1) unless it is one of `POSE`."""
        return self.latents[:, _COLUMN[name], None, None]

    def between(self, name: str, low: float, high: float) -> Plane:
        """Return a parameter scaled to [low, high)."""
        return low + (high - low) * self.latent(name)

    def cue(self, name: str, female: float, male: float, low: float, high: float, spread: float = _SPREAD) -> Plane:
        """Return a value whose mean depends on the sex; the two distributions overlap."""
        centred = 2 * self.latent(name) - 1
        bell = centred * (1 + centred * centred) * (spread / 2)
        value = (female + male) / 2 + _DISTANCE * (male - female) * (self.flags["Male"] - 0.5 + bell)
        return np.clip(value, low, high)

    def colour(self, name: str, low: float = 0.05, high: float = 0.95) -> Plane:
        """Return the colour whose three channels are parameters, (B, 3, 1, 1)."""
        first = _COLUMN[f"{name}_r"]
        channels: Plane = self.latents[:, first : first + 3, None, None]
        return low + (high - low) * channels

    def tint(self, name: str, strength: float) -> Plane:
        """Return a factor for colours that makes them warmer or colder."""
        amount = self.between(name, -strength, strength)[:, None]
        return 1 + amount * tone(1, 0, -1)

    def rows(self, top: float, bottom: float, reach: float) -> Self:
        """View the image rows that a part within y = [top, bottom], x = [-reach, reach] of an aligned face can touch.

        All rows if the faces are not aligned. Below 48 px soft edges may end a pixel early, by a few grey levels.
        """
        if not self.is_aligned:
            return copy.copy(self)
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
        """Lay a colour over the canvas where `cover` is above 0."""
        # Not canvas + cover * (colour - canvas): a cover of 1 must leave no trace of what lies below, not even a
        # rounding error, so that a counterfactual differs only where the attribute shows.
        cover = cover[:, None]
        self.canvas *= 1 - cover
        self.canvas += cover * colour

    def fill(self, distance: Plane, colour: Plane, opacity: Plane | float = 1.0, soft: float = 0.0) -> None:
        """Paint the inside of a shape, given by a signed distance, with an edge of one pixel or `soft`."""
        cover = cover_of(distance, np.maximum(self.pixel, soft))
        cover *= opacity
        self.paint(cover, colour)


def cover_of(distance: Plane, edge: Plane) -> Plane:
    """Return how much of each pixel a shape covers, from its signed distance and the width of its edge."""
    ramp = np.clip(distance * (-1 / edge) + 0.5, 0, 1)
    return (ramp * -2 + 3) * ramp * ramp


def ellipse(x: Plane, y: Plane, width: Plane | float, height: Plane | float) -> Plane:
    """Near its edge the signed distance to an ellipse of these half axes."""
    scale = np.asarray(np.minimum(width, height) / 2, np.float32)
    return (np.square(x * (1 / width)) + np.square(y * (1 / height)) - 1) * scale


def egg(x: Plane, y: Plane, width: Plane, top: Plane, bottom: Plane, square: Plane, taper: Plane | float) -> Plane:
    """Signed distance to an egg: half width at y = 0, extent up and down, squareness and widening downwards."""
    down = np.square(np.maximum(y * (1 / bottom), y * (-1 / top)))
    x = x * (1 / width) / (1 + taper * np.clip(y * (1 / bottom), 0, 1))
    return (np.square(x) + down * ((1 - square) + square * down) - 1) * (width / 2)


def wave(phase: Plane) -> Plane:
    """Return a triangle wave between 0 and 1 of period 1."""
    return np.abs(phase - np.floor(phase) - 0.5) * 2


def tone(red: float, green: float, blue: float) -> Plane:
    """Return a colour, (3, 1, 1)."""
    return np.array([red, green, blue], np.float32)[:, None, None]


def ramp(palette: list[tuple[float, float, float]], position: Plane) -> Plane:
    """Colours along a palette, at positions in [0, 1) of shape (B, 1, 1)."""
    stops = np.array(palette, np.float32)
    place = position[:, 0, 0] * np.float32(len(stops) - 1)
    first = np.minimum(place.astype(np.intp), len(stops) - 2)
    fraction = (place - first.astype(np.float32))[:, None]
    colours: Plane = stops[first] * (1 - fraction) + stops[first + 1] * fraction
    return colours[:, :, None, None]
