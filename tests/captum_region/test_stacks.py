"""Stacks: volumes from files, windows and their borders, patches, synthetic stacks of known truth."""

import resource
import sys

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from captum_region.stacks import RandomPatches, SliceWindows, Stack, make_stack, read_stack, read_volume

KINDS = (np.uint8, np.uint16)


def volume_of(kind, depth=12, height=9, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, (depth, height, width), kind)


def save_pages(path, volume, **options):
    first, *others = map(Image.fromarray, volume)
    first.save(path, save_all=True, append_images=others, **options)
    return path


def save_folder(folder, volume, name="z{}.png"):
    folder.mkdir()
    for number, pixels in enumerate(volume):
        Image.fromarray(pixels).save(folder / name.format(number))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["z{}.png", "Slice {} of 12.TIF"])
def test_a_folder_is_read_in_the_natural_order_of_its_names(tmp_path, kind, name):
    volume = volume_of(kind)
    folder = save_folder(tmp_path / "slices", volume, name)
    (folder / "notes.txt").write_text("no slice")
    (folder / ".z5.png").write_bytes(b"no slice")
    found = read_volume(folder)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, volume)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_has_a_slice_a_page(tmp_path, kind, compression):
    found = read_volume(save_pages(tmp_path / "volume.tif", volume := volume_of(kind), compression=compression))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, volume)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 12])
def test_a_tiff_stored_in_one_piece_is_memory_mapped_with_tifffile(tmp_path, monkeypatch, kind, depth):
    tifffile = pytest.importorskip("tifffile", reason="memory-maps TIFFs")
    volume = volume_of(kind, depth)
    tifffile.imwrite(tmp_path / "volume.tiff", volume, photometric="minisblack")
    found = read_volume(tmp_path / "volume.tiff")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, volume)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    np.testing.assert_array_equal(read_volume(tmp_path / "volume.tiff"), volume)


@pytest.mark.parametrize("is_absent", [False, True])
@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"imagej": True}, {"bigtiff": True}])
def test_a_tiff_that_is_cut_off_is_not_one_of_fewer_slices(tmp_path, monkeypatch, caplog, is_absent, options):
    tifffile = pytest.importorskip("tifffile", reason="writes the file")
    volume = volume_of(np.uint8)
    path = tmp_path / "volume.tif"
    tifffile.imwrite(path, volume, photometric="minisblack", **options)
    content = path.read_bytes()
    if is_absent:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    for kept in (1, 4, 8, 12, 100, len(content) // 3, len(content) // 2, len(content) - 300, len(content) - 31):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r"volume\.tif"):
            read_volume(path)
    assert not caplog.records
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path), volume)


@pytest.mark.parametrize("is_absent", [False, True])
def test_a_tiff_of_the_other_byte_order_gives_the_same_windows(tmp_path, monkeypatch, is_absent):
    tifffile = pytest.importorskip("tifffile", reason="writes the file")
    volume = volume_of(np.uint16)
    tifffile.imwrite(tmp_path / "big.tif", volume, byteorder=">", photometric="minisblack")
    if is_absent:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    big, little = SliceWindows(read_stack(tmp_path / "big.tif")), SliceWindows(volume)
    assert all(torch.equal(one, other) for one, other in zip(big, little, strict=True))
    assert big.digest() == little.digest()


def test_one_page_and_one_bit_and_float_tiffs_are_read(tmp_path):
    Image.fromarray(np.uint8([[1, 2]])).save(tmp_path / "one.tif")
    assert read_volume(tmp_path / "one.tif").tolist() == [[[1, 2]]]
    bits = np.random.default_rng(0).random((3, 8, 8)) > 0.5
    np.testing.assert_array_equal(read_volume(save_pages(tmp_path / "bits.tif", bits)), bits)
    floats = np.float32([[[0, 0.25], [0.5, 1]]])
    stack = read_stack(save_pages(tmp_path / "floats.tif", floats), save_folder(tmp_path / "m", bits[:1, :2, :2]))
    np.testing.assert_array_equal(stack.image(0), floats[0])
    np.testing.assert_array_equal(stack.label(0), bits[0, :2, :2])


def test_grey_slices_in_three_channels_are_grey_and_a_palette_is_of_classes(tmp_path):
    grey = np.uint8([[10, 20], [30, 40]])
    for name, channels in {
        "rgb": [grey] * 3,
        "rgba": [grey] * 3 + [grey * 0 + 255],
        "la": [grey, grey * 0 + 255],
    }.items():
        save_folder(tmp_path / name, [np.stack(channels, -1)])
        np.testing.assert_array_equal(read_volume(tmp_path / name)[0], grey)
    (tmp_path / "palette").mkdir()
    image = Image.fromarray(np.uint8([[0, 2], [1, 2]]), mode=None).convert("P")
    image.putpalette([0, 0, 0, 77, 77, 77, 99, 99, 99])
    image.putdata([0, 2, 1, 2])
    image.save(tmp_path / "palette" / "0.png")
    assert read_volume(tmp_path / "palette").tolist() == [[[0, 99], [77, 99]]]
    assert read_volume(tmp_path / "palette", labels=True).tolist() == [[[0, 2], [1, 2]]]


def test_npy_files_stay_memory_mapped_and_windows_are_read_one_by_one(tmp_path):
    # 4 GB, which the file system keeps as a hole.
    shape = (40_000, 320, 320)
    volume = np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=shape)
    volume[39_998:] = 255
    volume.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stack = read_stack(tmp_path / "large.npy")
    assert stack.name == "large"
    for part in (stack, stack[30_000:]):
        assert isinstance(part.images, np.memmap)
        windows = SliceWindows(part)
        assert windows[len(windows) - 2].mean((1, 2)).tolist() == [0, 1, 1]
        assert windows[5].max() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # in kB


def test_labels_stay_memory_mapped(tmp_path):
    labels = np.where(volume_of(np.uint8) > 100, 255, 0).astype(np.uint8)
    for name, values in (("images", volume_of(np.uint8)), ("labels", labels)):
        np.save(tmp_path / f"{name}.npy", values)
    stack = read_stack(tmp_path / "images.npy", tmp_path / "labels.npy")
    assert isinstance(stack.labels, np.memmap)
    assert stack.classes == 2
    np.testing.assert_array_equal(stack.label(3), labels[3] // 255)


@pytest.mark.parametrize(
    ("stored", "classes", "expected"),
    [
        (np.uint8([0, 255, 0]), 2, [0, 1, 0]),
        (np.uint16([0, 65535, 0]), 2, [0, 1, 0]),
        (np.int64([0, 0, 255]), 2, [0, 0, 1]),
        (np.array([True, False, True]), 2, [1, 0, 1]),
        (np.uint8([0, 0, 0]), 2, [0, 0, 0]),
        (np.uint8([0, 2, 1]), 3, [0, 2, 1]),
        (np.uint8([0, 255, 254]), 256, [0, 255, 254]),
    ],
)
def test_labels_are_classes_and_masks_of_0_and_255_are_two(stored, classes, expected):
    stack = Stack(np.zeros((3, 1, 1), np.uint8), stored[:, None, None])
    assert stack.classes == classes
    assert [stack.label(number).item() for number in range(3)] == expected
    # In a part too, whatever values it has.
    assert [stack[1:].label(number).item() for number in range(2)] == expected[1:]


def test_borders_by_hand():
    volume = np.uint8([0, 51, 102, 153, 204])[:, None, None]

    def tenths(windows):
        return [[round(10 * float(value)) for value in window.flatten()] for window in windows]

    assert tenths(SliceWindows(volume)) == [[2, 0, 2], [0, 2, 4], [2, 4, 6], [4, 6, 8], [6, 8, 6]]
    assert tenths(SliceWindows(volume, border="drop")) == [[0, 2, 4], [2, 4, 6], [4, 6, 8]]
    assert tenths(SliceWindows(volume, window=5)) == [
        [4, 2, 0, 2, 4], [2, 0, 2, 4, 6], [0, 2, 4, 6, 8], [2, 4, 6, 8, 6], [4, 6, 8, 6, 4],
    ]  # fmt: skip
    assert tenths(SliceWindows(volume, window=5, border="drop")) == [[0, 2, 4, 6, 8]]
    assert tenths(SliceWindows(volume, window=1)) == [[0], [2], [4], [6], [8]]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_hold_floats_and_the_centre_s_label(kind):
    volume, labels = volume_of(kind), volume_of(np.uint8, seed=1) % 3
    windows = SliceWindows(Stack(volume, labels), border="drop")
    assert [len(windows), list(windows.centres)] == [10, list(range(1, 11))]
    images, label = windows[4]
    assert (images.dtype, label.dtype) == (torch.float32, torch.int64)
    np.testing.assert_allclose(images, volume[4:7] / np.iinfo(kind).max, rtol=1e-6)
    np.testing.assert_array_equal(label, labels[5])
    images, label = windows.read(-1, np.s_[2:5, 1:3])
    assert (images.shape, label.shape) == ((3, 3, 2), (3, 2))
    np.testing.assert_array_equal(label, labels[10, 2:5, 1:3])
    with pytest.raises(IndexError):
        windows[10]


@pytest.mark.parametrize("size", [32, (24, 40)])
def test_the_truth_of_a_synthetic_stack_is_exact(size):
    for depends_on in ("previous", "centre", "next", "all"):
        stack = make_stack(depends_on, slices=6, size=size, random_state=0)
        for window, label in SliceWindows(stack):
            objects = (window * 255 > 127).long()
            expected = {"previous": objects[0], "centre": objects[1], "next": objects[2], "all": objects.sum(0) // 2}
            assert torch.equal(label, expected[depends_on])
            others = [expected[name] for name in expected if name != depends_on]
            assert not any(torch.equal(label, other) for other in others) or torch.equal(window[0], window[2])


def test_slices_of_a_synthetic_stack_are_independent_and_reproducible():
    stack = make_stack(slices=30, size=64, random_state=3)
    objects = (stack.images > 127).reshape(30, -1)
    np.testing.assert_allclose(objects.mean(1), 0.35, atol=1e-3)
    correlations = np.corrcoef(objects)[np.triu_indices(30, 1)]
    assert abs(correlations.mean()) < 0.03
    longer = make_stack("next", slices=40, size=64, random_state=3)
    np.testing.assert_array_equal(longer.images[:30], stack.images)
    assert not np.array_equal(make_stack(slices=30, size=64, random_state=4).images, stack.images)
    # Texture of its own: objects are not of one brightness.
    assert stack.images[0][stack.images[0] > 127].std() > 10


def test_patches_are_the_same_in_any_order_and_number_of_workers():
    windows = SliceWindows(make_stack(slices=6, size=32, random_state=0))
    patches = RandomPatches(windows, 16, length=12, flip_z=True, random_state=0)
    state = torch.get_rng_state()
    alone = [patches[index] for index in reversed(range(12))][::-1]
    assert torch.equal(state, torch.get_rng_state())
    loader = DataLoader(patches, batch_size=4, num_workers=2)
    together = [torch.cat(part) for part in zip(*loader, strict=True)]
    for number in range(2):
        assert torch.equal(together[number], torch.stack([patch[number] for patch in alone]))
    assert len({patch[0].numpy().tobytes() for patch in alone}) == 12
    other = RandomPatches(windows, 16, length=12, random_state=1)
    assert not torch.equal(other[0][0], alone[0][0])
    assert patches[12][0].shape == (3, 16, 16)


def test_augmentation_keeps_slices_and_label_together():
    stack = make_stack("previous", slices=8, size=32, random_state=0)
    windows = SliceWindows(stack, border="drop")
    plain = RandomPatches(windows, 24, augment=False, random_state=0)
    turned = RandomPatches(windows, 24, random_state=0)
    flipped = RandomPatches(windows, 24, flip_z=True, random_state=0)
    seen, reversed_ = set(), 0
    for index in range(100):
        (images, label), (same, its), (other, label_too) = plain[index], turned[index], flipped[index]
        for window, truth in ((images, label), (same, its)):
            assert torch.equal((window[0] * 255 > 127).long(), truth)
        ways = [
            (turns, is_mirrored)
            for turns in range(4)
            for is_mirrored in (False, True)
            if torch.equal(images.rot90(turns, (1, 2)).flip(2) if is_mirrored else images.rot90(turns, (1, 2)), same)
        ]
        assert len(ways) == 1
        seen.update(ways)
        # Reversed or not, and the centre's label as it was.
        assert torch.equal(label_too, its)
        is_reversed = torch.equal(other, same.flip(0))
        assert is_reversed or torch.equal(other, same)
        reversed_ += is_reversed
    assert len(seen) == 8
    assert 35 < reversed_ < 65


def test_patches_come_from_all_windows_of_all_volumes_alike():
    stacks = [Stack(np.full((depth, 8, 8), value, np.uint8), np.zeros((depth, 8, 8), bool))
              for depth, value in ((3, 51), (9, 102))]  # fmt: skip
    patches = RandomPatches([SliceWindows(stack) for stack in stacks], 8, random_state=0)
    found = [round(5 * float(patches[index][0].max())) for index in range(400)]
    assert set(found) == {1, 2}
    assert abs(found.count(1) - 100) < 30


def bad_files(tmp_path):
    """Yield files and folders that are no volume, and what the message must have."""
    whole = save_pages(tmp_path / "whole.tif", volume_of(np.uint8)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    yield "cut.tif", "cut.tif.* damaged|cut.tif: "
    (tmp_path / "empty.tif").write_bytes(b"")
    yield "empty.tif", "empty.tif: the file is empty|damaged"
    (tmp_path / "text.tif").write_text("no image")
    yield "text.tif", "text.tif: not an image"
    save_pages(tmp_path / "mixed.tif", [np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)])
    yield "mixed.tif", "all slices must be like page 0 of .*4 x 4 uint8; page 1 .* 4 x 5 uint8"
    save_pages(tmp_path / "colour.tif", volume_of(np.uint8, 2, 4, 12).reshape(2, 4, 4, 3))
    yield "colour.tif", r"colour.tif.*grey"
    mixed = save_folder(tmp_path / "mixed", volume_of(np.uint8))
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(mixed / "z3.png")
    yield "mixed", "z0.png, 9 x 7 uint8; .*z3.png is 9 x 8 uint8"
    deep = save_folder(tmp_path / "deep", volume_of(np.uint8))
    Image.fromarray(np.zeros((9, 7), np.uint16)).save(deep / "z3.png")
    yield "deep", "z3.png is 9 x 7 uint16"
    damaged = save_folder(tmp_path / "damaged", volume_of(np.uint8))
    (damaged / "z2.png").write_bytes((damaged / "z2.png").read_bytes()[:-40])
    yield "damaged", "z2.png: the image is damaged"
    pages = tmp_path / "pages"
    pages.mkdir()
    save_pages(pages / "a.tif", volume_of(np.uint8))
    yield "pages", "a.tif holds 12"
    (tmp_path / "none").mkdir()
    yield "none", "holds no image"
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), np.uint8))
    yield "flat.npy", r"flat.npy must hold grey slices.*\(4, 4\)"
    (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:-3])
    yield "cut.npy", "cut.npy is damaged"
    (tmp_path / "volume.mrc").write_bytes(b"MRC")
    yield "volume.mrc", "must be a folder of slices, a TIFF or a .npy file"


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_mapped_tiffs_are_read_as_pillow_reads_them(tmp_path, compression):
    stored = volume_of(np.uint8)
    tifffile.imwrite(tmp_path / "white.tif", stored, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read_volume(tmp_path / "white.tif"), 255 - stored)
    colour = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb", compression=compression)
    with pytest.raises(ValueError, match=r"colour\.tif: slices must be grey.* RGB"):
        read_volume(tmp_path / "colour.tif")


@pytest.mark.parametrize("is_absent", [False, True])
def test_files_that_hold_no_volume_are_named(tmp_path, monkeypatch, is_absent):
    if is_absent:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    for name, message in bad_files(tmp_path):
        with pytest.raises(ValueError, match=message):
            read_volume(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no"):
        read_volume(tmp_path / "missing")


def test_a_file_that_would_execute_code_is_refused(tmp_path, trap):
    np.save(tmp_path / "trap.npy", np.array([trap], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"trap.npy is damaged"):
        read_volume(tmp_path / "trap.npy")


IMAGES = np.zeros((4, 8, 8), np.uint8)
STACK = Stack(IMAGES, IMAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stack(IMAGES.tolist()), "images must be an array"),
        (lambda: Stack(IMAGES.astype(np.int16)), "images must be an array of uint8.* got int16"),
        (lambda: Stack(IMAGES[0]), r"images must have shape \(D, height, width\)"),
        (lambda: Stack(IMAGES[:0]), "images must have shape"),
        (lambda: Stack(np.float32(IMAGES) - 0.1), r"images of float type must lie in \[0, 1\]; slice 0"),
        (lambda: Stack(np.full((2, 4, 4), np.nan)), "images of float type"),
        (lambda: Stack(IMAGES, IMAGES[:3]), r"labels must have the shape of images, \(4, 8, 8\), got \(3, 8, 8\)"),
        (lambda: Stack(IMAGES, IMAGES / 1), "labels must be an array of bool or integers, got float64"),
        (lambda: Stack(IMAGES, IMAGES.astype(int) - 1), "labels must be at least 0, got -1 in slice 0"),
        (lambda: STACK[4:], "part must hold a slice"),
        (lambda: STACK[2], "part must be a slice"),
        (lambda: Stack(IMAGES).label(0), "labels must be given, volume has none"),
        (lambda: read_stack([1]), "images must be a path or an array, got list"),
        (lambda: read_stack(IMAGES, torch.zeros(3)), "labels must be a path or an array, got Tensor"),
        (lambda: SliceWindows(STACK, window=4), "window must be odd"),
        (lambda: SliceWindows(STACK, window=0), "window must be an integer of at least 1"),
        (lambda: SliceWindows(STACK, window=3.0), "window must be an integer"),
        (lambda: SliceWindows(STACK, window=9), "window must fit into the stack, 9 slices do not fit into 4"),
        (lambda: SliceWindows(STACK, window=5, border="drop"), "window must fit"),
        (lambda: SliceWindows(STACK, border="wrap"), "border must be one of 'reflect', 'drop', got 'wrap'"),
        (lambda: RandomPatches(SliceWindows(STACK), 9), "size must be at most the side of the slices, 9"),
        (lambda: RandomPatches(SliceWindows(IMAGES), 8), "windows must have labels"),
        (lambda: RandomPatches(STACK, 8), "windows must be SliceWindows"),
        (lambda: RandomPatches([], 8), "windows must be SliceWindows"),
        (lambda: RandomPatches([SliceWindows(STACK), SliceWindows(STACK, window=5)], 8), r"one window, got \[3, 5\]"),
        (lambda: make_stack("before"), "depends_on must be one of 'previous'"),
        (lambda: make_stack(slices=1), "slices must be at least 2"),
        (lambda: make_stack(slices=2.5), "slices must be an integer"),
        (lambda: make_stack(coverage=1), r"coverage must lie in \(0, 1\)"),
        (lambda: make_stack(size=0), "size must be a positive int"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize("next_page", [8, 2**64 - 1])
def test_pages_that_run_in_a_circle_or_out_of_the_file_are_refused(tmp_path, next_page):
    # A BigTIFF whose first page, at byte 16, has no tags.
    content = b"II" + np.array([43, 8, 0], "<u2").tobytes() + np.array([16, 0, next_page], "<u8").tobytes()
    (tmp_path / "odd.tif").write_bytes(content.replace((8).to_bytes(8, "little"), (16).to_bytes(8, "little")))
    with pytest.raises(ValueError, match=r"odd\.tif is damaged: it is cut off after 1 pages, or they run in a circle"):
        read_volume(tmp_path / "odd.tif")
