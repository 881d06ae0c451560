"""The drawing of faces, part by part.

Only + - * / sqrt, floor, min and max act on arrays: these round alike at every position of an array, so a face is
the same to the bit, whichever faces share its chunk.
"""

import copy
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from captum_region.datasets.faces.scene import Plane, Scene, cover_of, egg, ellipse, ramp, tone, wave

_BLOND = [(0.57, 0.42, 0.22), (0.74, 0.57, 0.30), (0.86, 0.70, 0.40), (0.93, 0.82, 0.58), (0.95, 0.89, 0.74)]
_IRIS = [(0.12, 0.07, 0.04), (0.30, 0.18, 0.08), (0.32, 0.36, 0.16), (0.35, 0.42, 0.45), (0.22, 0.42, 0.62)]
_NOT_BLOND = [
    *[(0.50, 0.50, 0.51), (0.20, 0.19, 0.19), (0.07, 0.06, 0.07), (0.20, 0.12, 0.08), (0.33, 0.21, 0.13)],
    *[(0.46, 0.32, 0.21), (0.40, 0.19, 0.10), (0.58, 0.24, 0.10)],
]

# Planes of one chunk should stay in the processor's cache.
_CHUNK_PIXELS = 2**17


def draw(
    latents: Plane, seeds: NDArray[np.uint64], flags: NDArray[np.bool_], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Draw faces: uint8, shape (N, 3, height, width)."""
    images = np.empty((len(latents), 3, *size), np.uint8)
    step = max(1, _CHUNK_PIXELS // (size[0] * size[1]))
    # With its own size of 8192 numpy (2.4) goes a slow way through (B, H, W) * (B, 1, 1) when H * W is less.
    buffer = np.setbufsize(1024)
    try:
        for start in range(0, len(latents), step):
            chunk = slice(start, start + step)
            images[chunk] = _draw_chunk(Scene(latents[chunk], flags[chunk], size), seeds[chunk])
    finally:
        np.setbufsize(buffer)
    return images


def _draw_chunk(scene: Scene, seeds: NDArray[np.uint64]) -> NDArray[np.uint8]:
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


def _put_on(scene: Scene, attribute: str, paint: Callable[[Scene], None]) -> None:
    """Paint what only some wear on those alone."""
    wearers = np.flatnonzero(scene.flags[attribute])
    part = copy.copy(scene)
    for name in ("latents", "x", "y", "side", "pixel", "face_width", "canvas"):
        setattr(part, name, getattr(scene, name)[wearers])
    paint(part)
    scene.canvas[wearers] = part.canvas


def _paint_background(scene: Scene) -> None:
    across, down = scene.between("wall_x", -1, 1), scene.between("wall_y", -1, 1)
    slope = scene.across * across + scene.down * down
    crossed = scene.across * down - scene.down * across
    waves, phase = scene.between("wall_waves", 1, 5), scene.latent("wall_phase")
    stripes = (scene.latent("wall_kind") >= 0.6).astype(np.float32)
    pattern = wave(slope * waves + phase) * np.maximum(wave(crossed * waves * 0.8 + phase), stripes)
    pattern *= scene.between("wall_strength", 0, 0.5)
    # Walls are duller than clothes.
    start, end, mark = (scene.colour(name) for name in ("wall", "wall_end", "wall_mark"))
    start = 0.45 * (start + start.mean(axis=1, keepdims=True))
    scene.canvas[:] = slope[:, None] * ((end - start) * 0.4) + start
    scene.canvas += pattern[:, None] * (mark - start)


def _hair_shape(scene: Scene) -> tuple[Plane, Plane]:
    volume = scene.between("hair_volume", 0.02, 0.07)
    return scene.face_width + volume, 0.29 + volume


def _hair(scene: Scene) -> tuple[Plane, Plane, Plane]:
    """Return cover (B, H, W), shade (B, H, W) and colour (B, 3, 1, 1) of all hair, behind the face and before it."""
    width, top = _hair_shape(scene)
    bottom = 0.05 + 0.55 * scene.latent("hair_length") * scene.latent("hair_length")
    square, taper = scene.between("hair_square", 0.3, 1), scene.between("hair_taper", -0.1, 0.3)
    curls = np.maximum(scene.between("hair_curls", -0.03, 0.03), 0)
    strands = wave(scene.x * scene.between("hair_strands", 8, 20) + scene.y * scene.between("fringe_tilt", -4, 4))
    distance = egg(scene.x, scene.y, width, top, bottom, square, taper) + curls * (strands + wave(scene.y * 11) - 1)
    shade = strands * -0.22 + 1.08 - 0.35 * np.abs(scene.y + 0.2)
    blond, other = (ramp(palette, scene.latent("hair_colour")) for palette in (_BLOND, _NOT_BLOND))
    colour = np.where(scene.flags["Blond_Hair"][:, None] > 0, blond, other)
    return cover_of(distance, scene.pixel), shade, colour * scene.between("hair_brightness", 0.8, 1.15)[:, None]


def _face_opening(scene: Scene) -> Plane:
    """Cover of the part of the head's disc that the hair leaves free."""
    width = scene.face_width + scene.between("side_locks", -0.035, 0.0)
    x = scene.x - scene.between("part", -0.03, 0.03)
    y = scene.y + scene.between("fringe_tilt", -0.3, 0.3) * scene.x
    bottom, square = np.full_like(width, 0.9), np.full_like(width, 0.8)
    return cover_of(egg(x, y, width, scene.between("hairline", 0.14, 0.25), bottom, square, 0.0), scene.pixel)


def _paint_body(scene: Scene) -> None:
    scene = scene.rows(0.1, 0.9, 0.6)
    neck = scene.side - scene.cue("neck", 0.088, 0.112, 0.06, 0.15) - np.square(np.maximum(scene.y - 0.36, 0)) * 4
    shade = 0.62 + np.clip(scene.y * 2 - 0.5, 0, 0.3)
    # Where a face that is not aligned shows more of it, the neck ends within the body, and the body goes on downwards.
    scene.fill(np.maximum(np.maximum(neck, 0.1 - scene.y), scene.y - 0.8), scene.skin * shade[:, None])
    shoulders = ellipse(scene.x, np.minimum(scene.y - 0.74, 0), scene.between("shoulders", 0.4, 0.55), 0.36)
    neckline = ellipse(scene.x, scene.y - 0.36, 0.125, scene.between("neckline", 0.05, 0.16))
    scene.fill(np.maximum(shoulders, -neckline), scene.colour("shirt"))


def _paint_head(scene: Scene) -> None:
    ears = scene.rows(-0.06, 0.1, 0.28)
    edge = ears.side - ears.face_width
    ears.fill(ellipse(edge, ears.y - 0.02, scene.between("ears", 0.02, 0.035), 0.055), scene.skin * 0.85)
    chin = scene.cue("chin", 0.285, 0.31, 0.25, 0.36)
    square = scene.cue("jaw_square", 0.25, 0.6, 0, 1)
    taper = scene.cue("jaw_width", -0.26, -0.1, -0.45, 0.08)
    distance = egg(scene.x, scene.y, scene.face_width, np.full_like(chin, 0.29), chin, square, taper)
    # The roundness is that of the skull, not of the jaw: the sex must not shade the whole face.
    shade = 0.8 - np.clip(ellipse(scene.x, scene.y, scene.face_width, 0.3) * scene.between("rim", 1, 4), -0.25, 0.1)
    head = cover_of(distance, scene.pixel)
    scene.paint(head, scene.skin * shade[:, None])
    _paint_beard(scene.rows(0.03, 0.38, 0.25), head)
    cheeks = scene.rows(0.0, 0.16, 0.2)
    blush = scene.between("blush", 0, 0.25) + 0.2 * scene.flags["Smiling"]
    spot = ellipse(cheeks.side - 0.125, cheeks.y - 0.08, 0.05, 0.04)
    cheeks.fill(spot, scene.skin * tone(1.05, 0.68, 0.66), blush, soft=0.05)


def _paint_beard(scene: Scene, head: Plane) -> None:
    colour = ramp(_NOT_BLOND, scene.latent("brow_colour")) * 0.6 + scene.skin * 0.15
    free = ellipse(scene.x, scene.y + 0.02, scene.face_width * 0.95, 0.15)
    beard = cover_of(np.maximum(-free, 0.06 - scene.y), np.full_like(scene.pixel, 0.05)) * head[:, scene.kept]
    scene.paint(beard * scene.cue("beard", -0.75, 0.35, 0, 0.75, spread=0.6), colour)
    lip = scene.rows(0.08, 0.2, 0.1)
    above = lip.y - lip.between("mouth_height", 0.155, 0.18) + 0.032
    moustache = ellipse(lip.x, above + lip.x * lip.x * -2, 0.075, 0.016)
    lip.fill(moustache, colour, lip.cue("moustache", -0.75, 0.25, 0, 0.75, spread=0.6), soft=0.02)


def _paint_nose(scene: Scene) -> None:
    width, tip = scene.between("nose_width", 0.025, 0.042), scene.between("nose_length", 0.075, 0.105)
    dark, light = scene.skin * 0.6, np.minimum(scene.skin * 1.15, 1)
    below = scene.y - tip
    shadow = scene.x - np.where(scene.latent("light_x") < 0.5, width, -width) * 0.6
    scene.fill(ellipse(shadow, scene.y - 0.03, 0.012, 0.07), dark, 0.35, soft=0.03)
    scene.fill(ellipse(scene.x, below, width, 0.022), light, 0.5, soft=0.02)
    scene.fill(ellipse(scene.side - width * 0.55, below - 0.018, 0.012, 0.007), dark, 0.9)


def _eye_centre(scene: Scene) -> tuple[Plane, Plane]:
    return scene.between("eye_gap", 0.09, 0.11), scene.between("eye_height", -0.03, -0.005)


def _paint_eyes(scene: Scene) -> None:
    gap, height = _eye_centre(scene)
    width, opened = scene.between("eye_width", 0.042, 0.055), scene.between("eye_open", 0.017, 0.028)
    x, y = scene.side - gap, scene.y - height
    shadow = scene.cue("eye_shadow", 0.3, -0.1, 0, 0.8)
    scene.fill(ellipse(x, y + 0.025, width, 0.026), scene.colour("shadow", 0.1, 0.7), shadow, soft=0.025)
    # Two arcs that meet in the corners of the eye.
    arc = np.square(x * (1 / width))
    lid = (1 - arc) * opened
    white = cover_of(np.abs(y) - lid, scene.pixel)
    scene.paint(white, 0.93 * scene.tint("skin_hue", 0.05))
    glance = np.where(scene.x < 0, scene.between("gaze", -0.014, 0.014), scene.between("gaze", 0.014, -0.014))
    iris = ellipse(x - glance, y, 0.024, 0.024)
    scene.paint(cover_of(iris, scene.pixel) * white, ramp(_IRIS, scene.latent("iris")))
    scene.paint(cover_of(iris + 0.013, scene.pixel) * white, tone(0.04, 0.04, 0.04))
    lashes = np.abs(y + lid) - scene.cue("lashes", 0.010, 0.005, 0.002, 0.016)
    scene.fill(np.maximum(lashes, (arc - 1.25) * width), scene.skin * 0.18)


def _paint_brows(scene: Scene) -> None:
    gap, height = _eye_centre(scene)
    x = (scene.side - gap) * 16
    arc = np.square(x)
    line = scene.cue("brow_low", 0.074, 0.06, 0.045, 0.09) + scene.between("brow_slope", -0.012, 0.012) * x
    line -= scene.between("brow_arch", 0, 0.018) * arc
    distance = np.abs(scene.y - height + line) - scene.cue("brow_thick", 0.008, 0.0125, 0.004, 0.018)
    colour = ramp(_NOT_BLOND, scene.latent("brow_colour")) * 0.7 + scene.skin * 0.12
    scene.fill(np.maximum(distance, (arc - 1) * 0.03), colour, 0.9)


def _paint_mouth(scene: Scene) -> None:
    smiling = scene.flags["Smiling"]
    curve = scene.between("mouth_curve", -0.014, 0.004) + smiling * scene.between("mouth_curve", 0.05, 0.06)
    width = scene.between("mouth_width", 0.06, 0.08) * (1 + smiling * 0.5)
    full = scene.cue("lip_full", 0.0175, 0.013, 0.007, 0.025)
    red = scene.cue("lip_red", 0.55, 0.2, 0, 1)[:, None]
    lips = scene.skin * ((1 - red) * 0.75) + red * tone(0.72, 0.16, 0.22)
    arc = np.square(scene.x * (1 / width))
    middle = scene.y - scene.between("mouth_height", 0.155, 0.18) + curve * (arc - 0.5)
    # A smile opens the mouth for most, a serious face for few.
    teeth = scene.between("mouth_open", -0.02, 0.012) + smiling * scene.between("teeth", 0.02, 0.04)
    opened = np.maximum(teeth, 0.002)
    scene.fill(np.abs(middle) - (1 - arc) * (full + opened), lips)
    gape = np.abs(middle) - (1 - arc - 0.12) * opened
    scene.fill(gape, tone(0.25, 0.06, 0.07))
    scene.fill(np.maximum(gape + 0.003, middle - scene.between("teeth", -0.004, 0.02)), tone(0.92, 0.92, 0.92))


def _paint_hat(scene: Scene) -> None:
    width, top = _hair_shape(scene)
    width, top = width + 0.012, top + scene.between("hat_height", 0.015, 0.06)
    rising = scene.y + scene.between("hat_line", 0.14, 0.19) + scene.x * scene.x * 0.4
    dome = egg(scene.x, scene.y, width, top, np.ones_like(top), np.full_like(top, 0.6), 0.0)
    colour = scene.colour("hat")
    scene.fill(np.maximum(dome, rising), colour * (0.85 + 0.3 * wave(scene.x * 14))[:, None])
    beanie, brimmed = scene.latent("hat_kind") < 0.4, scene.latent("hat_kind") > 0.7
    reach = np.where(beanie, width, np.where(brimmed, width + 0.12, 0.25)).astype(np.float32)
    deep = np.where(beanie, 0.04, 0.02).astype(np.float32)
    aside = np.where(beanie | brimmed, 0, scene.between("hat_side", -0.1, 0.1)).astype(np.float32)
    brim = np.maximum(np.abs(rising + deep * 0.5) - deep, np.abs(scene.x - aside) - reach)
    scene.fill(brim, colour * 0.7)


def _paint_glasses(scene: Scene) -> None:
    gap, height = _eye_centre(scene)
    width, tall = scene.between("glass_width", 0.06, 0.08), scene.between("glass_height", 0.04, 0.06)
    corner = tall * scene.between("glass_round", 0.25, 0.95)
    x, y = np.abs(scene.side - gap), np.abs(scene.y - height)
    beyond = [np.square(np.maximum(x - (width - corner), 0)), np.square(np.maximum(y - (tall - corner), 0))]
    lens = np.sqrt(beyond[0] + beyond[1]) - corner
    colour = scene.colour("frame", 0.02, 0.7)
    scene.fill(lens, colour * 0.5, np.maximum(scene.between("glass_tint", -0.8, 0.8), 0.06))
    # Bridge and temples lie on one line, outside of the lenses and inside of the ears.
    temples = np.maximum(np.maximum(y - 0.006, -lens), scene.side - scene.face_width - 0.01)
    scene.fill(np.minimum(np.abs(lens) - scene.between("glass_thick", 0.005, 0.011), temples), colour)


def _photograph(scene: Scene, seeds: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Light the scene, blur it and add the sensor's noise."""
    light = scene.across * scene.between("light_x", -0.5, 0.5) + scene.down * scene.between("light_y", -0.4, 0.2)
    canvas = scene.canvas * ((light + scene.between("brightness", 0.75, 1.2)) * 255)[:, None]
    contrast = scene.between("contrast", 0.7, 1.1)[:, None]
    canvas *= contrast * scene.tint("cast_warm", 0.12)
    # Half a grey level more, for the cut to whole levels below rounds down.
    canvas += 110 * (1 - contrast) + 0.5
    blur = scene.between("blur", 0, 0.2)[:, None]
    for axis in (2, 3):
        flow = np.diff(canvas, axis=axis) * blur
        before, after = [(slice(None),) * axis + (part,) for part in (slice(1, None), slice(-1))]
        canvas[before] -= flow
        canvas[after] += flow
    # The sum of four random bytes is near to normal, and three times as fast.
    grain = np.empty(canvas.shape, np.float32)
    for seed, out in zip(seeds, grain, strict=True):
        words = np.random.SFC64(seed).random_raw((out.size + 1) // 2)
        np.sum(words.view(np.uint8)[: 4 * out.size].reshape(4, *out.shape), axis=0, dtype=np.uint16, out=out)
    canvas += (grain - 510) * (scene.between("noise", 0.01, 0.05)[:, None] * (255 / 147.8))
    return np.clip(canvas, 0, 255).astype(np.uint8)
