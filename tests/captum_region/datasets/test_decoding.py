"""decode_images: what becomes of each kind of file, and what the cache may and may not do."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile, features

from captum_region.datasets import decoding
from captum_region.datasets.decoding import cache_folder, decode_images

# A process that imports the module by its file, without the package: that would import torch.
ALONE = [
    sys.executable,
    "-c",
    "import importlib.util, os, sys\n"
    "spec = importlib.util.spec_from_file_location('decoding', sys.argv[1])\n"
    "sys.modules['decoding'] = decoding = importlib.util.module_from_spec(spec)\n"
    "spec.loader.exec_module(decoding)\n"
    "script, folder, cache, *names = sys.argv[2:]\n"
    "exec(script)\n",
    decoding.__file__,
]

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


@pytest.fixture
def decode(folder, tmp_path):
    """decode_images of this test's folder into this test's cache."""

    def call(names, size=8, **options):
        return decode_images(folder, names, size, **{"cache": tmp_path / "cache", **options})

    return call


def noise(seed=0, height=40, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(folder, name, picture, **options):
    """Save a PIL image or an array and return its name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(path, **options)
    return name


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def spoil(path):
    """Replace the bytes but keep the byte count and the modification time."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestPixels:
    def test_an_image_of_the_target_size_is_unchanged(self, folder, decode):
        pixels = noise(height=8, width=8)
        decoded = decode([save(folder, "a.png", pixels)])
        np.testing.assert_array_equal(decoded.images[0], pixels.transpose(2, 0, 1))

    def test_images_come_in_the_order_of_the_names(self, folder, decode):
        names = [save(folder, f"{seed}.png", np.full((8, 8, 3), seed, np.uint8)) for seed in range(200)]
        names = [names[at] for at in np.random.default_rng(0).permutation(200)]
        decoded = decode(names, n_jobs=3)
        assert decoded.images.shape == (200, 3, 8, 8)
        assert [f"{image[0, 0, 0]}.png" for image in decoded.images] == names
        np.testing.assert_array_equal(decoded.kept, np.arange(200))

    def test_resizing_is_antialiased(self, folder, decode):
        stripes = np.zeros((64, 64, 3), np.uint8)
        stripes[:, ::2] = 255
        image = decode([save(folder, "a.png", stripes)]).images[0]
        assert abs(image.astype(int) - 128).max() < 16

    def test_resizing_keeps_the_whole_image(self, folder, decode):
        halves = np.zeros((20, 60, 3), np.uint8)
        halves[:, 30:] = 255
        image = decode([save(folder, "a.png", halves)], size=(10, 6)).images[0]
        assert image.shape == (3, 10, 6)
        np.testing.assert_array_equal(image[0, 0], [0, 0, image[0, 0, 2], image[0, 0, 3], 255, 255])

    @pytest.mark.parametrize("size", [16, (16, 5), (5, 16)])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_quickly_decoded_jpeg_is_close_to_a_fully_decoded_one(self, folder, decode, size, progressive):
        y, x = np.mgrid[:200, :240]
        smooth = np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8)
        name = save(folder, "a.jpg", smooth, quality=95, progressive=progressive)
        width_height = (size, size) if isinstance(size, int) else size[::-1]
        full = Image.open(folder / name).resize(width_height, Image.Resampling.BILINEAR)
        np.testing.assert_allclose(decode([name], size).images[0], np.asarray(full).transpose(2, 0, 1), atol=4)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tiff"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_exif_orientation_is_applied(self, folder, decode, suffix, orientation):
        upright = np.zeros((32, 48, 3), np.uint8)
        upright[:16, :24], upright[:16, 24:], upright[16:, :24] = RED, GREEN, BLUE
        turned = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright, 1),
            7: np.rot90(upright, 2).transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = save(folder, f"a.{suffix}", np.ascontiguousarray(turned), exif=exif)
        image = decode([name], size=(4, 6)).images[0]
        corners = image[:, [0, 0, -1], [0, -1, 0]].T
        np.testing.assert_allclose(corners, [RED, GREEN, BLUE], atol=6)

    def test_damaged_exif_does_no_harm(self, folder, decode, recwarn):
        exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 30
        image = decode([save(folder, "a.jpg", np.full((8, 8, 3), 100, np.uint8), exif=exif)]).images[0]
        np.testing.assert_allclose(image, 100, atol=1)
        assert not recwarn.list

    @pytest.mark.parametrize(
        ("name", "picture", "expected"),
        [
            ("cmyk.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
            ("cmyk.tiff", Image.new("CMYK", (8, 8), (0, 0, 0, 255)), (0, 0, 0)),
            ("palette.png", Image.new("RGB", (8, 8), GREEN).quantize(4), GREEN),
            ("palette.gif", Image.new("RGB", (8, 8), BLUE).quantize(4), BLUE),
            ("bit.png", Image.new("1", (8, 8), 1), (255, 255, 255)),
            ("grey.jpg", Image.new("L", (8, 8), 90), (90, 90, 90)),
            ("clear.png", Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (0, 0, 0)),
            ("half.png", Image.new("RGBA", (8, 8), (200, 0, 0, 128)), (100, 0, 0)),
            ("opaque.png", Image.new("RGBA", (8, 8), (200, 1, 2, 255)), (200, 1, 2)),
            ("grey_alpha.png", Image.new("LA", (8, 8), (200, 128)), (100, 100, 100)),
            ("16bit.png", np.full((8, 8), 257 * 77, np.uint16), (77, 77, 77)),
            ("16bit.tiff", np.full((8, 8), 65535, np.uint16), (255, 255, 255)),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_every_mode_becomes_rgb(self, folder, decode, name, picture, expected):
        image = decode([save(folder, name, picture)]).images[0]
        np.testing.assert_allclose(image, np.broadcast_to(np.reshape(expected, (3, 1, 1)), (3, 8, 8)), atol=1)

    def test_a_transparent_palette_colour_is_black(self, folder, decode):
        picture = Image.new("P", (8, 8), 0)
        picture.putpalette([255, 255, 255, 10, 20, 30])
        picture.paste(1, (0, 0, 8, 4))
        image = decode([save(folder, "a.png", picture, transparency=b"\x00\xff")]).images[0]
        assert image[:, 0, 0].tolist() == [10, 20, 30]
        assert image[:, -1, 0].tolist() == [0, 0, 0]

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tiff", "avif", "jp2"])
    def test_every_supported_format_is_decoded(self, folder, decode, suffix):
        if {"webp": "webp", "avif": "avif", "jp2": "jpg_2000"}.get(suffix, "jpg") not in features.get_supported():
            pytest.skip("this Pillow is built without it")
        image = decode([save(folder, f"a.{suffix}", np.full((8, 8, 3), 50, np.uint8))]).images[0]
        np.testing.assert_allclose(image, 50, atol=2)

    def test_an_image_of_two_pictures_as_cameras_save_it(self, folder, decode):
        pictures = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
        image = decode([save(folder, "a.jpg", pictures[0], format="MPO", save_all=True, append_images=pictures[1:])])
        np.testing.assert_allclose(image.images[0, :, 0, 0], RED, atol=2)

    def test_a_format_that_pillow_lacks_is_not_supported(self, folder, decode, monkeypatch):
        good, other = save(folder, "a.png", noise()), save(folder, "b.bmp", noise())
        monkeypatch.delitem(Image.OPEN, "BMP")
        reasons = decode([good, other], on_error="skip").skipped["reason"]
        assert reasons.tolist() == ["not an image of a supported format"]

    @pytest.mark.parametrize(
        "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n", b"P5 2 2 255\n0000"]
    )
    def test_what_other_programs_run_is_not_opened(self, folder, decode, content, tmp_path):
        good = save(folder, "a.png", noise())
        (folder / "b.png").write_bytes(content)
        ran = tmp_path / "ran"
        for name in ("gs", "gswin32c"):  # a Ghostscript that leaves a trace
            (tmp_path / name).write_text(f"#!/bin/sh\necho 9 > {ran}\n")
            (tmp_path / name).chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
            decoded = decode([good, "b.png"], on_error="skip")
        assert decoded.skipped["reason"].tolist() == ["not an image of a supported format"]
        assert not ran.exists()


def damaged_files():
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise(height=80, width=80)).save(jpeg, "JPEG")
    Image.fromarray(noise(height=80, width=80)).save(png, "PNG")
    float_image = io.BytesIO()
    Image.fromarray(np.ones((8, 8), np.float32)).save(float_image, "TIFF")
    return {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"<html>404</html>", "not an image of a supported format"),
        "half.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "truncated"),
        "almost.jpg": (jpeg.getvalue()[:-3], "truncated"),
        "half.png": (png.getvalue()[: len(png.getvalue()) // 2], "damaged"),
        "header.png": (png.getvalue()[:20], "damaged|not an image"),
        "float.tiff": (float_image.getvalue(), "(?<!damaged: )floating-point pixels have no known range"),
        "missing.jpg": (None, "no such file"),
    }


class TestDamage:
    @pytest.fixture(params=damaged_files().items(), ids=lambda item: item[0])
    def damaged(self, request, folder):
        name, (content, reason) = request.param
        if content is not None:
            (folder / name).write_bytes(content)
        return name, reason

    def test_on_error_raise_names_the_file_and_the_reason(self, folder, decode, damaged):
        name, reason = damaged
        good = save(folder, "good.jpg", noise())
        with pytest.raises((ValueError, FileNotFoundError), match=f"(?s){name}.*({reason})") as raised:
            decode([good, name])
        assert raised.type is (FileNotFoundError if name == "missing.jpg" else ValueError)

    def test_on_error_skip_lists_what_was_skipped(self, folder, decode, damaged):
        name, reason = damaged
        good = [save(folder, f"{seed}.png", noise(seed)) for seed in range(2)]
        alone = decode(good)
        for _ in range(2):  # decoded, and from the cache
            decoded = decode([good[0], name, good[1]], on_error="skip")
            np.testing.assert_array_equal(decoded.images, alone.images)
            assert decoded.kept.tolist() == [0, 2]
            assert decoded.skipped["image"].tolist() == [name]
            assert decoded.skipped["reason"].str.contains(reason).all()

    def test_damage_raises_even_if_the_cache_lists_it_as_skipped(self, folder, decode):
        good = save(folder, "good.jpg", noise())
        (folder / "bad.jpg").write_bytes(b"bad")
        (folder / "worse.jpg").write_bytes(b"worse")
        decode([good, "bad.jpg", "worse.jpg"], on_error="skip")
        with pytest.raises(ValueError, match=r"bad\.jpg.*1 more"):
            decode([good, "bad.jpg", "worse.jpg"])

    @pytest.mark.parametrize("name", ["a\0.png", "x" * 10**6, "loop.png", "a.png/b.png"])
    def test_an_impossible_file_name_counts_as_missing(self, folder, decode, name):
        good = save(folder, "a.png", noise())
        (folder / "loop.png").symlink_to("loop.png")
        with pytest.raises(FileNotFoundError, match="there is no such file") as raised:
            decode([good, name])
        assert len(str(raised.value)) < 700
        decoded = decode([good, name], on_error="skip")
        assert decoded.skipped["image"].tolist() == [name]

    def test_a_folder_in_place_of_an_image_is_refused(self, folder, decode):
        (folder / "a.jpg").mkdir()
        with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
            decode(["a.jpg"])

    @pytest.mark.parametrize("factor", [1.5, 3], ids=["warning", "error"])
    def test_a_decompression_bomb_is_damage(self, folder, decode, monkeypatch, factor):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(40 * 30 / factor))
        names = [save(folder, "bomb.png", noise()), save(folder, "good.png", noise(height=8, width=8))]
        with pytest.raises(ValueError, match=r"bomb\.png.*decompression bomb"):
            decode(names)
        assert decode(names, on_error="skip").kept.tolist() == [1]

    def test_skipping_every_image_is_an_error(self, folder, decode, tmp_path):
        (folder / "a.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=r"none of 2 images.*a\.jpg: the file is empty"):
            decode(["a.jpg", "b.jpg"], on_error="skip")
        assert cached(tmp_path) == []

    def test_skipping_is_advised_where_it_leaves_an_image(self, folder, decode):
        good = save(folder, "good.png", noise())
        (folder / "a.jpg").write_bytes(b"")
        (folder / "b.jpg").write_bytes(b"text")
        for names in (["a.jpg", "b.jpg"], ["gone.jpg", "away.jpg"], ["a.jpg"]):
            with pytest.raises((ValueError, FileNotFoundError), match=f"none of {len(names)} images") as raised:
                decode(names)
            assert "on_error" not in str(raised.value)
        for names in (["a.jpg", "b.jpg", good], [good, "gone.jpg"]):
            with pytest.raises((ValueError, FileNotFoundError), match="on_error='skip' leaves such images out"):
                decode(names)

    def test_a_file_without_read_permission_does_not_count_as_damaged(self, folder, path_for_all):
        (folder / save(folder, "a.png", noise())).chmod(0)
        script = (
            "if os.geteuid() == 0:  # whom no permission stops\n"
            "    os.setuid(65534)\n"
            "try:\n"
            "    decoding.decode_images(folder, names, 8, cache=cache, on_error='skip', n_jobs=1)\n"
            "except PermissionError as error:\n"
            "    print(error.filename)\n"
        )
        cache = path_for_all / "cache"
        cache.mkdir()
        cache.chmod(0o777)
        command = [*ALONE, script, str(folder), str(cache), "a.png"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"{folder / 'a.png'}\n"


class TestCache:
    def test_a_second_call_decodes_nothing(self, folder, decode, tmp_path, capsys):
        names = [save(folder, f"{seed}.jpg", noise(seed)) for seed in range(5)]
        first = decode(names, show_progress=True)
        assert "decoding" in capsys.readouterr().err
        entries = cached(tmp_path)
        for name in names[1:2] + names[3:4]:  # of the others the content is looked at
            spoil(folder / name)
        second = decode(names, show_progress=True)
        np.testing.assert_array_equal(first.images, second.images)
        assert cached(tmp_path) == entries
        assert capsys.readouterr() == ("", "")

    def test_the_images_are_mapped_and_read_only(self, folder, decode):
        images = decode([save(folder, "a.png", noise())]).images
        assert isinstance(images, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 0

    def test_a_changed_file_is_decoded_again(self, folder, decode):
        name = save(folder, "a.png", np.zeros((8, 8, 3), np.uint8))
        assert decode([name]).images.max() == 0
        time = (folder / name).stat().st_mtime_ns
        save(folder, name, np.full((8, 8, 3), 9, np.uint8))
        os.utime(folder / name, ns=(time, time + 10**6))  # what each file system can tell
        assert decode([name]).images.min() == 9

    def test_other_files_or_another_size_have_their_own_cache_entry(self, folder, decode):
        names = [save(folder, f"{seed}.png", noise(seed)) for seed in range(2)]
        assert decode(names[:1]).images.shape == (1, 3, 8, 8)
        assert decode(names).images.shape == (2, 3, 8, 8)
        assert decode(names, size=9).images.shape == (2, 3, 9, 9)
        assert decode(names, size=(9, 8)).images.shape == (2, 3, 9, 8)
        assert len(decode([*names, "late.png"], on_error="skip").images) == 2
        save(folder, "late.png", noise(3))
        assert len(decode([*names, "late.png"], on_error="skip").images) == 3

    def test_a_moved_data_set_keeps_its_cache(self, folder, decode, tmp_path):
        names = [save(folder, f"{seed}.png", noise(seed)) for seed in range(4)]
        first = decode(names).images
        spoil(folder / names[1])
        folder.rename(tmp_path / "moved")
        moved = decode_images(tmp_path / "moved", names, 8, cache=tmp_path / "cache")
        np.testing.assert_array_equal(moved.images, first)

    def test_another_data_set_with_equal_names_sizes_and_times_has_its_own_entry(self, folder, decode, tmp_path):
        for place, value in ((folder, 0), (tmp_path / "other", 255)):
            save(place, "0.bmp", np.full((8, 8, 3), value, np.uint8))
            os.utime(place / "0.bmp", ns=(0, 0))
        assert decode(["0.bmp"]).images.max() == 0
        assert decode_images(tmp_path / "other", ["0.bmp"], 8, cache=tmp_path / "cache").images.min() == 255

    def test_what_counts_as_damaged_goes_by_pillows_settings_now(self, folder, decode, monkeypatch):
        names = [save(folder, name, noise()) for name in ("a.jpg", "b.jpg")]
        (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-100])
        assert len(decode(names, on_error="skip").images) == 1
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert len(decode(names).images) == 2
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
        with pytest.raises(ValueError, match=r"b\.jpg"):
            decode(names)

    @pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: b"", lambda content: b"x" * 999])
    @pytest.mark.parametrize("suffix", [".npy", ".json"])
    def test_a_truncated_cache_entry_is_rebuilt(self, folder, decode, tmp_path, harm, suffix):
        names = [save(folder, "a.png", noise()), "missing.png"]
        first = np.array(decode(names, on_error="skip").images)
        (entry,) = (tmp_path / "cache").glob(f"*{suffix}")
        entry.write_bytes(harm(entry.read_bytes()))
        again = decode(names, on_error="skip")
        np.testing.assert_array_equal(again.images, first)
        assert again.skipped["image"].tolist() == ["missing.png"]

    @pytest.mark.parametrize("start", range(0, 128, 5))
    def test_a_cache_entry_with_a_damaged_header_is_rebuilt(self, folder, decode, tmp_path, start):
        name = save(folder, "a.png", noise())
        first = np.array(decode([name]).images)
        (entry,) = (tmp_path / "cache").glob("*.npy")
        content = entry.read_bytes()
        for junk in (b"9" * 40, b"(" * 40, b"'", b"\xff"):
            entry.write_bytes(content[:start] + junk + content[start + len(junk) :])
            np.testing.assert_array_equal(decode([name]).images, first)

    @pytest.mark.parametrize("listing", ["[]", "null", '{"9": "x"}', '{"-1": "x"}', "[" * 10**5])
    def test_a_cache_entry_with_a_foreign_listing_is_rebuilt(self, folder, decode, tmp_path, listing):
        names = [save(folder, "a.png", noise()), "missing.png"]
        first = np.array(decode(names, on_error="skip").images)
        (entry,) = (tmp_path / "cache").glob("*.json")
        entry.write_text(listing)
        again = decode(names, on_error="skip")
        np.testing.assert_array_equal(again.images, first)
        assert again.skipped["reason"].tolist() == ["there is no such file"]

    @pytest.mark.parametrize("array", [np.array([{}] * 1, dtype=object), np.zeros((1, 3, 8, 8)), np.zeros(())])
    def test_a_cache_entry_with_another_array_is_rebuilt(self, folder, decode, tmp_path, array):
        name = save(folder, "a.png", noise())
        first = np.array(decode([name]).images)
        (entry,) = (tmp_path / "cache").glob("*.npy")
        np.save(entry, array)
        np.testing.assert_array_equal(decode([name]).images, first)

    @pytest.mark.parametrize("suffix", [".npy", ".json"])
    def test_a_cache_entry_that_lacks_a_file_is_rebuilt(self, folder, decode, tmp_path, suffix):
        name = save(folder, "a.png", noise())
        decode([name])
        (entry,) = (tmp_path / "cache").glob(f"*{suffix}")
        entry.unlink()
        assert len(decode([name]).images) == 1

    def test_an_error_leaves_nothing_in_the_cache(self, folder, decode, tmp_path):
        names = [save(folder, f"{seed}.png", noise(seed)) for seed in range(5)]
        (folder / "bad.png").write_bytes(b"bad")
        with pytest.raises(ValueError, match=r"bad\.png"):
            decode([*names, "bad.png"])
        assert cached(tmp_path) == []

    def test_a_killed_writer_leaves_no_entry(self, folder, decode, tmp_path):
        names = [save(folder, f"{seed}.png", noise(seed)) for seed in range(5)]
        # os._exit in the midst of decoding: no handler and no finally runs, as with a kill.
        script = (
            "real = decoding._read\n"
            "decoding._read = lambda read, path: os._exit(9) if path.endswith('4.png') else real(read, path)\n"
            "decoding.decode_images(folder, names, 8, cache=cache, n_jobs=1)\n"
        )
        command = [*ALONE, script, str(folder), str(tmp_path / "cache"), *names]
        assert subprocess.run(command, check=False).returncode == 9
        (left,) = (tmp_path / "cache").iterdir()
        assert left.name.startswith(".")
        assert len(decode(names).images) == 5
        assert left.exists()  # it could be of a writer that is at work
        an_hour_ago = left.stat().st_mtime - 3601
        os.utime(left, (an_hour_ago, an_hour_ago))
        decode(names)
        assert [Path(name).suffix for name in cached(tmp_path)] == [".json", ".npy"]

    def test_two_processes_may_build_the_same_entry_at_the_same_time(self, folder, decode, tmp_path):
        names = [save(folder, f"{seed}.jpg", noise(seed, 300, 300)) for seed in range(60)]
        # Both wait for the line on stdin, so that neither is done before the other begins.
        script = (
            "print('ready', flush=True); sys.stdin.readline()\n"
            "print(decoding.decode_images(folder, names, 64, cache=cache).images.sum())\n"
        )
        command = [*ALONE, script, str(folder), str(tmp_path / "cache"), *names]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(2) as pool:
            output = list(pool.map(lambda process: process.communicate("go\n"), processes))
        assert [process.returncode for process in processes] == [0, 0], output
        assert {int(stdout) for stdout, _ in output} == {int(decode(names, 64).images.sum())}
        assert [Path(name).suffix for name in cached(tmp_path)] == [".json", ".npy"]

    def test_nothing_is_written_beside_the_images(self, folder, decode):
        names = [save(folder, "sub/a.png", noise())]
        before = sorted(folder.rglob("*"))
        folder.chmod(0o555)
        try:
            decode(names)
        finally:
            folder.chmod(0o755)
        assert sorted(folder.rglob("*")) == before

    def test_the_cache_folder_follows_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("CAPTUM_REGION_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert cache_folder() == tmp_path / "home" / ".cache" / "captum_region"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "xdg" / "captum_region"
        monkeypatch.setenv("CAPTUM_REGION_CACHE", str(tmp_path / "mine"))
        assert cache_folder() == tmp_path / "mine"
        assert cache_folder("~/here") == tmp_path / "home" / "here"

    def test_images_are_cached_in_the_default_folder(self, folder, monkeypatch, tmp_path):
        monkeypatch.setenv("CAPTUM_REGION_CACHE", str(tmp_path / "cache"))
        decode_images(folder, [save(folder, "a.png", noise())], 8)
        assert len(cached(tmp_path)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be a positive int or .*, got 0"),
        ({"size": (8, -1)}, "size must be"),
        ({"size": (8, 8, 3)}, "size must be"),
        ({"size": 8.0}, "size must be"),
        ({"size": "8"}, "size must be"),
        ({"size": True}, "size must be"),
        ({"on_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
        ({"n_jobs": 0}, "n_jobs must be"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(folder, decode, options, message):
    with pytest.raises(ValueError, match=message):
        decode([save(folder, "a.png", noise())], **options)


def test_names_may_be_a_column_of_a_table(folder, decode):
    names = [save(folder, f"{seed}.png", noise(seed)) for seed in range(2)]
    np.testing.assert_array_equal(decode(pd.Series(names, index=[5, 6])).images, decode(names).images)


def test_an_empty_list_of_names_is_refused(decode):
    with pytest.raises(ValueError, match="names must list at least one image"):
        decode([])
