"""The readers: each layout, its variants, and what a malformed one is told."""

import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captum_region.datasets import load_celeba, load_fairface, load_table, load_utkface, read_attributes
from captum_region.datasets.listing import AGE_GROUPS

DATA = Path(__file__).parents[4] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the face data are not part of the project")

CELEBA = {  # image: (attributes, partition, identity)
    "000001.jpg": ((1, -1, -1), 0, 30),
    "000002.jpg": ((-1, 1, -1), 0, 40),
    "000003.jpg": ((-1, -1, 1), 1, 30),
    "000004.jpg": ((1, 1, 1), 2, 50),
}
NAMES = ("Blond_Hair", "Male", "Smiling")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTUM_REGION_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    made.mkdir()
    return made


def draw(path, value=0):
    """Save a small image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 11), (value, value, value)).save(path)


def write_celeba(root, *, suffix=".txt", images="img_align_celeba", rows=CELEBA):
    """Write a CelebA whose image 00000n.jpg has the grey value 10 n."""
    root.mkdir(exist_ok=True)
    for name in CELEBA:
        draw(root / images / name, 10 * int(name[:6]))
    if suffix == ".csv":
        attributes, partition = [",".join(["image_id", *NAMES])], ["image_id,partition"]
        identity, separator = ["image_id,identity"], ","
    else:
        attributes, partition, identity, separator = [str(len(rows)), " ".join(NAMES) + " "], [], [], " "
    for name, (values, part, person) in rows.items():
        # CelebA pads the numbers to two places.
        attributes.append(separator.join([name, *(f"{value:2d}" for value in values)]))
        partition.append(f"{name}{separator}{part}")
        identity.append(f"{name}{separator}{person}")
    (root / f"list_attr_celeba{suffix}").write_text("\n".join(attributes) + "\n")
    (root / f"list_eval_partition{suffix}").write_text("\n".join(partition) + "\n")
    (root / f"identity_CelebA{suffix}").write_text("\n".join(identity) + "\n")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def greys(faces):
    return np.rint(faces.images.mean(axis=(1, 2, 3))).tolist()


class TestCelebA:
    @pytest.mark.parametrize("suffix", [".txt", ".csv"])
    @pytest.mark.parametrize("images", ["img_align_celeba", "img_align_celeba/img_align_celeba"])
    @pytest.mark.parametrize("below", ["", "celeba"])
    def test_layouts(self, root, suffix, images, below):
        write_celeba(root / below, suffix=suffix, images=images)
        faces = load_celeba(root, size=(6, 5))
        assert faces.images.shape == (2, 3, 6, 5)
        assert greys(faces) == [10, 20]
        expected = pd.DataFrame(
            {"Blond_Hair": [True, False], "Male": [False, True], "Smiling": [False, False]},
            index=pd.Index(["000001.jpg", "000002.jpg"], name="image"),
        )
        pd.testing.assert_frame_equal(faces.attributes, expected)
        assert faces.identities.tolist() == [30, 40]
        assert faces.skipped.empty

    @pytest.mark.parametrize(
        ("split", "expected"), [("train", [10, 20]), ("valid", [30]), ("test", [40]), ("all", [10, 20, 30, 40])]
    )
    def test_splits(self, root, split, expected):
        write_celeba(root)
        assert greys(load_celeba(root, split)) == expected

    @pytest.mark.parametrize("below", ["", "CelebA"])
    @pytest.mark.parametrize("images", ["Img/img_align_celeba", "Img/img_align_celeba/img_align_celeba"])
    def test_as_it_is_downloaded(self, root, below, images):
        write_celeba(root / below, images=images)
        for name, folder in [("list_attr", "Anno"), ("identity", "Anno"), ("list_eval", "Eval")]:
            (root / below / folder).mkdir(exist_ok=True)
            for path in (root / below).glob(f"{name}*"):
                path.rename(root / below / folder / path.name)
        faces = load_celeba(root, "valid")
        assert greys(faces) == [30]
        assert faces.attributes.to_dict("list") == {"Blond_Hair": [False], "Male": [False], "Smiling": [True]}
        assert faces.identities.tolist() == [30]

    @pytest.mark.parametrize("suffix", [".txt", ".csv"])
    def test_labels_of_0_and_1(self, root, suffix):
        write_celeba(root, suffix=suffix)
        expected = load_celeba(root, "all").attributes
        path = root / f"list_attr_celeba{suffix}"
        path.write_text(path.read_text().replace("-1", " 0"))
        pd.testing.assert_frame_equal(load_celeba(root, "all").attributes, expected)

    def test_a_csv_with_quotes_and_blanks(self, root):
        write_celeba(root, suffix=".csv")
        expected = load_celeba(root).attributes
        replace(root / "list_attr_celeba.csv", "image_id,Blond_Hair,Male", 'image_id, "Blond_Hair" ,"Male"')
        replace(root / "list_attr_celeba.csv", "000002.jpg,", '"000002.jpg" ,')
        pd.testing.assert_frame_equal(load_celeba(root).attributes, expected)

    def test_the_split_all_needs_no_partition_file(self, root):
        write_celeba(root)
        (root / "list_eval_partition.txt").unlink()
        assert len(load_celeba(root, "all")) == 4
        with pytest.raises(FileNotFoundError, match="list_eval_partition"):
            load_celeba(root)

    def test_label_files_may_list_a_part(self, root):
        write_celeba(root, rows={name: CELEBA[name] for name in ("000002.jpg", "000003.jpg")})
        (root / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 0\n")
        faces = load_celeba(root)
        assert faces.attributes.index.tolist() == ["000002.jpg"]
        assert faces.identities.tolist() == [40]

    def test_the_rows_of_the_files_are_matched_by_image(self, root):
        write_celeba(root)
        for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
            lines = (root / name).read_text().splitlines()
            (root / name).write_text("\n".join(reversed(lines)) + "\n")
        faces = load_celeba(root)
        assert (greys(faces), faces.identities.tolist()) == ([10, 20], [30, 40])

    def test_without_identities(self, root):
        write_celeba(root)
        (root / "identity_CelebA.txt").unlink()
        assert load_celeba(root).identities is None

    @pytest.mark.parametrize(
        ("file", "old", "new", "message"),
        [
            ("list_attr_celeba", "4\n", "5\n", "line 1: must be the number of images, 4 follow, got '5'"),
            ("list_attr_celeba", "4\n", "", "line 1: must be the number of images, 3 follow, got 'Blond_Hair"),
            ("list_attr_celeba", "-1  1 -1", "-1  3 -1", r"row 2 \(000002.jpg\): 'Male' must be one of .* got '3'"),
            ("list_attr_celeba", "-1  1 -1", "-1  x -1", r"row 2 \(000002.jpg\): 'Male' must be one of .* got 'x'"),
            (
                "list_attr_celeba",
                "-1  1 -1",
                "-1  0 -1",
                r"row 2 \(000002.jpg\): 'Male' must be one of \(-1, 1\), got '0'",
            ),
            ("list_attr_celeba", "-1  1 -1", "-1  1", r"row 2 \(000002.jpg\): 'Smiling' must be one of .* got 'nan'"),
            ("list_attr_celeba", "-1  1 -1", "-1  1 -1 -1", "Expected 4 fields in line 2, saw 5"),
            ("list_attr_celeba", " Smiling", "", "row of 000001.jpg: 3 values for the 2 columns"),
            ("list_attr_celeba", "000002.jpg", "000001.jpg", "lists 000001.jpg more than once"),
            (
                "list_eval_partition",
                "000002.jpg 0",
                "000002.jpg 7",
                r"row 2 \(000002.jpg\): .* one of \(0, 1, 2\), got '7'",
            ),
            ("list_eval_partition", "000002.jpg 0\n", "000001.jpg 0\n", "lists 000001.jpg more than once"),
            ("identity_CelebA", "40", "4x", r"row 2 \(000002.jpg\): 'value' must be an integer, got '4x'"),
            ("identity_CelebA", "40", "4.5", r"row 2 \(000002.jpg\): 'value' must be an integer, got '4.5'"),
            ("identity_CelebA", "000002.jpg 40\n", "", r"has no row for 000002.jpg \(1 such"),
        ],
    )
    def test_malformed_label_files_are_refused(self, root, file, old, new, message):
        write_celeba(root)
        replace(root / f"{file}.txt", old, new)
        with pytest.raises(ValueError, match=f"{file}.*{message}"):
            load_celeba(root)

    def test_a_malformed_csv_is_refused(self, root):
        write_celeba(root, suffix=".csv")
        replace(root / "list_attr_celeba.csv", "-1, 1,-1", "-1, 0,-1")
        with pytest.raises(
            ValueError, match=r"list_attr_celeba.csv, row 2 \(000002.jpg\): 'Male' must be one of .* got '0'"
        ):
            load_celeba(root)

    @pytest.mark.parametrize("content", ["", "4\n", "0\nMale\n"])
    def test_a_label_file_without_rows_is_refused(self, root, content):
        write_celeba(root)
        (root / "list_attr_celeba.txt").write_text(content)
        with pytest.raises(ValueError, match=r"list_attr_celeba\.txt"):
            load_celeba(root)

    def test_an_empty_split_is_refused(self, root):
        write_celeba(root, rows={name: row for name, row in CELEBA.items() if row[1] != 2})
        with pytest.raises(ValueError, match=r"split 'test' is empty: .*list_eval_partition\.txt"):
            load_celeba(root, "test")

    def test_an_unknown_split_is_refused(self, root):
        with pytest.raises(ValueError, match="split must be one of train, valid, test and all, got 'val'"):
            load_celeba(root, "val")

    @pytest.mark.parametrize("content", [None, b"", b"no image"])
    def test_a_bad_image_raises_or_is_skipped_with_its_row(self, root, content):
        write_celeba(root)
        path = root / "img_align_celeba" / "000001.jpg"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=r"000001\.jpg"):
            load_celeba(root)
        faces = load_celeba(root, on_error="skip")
        assert (greys(faces), faces.identities.tolist()) == ([20], [40])
        assert faces.attributes.index.tolist() == ["000002.jpg"]
        assert faces.skipped["image"].tolist() == ["000001.jpg"]

    @pytest.mark.parametrize("missing", ["root", "img_align_celeba", "list_attr_celeba.txt"])
    def test_missing_folders_and_files_are_named(self, root, missing):
        write_celeba(root)
        (root if missing == "root" else root / missing).rename(root.with_name("away"))
        with pytest.raises(FileNotFoundError, match=missing):
            load_celeba(root)

    @needs_data
    def test_real_labels_of_celeba(self, root):
        """The counts that the data's README states, read from the labels alone; then a few real images."""
        from captum_region.datasets.celeba import _rows

        folder = DATA / "celeba"
        attributes = _rows(folder / "list_attr_celeba.txt", allowed=((-1, 1),), has_names=True) == 1
        partition = _rows(folder / "list_eval_partition.txt", allowed=((0, 1, 2),))["value"]
        counts = attributes.groupby([partition, "Male", "Blond_Hair"]).size()
        assert counts.to_dict() == {
            (0, True, True): 359,
            (0, True, False): 7839,
            (0, False, True): 2398,
            (0, False, False): 8137,
            (1, True, True): 44,
            (1, True, False): 2038,
            (1, False, True): 617,
            (1, False, False): 1836,
        }
        lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
        (root / "list_attr_celeba.txt").write_text("\n".join(["50", *lines[1:52]]) + "\n")
        for name in ("list_eval_partition.txt", "identity_CelebA.txt", "img_align_celeba"):
            (root / name).symlink_to((folder / name).resolve())
        faces = load_celeba(root, "all")
        assert faces.images.shape == (50, 3, 64, 64)
        assert faces.attributes.shape == (50, 40)
        assert len(set(faces.identities)) > 40
        assert 60 < faces.images.mean() < 180


FAIRFACE = {
    "train": ["train/1.jpg,50-59,Male,East Asian,True", "train/2.jpg,more than 70,Female,Black,False"],
    "val": ["val/1.jpg,3-9,Female,Latino_Hispanic,False"],
}


def write_fairface(root):
    for part, rows in FAIRFACE.items():
        lines = ["file,age,gender,race,service_test", *rows]
        (root / f"fairface_label_{part}.csv").write_text("\n".join(lines) + "\n")
        for row in rows:
            draw(root / row.split(",")[0])


class TestFairFace:
    def test_layout(self, root):
        write_fairface(root)
        faces = load_fairface(root, size=16)
        assert faces.images.shape == (2, 3, 16, 16)
        assert faces.identities is None
        attributes = faces.attributes
        assert attributes.index.tolist() == ["train/1.jpg", "train/2.jpg"]
        assert attributes["age"].tolist() == ["50-59", "more than 70"]
        assert attributes["age"].cat.categories.tolist() == list(AGE_GROUPS)
        assert (attributes["age"] > "50-59").tolist() == [False, True]
        assert attributes["gender"].tolist() == ["Male", "Female"]
        assert attributes["race"].tolist() == ["East Asian", "Black"]
        assert attributes["service_test"].tolist() == [True, False]
        assert attributes["service_test"].dtype == bool

    @pytest.mark.parametrize("margins", [("025",), ("125",), ("125", "025")])
    @pytest.mark.parametrize("depth", [1, 2])
    @pytest.mark.parametrize("labels_inside", [False, True])
    def test_as_it_is_unpacked(self, root, margins, depth, labels_inside):
        write_fairface(root)
        for margin in margins:
            folder = root.joinpath(*[f"fairface-img-margin{margin}-trainval"] * depth)
            for part, rows in FAIRFACE.items():
                for row in rows:
                    draw(folder / row.split(",")[0], int(margin))
                if labels_inside:
                    shutil.copy(root / f"fairface_label_{part}.csv", folder)
        for left in [root / "train", root / "val"]:
            shutil.rmtree(left)
        if labels_inside:
            for left in root.glob("*.csv"):
                left.unlink()
        faces = load_fairface(root, "all")
        assert greys(faces) == [int(min(margins))] * 3
        assert faces.attributes.index.tolist() == ["train/1.jpg", "train/2.jpg", "val/1.jpg"]

    @pytest.mark.parametrize(("split", "count"), [("train", 2), ("validation", 1), ("all", 3)])
    def test_splits(self, root, split, count):
        write_fairface(root)
        assert len(load_fairface(root, split)) == count

    def test_a_missing_image_raises_or_is_skipped(self, root):
        write_fairface(root)
        (root / "train/1.jpg").unlink()
        with pytest.raises(FileNotFoundError, match=r"1\.jpg"):
            load_fairface(root)
        assert load_fairface(root, on_error="skip").skipped["image"].tolist() == ["train/1.jpg"]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("gender", "sex", "has no column 'gender'; its columns are 'file', 'age', 'sex'"),
            ("50-59", "50-60", r"row 1 \(train/1.jpg\): 'age' must be one of .*, got '50-60'"),
            ("Female", "", r"row 2 \(train/2.jpg\): 'gender' must be one of .*, got nan"),
            ("train/2.jpg", "train/1.jpg", "'train/1.jpg' is listed again"),
            ("train/2.jpg", "", r"row 2: 'file' must name an image, got nothing \(1 such rows\)"),
        ],
    )
    def test_malformed_labels_are_refused(self, root, old, new, message):
        write_fairface(root)
        replace(root / "fairface_label_train.csv", old, new)
        with pytest.raises(ValueError, match=message):
            load_fairface(root)

    def test_a_missing_label_file_is_named(self, root):
        with pytest.raises(FileNotFoundError, match=r"fairface_label_val\.csv"):
            load_fairface(root, "validation")

    def test_a_label_file_without_images_is_refused(self, root):
        (root / "fairface_label_train.csv").write_text("file,age,gender,race,service_test\n")
        with pytest.raises(ValueError, match="split 'train' is empty"):
            load_fairface(root)

    def test_an_unknown_split_is_refused(self, root):
        with pytest.raises(ValueError, match="split must be one of train, validation, all, got 'test'"):
            load_fairface(root, "test")


class TestUTKFace:
    @pytest.mark.parametrize("below", ["", "images", "UTKFace"])
    def test_layouts(self, root, below):
        draw(root / below / "2_0_0_20170119171541497.jpg.chip.jpg", 1)
        draw(root / below / "3_1_4_20170119171541498.jpg", 2)
        draw(root / below / "._3_1_4_20170119171541498.png")
        (root / below / "README.txt").write_text("no image")
        faces = load_utkface(root, size=12)
        assert faces.images.shape == (2, 3, 12, 12)
        expected = pd.DataFrame(
            {
                "age": [2, 3],
                "age_group": pd.Categorical(["0-2", "3-9"], AGE_GROUPS, ordered=True),
                "gender": ["Male", "Female"],
                "race": ["White", "Others"],
                "Male": [True, False],
            },
            index=pd.Index(["2_0_0_20170119171541497.jpg.chip.jpg", "3_1_4_20170119171541498.jpg"], name="image"),
        )
        pd.testing.assert_frame_equal(faces.attributes, expected)
        assert faces.identities is None

    @pytest.mark.parametrize("inner", [False, True])
    @pytest.mark.parametrize(
        "parts", [["part1", "part2", "part3"], ["part2"], ["crop_part1"], ["UTKFace", "crop_part1"]]
    )
    def test_parts(self, root, parts, inner):
        for number, part in enumerate(parts):
            draw(root / part / (part if inner else "") / f"{number + 1}_0_0_1.jpg", 10 * number)
            (root / part / "README.txt").write_text("no image")
        faces = load_utkface(root)
        counted = 3 if len(parts) == 3 else 1  # UTKFace holds those of crop_part1 too
        assert greys(faces) == [0, 10, 20][:counted]
        assert faces.attributes["age"].tolist() == [1, 2, 3][:counted]
        if counted == 3:
            assert faces.attributes.index[0] == ("part1/part1/1_0_0_1.jpg" if inner else "part1/1_0_0_1.jpg")
        else:
            assert faces.attributes.index.tolist() == ["1_0_0_1.jpg"]

    @pytest.mark.parametrize(
        ("age", "group"),
        [
            (0, "0-2"),
            (2, "0-2"),
            (3, "3-9"),
            (9, "3-9"),
            (10, "10-19"),
            (19, "10-19"),
            (69, "60-69"),
            (70, "more than 70"),
            (116, "more than 70"),
        ],
    )
    def test_age_groups(self, root, age, group):
        draw(root / f"{age}_0_0_1.jpg")
        assert load_utkface(root).attributes["age_group"].tolist() == [group]

    @pytest.mark.parametrize(
        "name",
        [
            "61_1_20170109.jpg.chip.jpg",
            "53__0_2017.jpg",
            "20_2_0_2017.jpg",
            "20_0_5_1.jpg",
            "117_0_0_1.jpg",
            "999_0_0_1.jpg",
        ],
    )
    def test_a_file_name_without_labels_raises_or_is_skipped(self, root, name):
        draw(root / name)
        for on_error in ("raise", "skip"):  # and skipping is not advised, it would leave nothing
            with pytest.raises(ValueError, match="no image named") as raised:
                load_utkface(root, on_error=on_error)
            assert "on_error" not in str(raised.value)
        draw(root / "20_0_0_1.jpg")
        (root / "30_0_0_1.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name}: the file name is not"):
            load_utkface(root)
        faces = load_utkface(root, on_error="skip")
        assert faces.attributes.index.tolist() == ["20_0_0_1.jpg"]
        assert faces.skipped["image"].tolist() == [name, "30_0_0_1.jpg"]
        assert faces.skipped["reason"].str.contains("file name is not|empty").all()

    def test_a_missing_folder_and_one_without_images_are_refused(self, root):
        with pytest.raises(ValueError, match="no image named"):
            load_utkface(root)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load_utkface(root / "nowhere")

    @needs_data
    def test_real_images_of_utkface(self, root):
        for path in sorted((DATA / "utkface" / "images").iterdir())[::200]:
            shutil.copy(path, root)
        faces = load_utkface(root)
        assert faces.images.shape == (30, 3, 64, 64)
        assert faces.attributes["age"].between(0, 116).all()
        assert faces.attributes["age_group"].notna().all()
        assert 60 < faces.images.mean() < 180


class TestTable:
    @pytest.fixture
    def table(self, root):
        for value in range(3):
            draw(root / f"faces/{value}.png", 10 * value)
        return pd.DataFrame(
            {"image": [f"faces/{value}.png" for value in range(3)], "smile": [1, 0, 1], "person": ["a", "b", "a"]}
        )

    @pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
    def test_a_file_beside_its_images(self, root, table, suffix, separator):
        table.to_csv(root / f"labels{suffix}", sep=separator, index=False)
        faces = load_table(root / f"labels{suffix}", size=(7, 9))
        assert faces.images.shape == (3, 3, 7, 9)
        assert greys(faces) == [0, 10, 20]
        assert faces.attributes.index.tolist() == table["image"].tolist()
        assert faces.attributes.columns.tolist() == ["smile", "person"]
        assert faces.identities is None

    def test_a_parquet_file_is_read(self, root, table):
        pytest.importorskip("pyarrow")
        table.to_parquet(root / "labels.parquet")
        assert len(load_table(root / "labels.parquet")) == 3

    def test_a_data_frame_is_read_and_left_as_it_was(self, root, table):
        before = table.copy()
        faces = load_table(table, root=root, identity_column="person")
        assert faces.identities.tolist() == ["a", "b", "a"]
        assert faces.attributes.columns.tolist() == ["smile"]
        pd.testing.assert_frame_equal(table, before)

    def test_a_frame_without_root_is_relative_to_the_working_directory(self, root, table, monkeypatch):
        monkeypatch.chdir(root)
        assert len(load_table(table)) == 3

    def test_paths_may_be_absolute_and_path_objects(self, root, table, tmp_path):
        table["file"] = [root / name for name in table.pop("image")]
        faces = load_table(table, "file", root=tmp_path)
        assert greys(faces) == [0, 10, 20]

    def test_image_names_that_look_like_numbers_stay_text(self, root):
        Image.new("RGB", (8, 8)).save(root / "007", format="PNG")
        (root / "labels.csv").write_text("image,smile\n007,1\n")
        assert load_table(root / "labels.csv").attributes.index.tolist() == ["007"]

    def test_a_bad_image_is_skipped_with_its_row(self, root, table):
        (root / "faces/1.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"1\.png"):
            load_table(table, root=root)
        faces = load_table(table, root=root, identity_column="person", on_error="skip")
        assert (greys(faces), faces.identities.tolist()) == ([0, 20], ["a", "a"])
        assert faces.attributes["smile"].tolist() == [1, 1]
        assert faces.skipped["image"].tolist() == ["faces/1.png"]

    @pytest.mark.parametrize(
        ("change", "options", "message"),
        [
            (
                lambda table: table,
                {"image_column": "path"},
                "table has no column 'path'; its columns are 'image', 'smile'",
            ),
            (
                lambda table: table,
                {"identity_column": "id"},
                "table has no column 'id'; its columns are 'image', 'smile'",
            ),
            (lambda table: table[:0], {}, "table lists no image"),
            (lambda table: pd.concat([table, table[:2]]), {}, r"'faces/0.png' is listed again \(2 such rows\)"),
            (lambda table: table.assign(image=["faces/0.png", None, "faces/1.png"]), {}, "'image': no value in row 2"),
            (lambda table: table.assign(person=["a", "b", None]), {"identity_column": "person"}, "no value in row 3"),
        ],
    )
    def test_tables_with_missing_or_duplicate_images_are_refused(self, root, table, change, options, message):
        with pytest.raises(ValueError, match=message):
            load_table(change(table), root=root, **options)

    def test_an_image_is_not_listed_twice_by_another_path(self, root, table):
        names = ["faces/0.png", "faces/1.png", root / "faces" / "0.png"]
        with pytest.raises(ValueError, match=r"0.png' is listed again"):
            load_table(table.assign(image=names), root=root)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
    def test_encodings_line_ends_quotes_and_blanks(self, root, encoding, newline):
        names = ["with space.png", "quo,ted.png", 'a"b.png', "日本.png"]
        for value, name in enumerate(names):
            draw(root / name, 10 * value)
        rows = ["image,große Brille", "with space.png,ja", '"quo,ted.png",nein', '"a""b.png",ja', "日本.png,nein", ""]
        (root / "labels.csv").write_bytes(newline.join(rows).encode(encoding))
        faces = load_table(root / "labels.csv")
        assert greys(faces) == [0, 10, 20, 30]
        assert faces.attributes.index.tolist() == names
        assert faces.attributes["große Brille"].tolist() == ["ja", "nein", "ja", "nein"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("image,smile\na.png,1\nü.png,0\n".encode("latin-1"), "line 3 is not UTF-8"),
            ("image,smile\na.png,1\n".encode("utf-16-le"), "line 1 is not UTF-8.*has a zero"),
            ("image,smile\na.png,1\n".encode("utf-32"), "line 1 is not UTF-8.*has a zero"),
            (b"image,smile\na.png,1\nb\0.png,1\n", "line 3 is not UTF-8.*has a zero"),
            (b"\x89PNG\r\n\x1a\n" + bytes(99), "line 1 is not UTF-8"),
            (b"image;smile\na.png;1\n", "no column 'image'; its columns are 'image;smile'; a .csv has commas"),
            (b"image\tsmile\na.png\t1\n", "no column 'image'.*a .csv has commas"),
            (
                b"Image,smile\na.png,1\n",
                "no column 'image'; its columns are 'Image', 'smile'; name another with image_column",
            ),
            (b"image,smile\na.png,1,2\nb.png,1,2\n", "Expected 2 fields in line 2, saw 3"),
            (b"image;smile\na.png;0,5\n", "saw 2; a .csv has commas between its values"),
            (b"image,smile,hat,smile\na.png,1,1,0\n", "column 'smile' occurs twice"),
            (b"image,image\na.png,b.png\n", "column 'image' occurs twice"),
            (b"image,smile\n", "lists no image"),
            (b"\n\n", "No columns"),
            (b'image,smile\n"a.png,1\nb.png,2\n', "EOF inside string"),
            (b"image,smile\na.png,1\n ,0\n", "'image': no value in row 2"),
            (b"image,smile\na.png,1\n./a.png,0\n", "listed only once, './a.png' is listed again"),
            (b"image,smile\na.png,1\nb/../a.png,0\n", "listed only once"),
        ],
    )
    def test_malformed_tables_are_refused(self, root, content, message):
        draw(root / "a.png")
        (root / "labels.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message) as raised:
            load_table(root / "labels.csv", on_error="skip")
        assert "labels.csv" in str(raised.value) or "listed only once" in message

    def test_blanks_quotes_and_what_is_missing(self, root):
        for name in "abcd":
            draw(root / f"{name}.png")
        (root / "labels.csv").write_text(
            'image , "hat" ,old, worn ,n\n a.png,None, True ,nan,1 \n"b.png" ,Cap ,True,NA, 2\n'
            'c.png, "Cap, red",False,"", 3\nd.png,   Cap,False ,  ,4\n'
        )
        attributes = load_table(root / "labels.csv").attributes
        assert attributes.index.tolist() == ["a.png", "b.png", "c.png", "d.png"]
        assert attributes["hat"].tolist() == ["None", "Cap", "Cap, red", "Cap"]
        assert attributes["old"].tolist() == [True, True, False, False]
        assert attributes["old"].dtype == bool
        assert attributes["worn"].iloc[:2].tolist() == ["nan", "NA"]
        assert attributes["worn"].isna().tolist() == [False, False, True, True]
        assert attributes["n"].tolist() == [1, 2, 3, 4]

    def test_columns_that_differ_in_blanks_alone(self, root):
        (root / "labels.csv").write_text("image,hat,hat \na.png,1,0\n")
        with pytest.raises(ValueError, match="column 'hat' occurs twice"):
            load_table(root / "labels.csv")

    def test_names_and_values_are_quoted_in_messages(self, root):
        draw(root / "a.png")
        draw(root / "b.png")
        table = pd.DataFrame({"image": ["a.png", "b.png"], "hat": ["Cap", "Cap "]})
        faces = load_table(table, root=root)
        with pytest.raises(ValueError, match="'no' is not an attribute of these images; there are 'hat'"):
            faces.labels("no")
        with pytest.raises(ValueError, match="no image has 'hat=no'; 'hat' takes 'Cap', 'Cap '"):
            faces.labels("hat=no")
        with pytest.raises(
            ValueError, match="'hat' is not binary; name one of its values, as in 'hat=Cap', 'hat=Cap '"
        ):
            faces.binary("hat")

    @pytest.mark.parametrize("library", ["numpy", "pyarrow"])
    def test_columns_that_pyarrow_keeps(self, root, library):
        pytest.importorskip("pyarrow")
        names = [f"{number}.png" for number in range(4)]
        for name in names:
            draw(root / name)
        columns = {
            "hat": ["Cap", "Hat", "Cap", "0"],
            "old": [True, False, False, True],
            "n": [3, 1, 2, 0],
            "x": [0, 1, 1, 0],
        }
        table = pd.DataFrame({"image": names, **columns})
        table = table.convert_dtypes(dtype_backend="pyarrow") if library == "pyarrow" else table
        faces = load_table(table, root=root)
        assert faces.labels("hat").tolist() == ["Cap", "Hat", "Cap", "0"]
        assert faces.labels("hat").dtype.kind == "U"
        assert faces.labels("hat=Cap").tolist() == faces.binary("hat=Cap").tolist() == [True, False, True, False]
        assert faces.binary("old").tolist() == faces.labels("old").tolist() == [True, False, False, True]
        assert faces.labels("n").tolist() == [3, 1, 2, 0]
        assert faces.labels("n").dtype.kind == "i"
        assert faces.labels("x").tolist() == faces.binary("x").tolist() == [False, True, True, False]
        assert faces.labels("x").dtype == faces.binary("old").dtype == bool
        with pytest.raises(ValueError, match="'hat' is not binary"):
            faces.binary("hat")

    def test_rows_longer_or_shorter_than_the_header(self, root):
        draw(root / "a.png")
        draw(root / "b.png")
        (root / "labels.csv").write_text("image,smile,\na.png,1,\nb.png,0,\n")  # as some programs end each row
        assert load_table(root / "labels.csv").attributes["smile"].tolist() == [1, 0]
        (root / "labels.csv").write_text("image,smile,hat\na.png,1,1\nb.png,0\n")
        faces = load_table(root / "labels.csv")
        assert faces.labels("smile").tolist() == [True, False]  # what lacks a value harms nobody who does not use it
        for name in ("hat", "hat=1.0"):
            with pytest.raises(ValueError, match=r"'hat' is missing for 1 of 2 images, the first is b\.png"):
                faces.labels(name)
            with pytest.raises(ValueError, match="'hat' is missing"):
                faces.binary(name)

    def test_one_hot_columns_are_attributes(self, root):
        draw(root / "a.png")
        draw(root / "b.png")
        (root / "labels.csv").write_text("image,race=White,race\na.png,1,Asian\nb.png,0,Black\n")
        faces = load_table(root / "labels.csv")
        assert faces.labels("race=White").tolist() == faces.binary("race=White").tolist() == [True, False]
        assert faces.labels("race=Black").tolist() == [False, True]

    def test_images_may_lie_elsewhere_but_only_images_are_read(self, root, tmp_path):
        draw(tmp_path / "outside.png", 40)
        (tmp_path / "secret.txt").write_text("the password is 1234")
        (root / "labels.csv").write_text("image,smile\n../outside.png,1\n../secret.txt,0\n")
        with pytest.raises(ValueError, match=r"secret\.txt: not an image") as raised:
            load_table(root / "labels.csv")
        assert "1234" not in str(raised.value)
        faces = load_table(root / "labels.csv", on_error="skip")
        assert greys(faces) == [40]
        assert faces.skipped["image"].tolist() == ["../secret.txt"]

    def test_long_names_are_shortened_in_the_error(self, root):
        draw(root / "a.png")
        (root / "labels.csv").write_text(f"image,smile\na.png,{'x' * 10**6}\n{'y' * 10**6},1\n")
        with pytest.raises(FileNotFoundError, match=r"y\.\.\. \(1,0\d\d,\d\d\d characters\): there is no such file"):
            load_table(root / "labels.csv")
        assert len(load_table(root / "labels.csv", on_error="skip")) == 1

    @pytest.mark.parametrize("name", [1.5, b"a.png", ["a.png"], True, 0.0])
    def test_image_names_that_are_not_text_are_refused(self, root, name):
        draw(root / "a.png")
        with pytest.raises(TypeError, match="table, column 'image', row 2: must name an image, got "):
            load_table(pd.DataFrame({"image": ["a.png", name]}), root=root)

    def test_a_duplicate_column_is_refused(self, root):
        draw(root / "a.png")
        with pytest.raises(ValueError, match="different column names, 'smile' occurs twice"):
            load_table(pd.DataFrame([["a.png", 1, 0]], columns=["image", "smile", "smile"]), root=root)

    def test_a_damaged_parquet_file_is_named(self, root):
        pytest.importorskip("pyarrow")
        (root / "labels.parquet").write_bytes(b"PAR1 junk")
        with pytest.raises(ValueError, match=r"labels\.parquet: "):
            load_table(root / "labels.parquet")

    def test_parquet_without_pyarrow_says_what_is_missing(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "fastparquet", None)
        (root / "labels.parquet").touch()
        with pytest.raises(ValueError, match=r"labels\.parquet: .*pyarrow"):
            load_table(root / "labels.parquet")

    def test_unreadable_tables_are_named(self, root, table):
        with pytest.raises(FileNotFoundError, match=r"labels\.csv"):
            load_table(root / "labels.csv")
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load_table(table, root=root / "nowhere")
        (root / "labels.xlsx").write_bytes(b"PK")
        with pytest.raises(ValueError, match=r"\.csv, \.tsv or \.parquet.*labels\.xlsx"):
            load_table(root / "labels.xlsx")
        (root / "labels.csv").write_text("")
        with pytest.raises(ValueError, match=r"labels\.csv: No columns"):
            load_table(root / "labels.csv")
        (root / "labels.csv").write_text("image,smile\na.png,1\nb.png,1,2\n")
        with pytest.raises(ValueError, match=r"labels\.csv: .*line 3"):
            load_table(root / "labels.csv")


@pytest.mark.parametrize("argument", [{"size": 0}, {"on_error": "ignore"}])
def test_every_reader_checks_its_arguments(root, argument):
    write_celeba(root)
    write_fairface(root)
    draw(root / "images/20_0_0_1.jpg")
    table = pd.DataFrame({"image": ["images/20_0_0_1.jpg"]})
    for load, source in [(load_celeba, root), (load_fairface, root), (load_utkface, root), (load_table, table)]:
        options = {"root": root} if load is load_table else {}
        with pytest.raises(ValueError, match=f"{next(iter(argument))} must be"):
            load(source, **options, **argument)


def test_a_read_only_folder_is_read(root):
    write_celeba(root)
    before = sorted(root.rglob("*"))
    for path in [root, *before]:
        path.chmod(0o555)
    try:
        assert len(load_celeba(root, "all")) == 4
        assert sorted(root.rglob("*")) == before
    finally:
        for path in [root, *before]:
            path.chmod(0o755)


class TestAttributesAlone:
    """Of images that no reader could decode."""

    def test_attributes_of_celeba_without_decoding(self, root):
        write_celeba(root)
        loaded = {split: load_celeba(root, split).attributes for split in ("train", "valid", "all")}
        for image in (root / "img_align_celeba").iterdir():
            image.write_bytes(b"no image")
        for split, attributes in loaded.items():
            pd.testing.assert_frame_equal(read_attributes("celeba", root, split), attributes)
        pd.testing.assert_frame_equal(read_attributes("celeba", root), loaded["train"])
        with pytest.raises(ValueError, match="split must be one of"):
            read_attributes("celeba", root, "val")

    def test_attributes_of_fairface_without_decoding(self, root):
        write_fairface(root)
        loaded = load_fairface(root, "validation").attributes
        (root / "val/1.jpg").unlink()
        pd.testing.assert_frame_equal(read_attributes("fairface", root, "validation"), loaded)

    def test_attributes_of_utkface_without_decoding(self, root):
        for name in ("2_0_0_2017.jpg", "39_1_2017.jpg"):
            (root / name).touch()
        with pytest.raises(ValueError, match=r"39_1_2017\.jpg: the file name is not"):
            read_attributes("utkface", root)
        attributes = read_attributes("utkface", root, on_error="skip")
        assert [row["image"] for row in attributes.attrs["skipped"]] == ["39_1_2017.jpg"]
        assert (attributes.index.tolist(), attributes["age"].tolist()) == (["2_0_0_2017.jpg"], [2])

    def test_attributes_of_a_table_without_decoding(self, root):
        pd.DataFrame({"photo": ["007", "8"], "hat": [True, None]}).to_csv(root / "own.csv", index=False)
        attributes = read_attributes("table", root / "own.csv", image_column="photo")
        assert attributes.index.tolist() == ["007", "8"]
        assert attributes["hat"].isna().tolist() == [False, True]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("imagenet", "."), "kind must be celeba, fairface, utkface or table, got 'imagenet'"),
            (("utkface", ".", "train"), "split must be None for utkface"),
        ],
    )
    def test_invalid_arguments_are_named_in_the_error(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            read_attributes(*arguments)
        with pytest.raises(ValueError, match="on_error"):
            read_attributes("table", "own.csv", on_error="ignore")


# Of a Unicode text all but control characters, marks of byte order and the like, and halves of pairs.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs"]), max_size=12)


@st.composite
def tables(draw):
    names = draw(st.lists(TEXT.map("{}.png".format).map(str.strip), min_size=1, max_size=5, unique_by=os.path.normpath))
    labels = draw(st.lists(TEXT.map("a{}".format), max_size=3, unique_by=str.strip))
    kinds = [st.booleans(), st.integers(-(10**9), 10**9), TEXT.map("v{}".format)]  # told from numbers and from NA
    columns = {
        label: draw(st.lists(kind, min_size=len(names), max_size=len(names)))
        for label, kind in zip(labels, kinds, strict=False)
    }
    columns = {
        label: [value.strip() if isinstance(value, str) else value for value in values]
        for label, values in columns.items()
    }
    columns = {label.strip(): values for label, values in columns.items()}
    columns["image"] = names
    return pd.DataFrame({name: columns[name] for name in draw(st.permutations(list(columns)))})


@given(
    tables(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([",", "\t"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_a_table_is_read_as_it_was_written(folder_of_tables, table, encoding, newline, separator, quoting):
    path = folder_of_tables / ("table.csv" if separator == "," else "table.tsv")
    table.to_csv(path, sep=separator, index=False, encoding=encoding, lineterminator=newline, quoting=quoting)
    attributes = read_attributes("table", path)
    expected = table.drop(columns="image").set_axis(pd.Index(table["image"], name="image"))
    pd.testing.assert_frame_equal(attributes, expected)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=6),
    st.integers(0, 2),
    st.booleans(),
)
def test_celebas_files_are_read_as_they_were_written(folder_of_tables, rows, wanted, as_csv):
    (folder_of_tables / "img_align_celeba").mkdir(exist_ok=True)
    for old in folder_of_tables.glob("list_*"):
        old.unlink()
    listed = {f"{number:06}.jpg": ([2 * one - 1, 2 * two - 1], part) for number, (one, two, part) in enumerate(rows)}
    separator, suffix = (",", ".csv") if as_csv else (" ", ".txt")
    attributes = ["image_id,Male,Smiling"] if as_csv else [str(len(rows)), "Male Smiling"]
    partition = ["image_id,partition"] if as_csv else []
    attributes += [separator.join([name, *map(str, values)]) for name, (values, _) in listed.items()]
    partition += [f"{name}{separator}{part}" for name, (_, part) in listed.items()]
    (folder_of_tables / f"list_attr_celeba{suffix}").write_text("\n".join(attributes) + "\n")
    (folder_of_tables / f"list_eval_partition{suffix}").write_text("\n".join(partition) + "\n")
    split = ("train", "valid", "test")[wanted]
    expected = {name: [value == 1 for value in values] for name, (values, part) in listed.items() if part == wanted}
    if expected:
        found = read_attributes("celeba", folder_of_tables, split)
        assert dict(zip(found.index, found.to_numpy().tolist(), strict=True)) == expected
    else:
        with pytest.raises(ValueError, match=f"split '{split}' is empty"):
            read_attributes("celeba", folder_of_tables, split)


@pytest.fixture(scope="module")
def folder_of_tables(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")
