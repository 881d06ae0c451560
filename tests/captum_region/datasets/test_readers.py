"""The readers: each layout, its variants, and what a malformed one is told."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from captum_region.datasets.readers import (
    AGE_GROUPS,
    load_celeba,
    load_fairface,
    load_table,
    load_utkface,
    read_attributes,
)

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

    def test_all_needs_no_partition(self, root):
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
            ("list_attr_celeba", "4\n", "5\n", "has 4 rows of images, its first line says 5"),
            ("list_attr_celeba", "4\n", "", "line 1: must be the number of images, got 'Blond_Hair"),
            ("list_attr_celeba", "-1  1 -1", "-1  3 -1", r"row 2 \(000002.jpg\): Male must be one of .* got 3"),
            ("list_attr_celeba", "-1  1 -1", "-1  x -1", r"row 2 \(000002.jpg\): Male must be one of .* got x"),
            ("list_attr_celeba", "-1  1 -1", "-1  1", r"row 2 \(000002.jpg\): Smiling must be one of .* got nan"),
            ("list_attr_celeba", "-1  1 -1", "-1  1 -1 -1", "Expected 4 fields in line 2, saw 5"),
            ("list_attr_celeba", " Smiling", "", "row of 000001.jpg: 3 values for the 2 columns"),
            ("list_attr_celeba", "000002.jpg", "000001.jpg", "lists 000001.jpg more than once"),
            (
                "list_eval_partition",
                "000002.jpg 0",
                "000002.jpg 7",
                r"row 2 \(000002.jpg\): .* one of \(0, 1, 2\), got 7",
            ),
            ("list_eval_partition", "000002.jpg 0\n", "000001.jpg 0\n", "lists 000001.jpg more than once"),
            ("identity_CelebA", "40", "4x", r"row 2 \(000002.jpg\): value must be an integer, got 4x"),
            ("identity_CelebA", "40", "4.5", r"row 2 \(000002.jpg\): value must be an integer, got 4.5"),
            ("identity_CelebA", "000002.jpg 40\n", "", r"has no row for 000002.jpg \(1 such"),
        ],
    )
    def test_malformed_label_files(self, root, file, old, new, message):
        write_celeba(root)
        replace(root / f"{file}.txt", old, new)
        with pytest.raises(ValueError, match=f"{file}.*{message}"):
            load_celeba(root)

    def test_malformed_csv(self, root):
        write_celeba(root, suffix=".csv")
        replace(root / "list_attr_celeba.csv", "-1, 1,-1", "-1, 0,-1")
        with pytest.raises(
            ValueError, match=r"list_attr_celeba.csv, row 2 \(000002.jpg\): Male must be one of .* got 0"
        ):
            load_celeba(root)

    @pytest.mark.parametrize("content", ["", "4\n", "0\nMale\n"])
    def test_label_file_without_rows(self, root, content):
        write_celeba(root)
        (root / "list_attr_celeba.txt").write_text(content)
        with pytest.raises(ValueError, match=r"list_attr_celeba\.txt"):
            load_celeba(root)

    def test_an_empty_split(self, root):
        write_celeba(root, rows={name: row for name, row in CELEBA.items() if row[1] != 2})
        with pytest.raises(ValueError, match=r"split 'test' is empty: .*list_eval_partition\.txt"):
            load_celeba(root, "test")

    def test_an_unknown_split(self, root):
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
    def test_missing_parts(self, root, missing):
        write_celeba(root)
        (root if missing == "root" else root / missing).rename(root.with_name("away"))
        with pytest.raises(FileNotFoundError, match=missing):
            load_celeba(root)

    @needs_data
    def test_real_labels(self, root):
        """The counts that the data's README states, read from the labels alone; then a few real images."""
        from captum_region.datasets.readers import _celeba_rows

        folder = DATA / "celeba"
        attributes = _celeba_rows(folder / "list_attr_celeba.txt", allowed=(-1, 1), has_names=True) == 1
        partition = _celeba_rows(folder / "list_eval_partition.txt", allowed=(0, 1, 2))["value"]
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

    @pytest.mark.parametrize(("split", "count"), [("train", 2), ("validation", 1), ("all", 3)])
    def test_splits(self, root, split, count):
        write_fairface(root)
        assert len(load_fairface(root, split)) == count

    def test_a_missing_image(self, root):
        write_fairface(root)
        (root / "train/1.jpg").unlink()
        with pytest.raises(FileNotFoundError, match=r"1\.jpg"):
            load_fairface(root)
        assert load_fairface(root, on_error="skip").skipped["image"].tolist() == ["train/1.jpg"]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("gender", "sex", "has no column 'gender'; its columns are file, age, sex"),
            ("50-59", "50-60", r"row 1 \(train/1.jpg\): age must be one of .*, got '50-60'"),
            ("Female", "", r"row 2 \(train/2.jpg\): gender must be one of .*, got nan"),
            ("train/2.jpg", "train/1.jpg", "train/1.jpg is listed again"),
        ],
    )
    def test_malformed_labels(self, root, old, new, message):
        write_fairface(root)
        replace(root / "fairface_label_train.csv", old, new)
        with pytest.raises(ValueError, match=message):
            load_fairface(root)

    def test_missing_labels(self, root):
        with pytest.raises(FileNotFoundError, match=r"fairface_label_val\.csv"):
            load_fairface(root, "validation")

    def test_no_rows(self, root):
        (root / "fairface_label_train.csv").write_text("file,age,gender,race,service_test\n")
        with pytest.raises(ValueError, match="split 'train' is empty"):
            load_fairface(root)

    def test_an_unknown_split(self, root):
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
        "name", ["61_1_20170109.jpg.chip.jpg", "53__0_2017.jpg", "20_2_0_2017.jpg", "20_0_5_1.jpg"]
    )
    def test_a_name_without_labels(self, root, name):
        draw(root / name)
        with pytest.raises(ValueError, match="no image named"):
            load_utkface(root, on_error="skip")
        draw(root / "20_0_0_1.jpg")
        (root / "30_0_0_1.jpg").write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name}: the file name is not"):
            load_utkface(root)
        faces = load_utkface(root, on_error="skip")
        assert faces.attributes.index.tolist() == ["20_0_0_1.jpg"]
        assert faces.skipped["image"].tolist() == [name, "30_0_0_1.jpg"]
        assert faces.skipped["reason"].str.contains("file name is not|empty").all()

    def test_no_folder_and_no_images(self, root):
        with pytest.raises(ValueError, match="no image named"):
            load_utkface(root)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            load_utkface(root / "nowhere")

    @needs_data
    def test_real_images(self, root):
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

    def test_parquet(self, root, table):
        pytest.importorskip("pyarrow")
        table.to_parquet(root / "labels.parquet")
        assert len(load_table(root / "labels.parquet")) == 3

    def test_a_frame(self, root, table):
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

    def test_names_that_look_like_numbers(self, root):
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
            (lambda table: table, {"image_column": "path"}, "table has no column 'path'; its columns are image, smile"),
            (lambda table: table, {"identity_column": "id"}, "table has no column 'id'; its columns are image, smile"),
            (lambda table: table[:0], {}, "table lists no image"),
            (lambda table: pd.concat([table, table[:2]]), {}, r"faces/0.png is listed again \(2 such rows\)"),
            (lambda table: table.assign(image=["faces/0.png", None, "faces/1.png"]), {}, "'image': no value in row 2"),
            (lambda table: table.assign(person=["a", "b", None]), {"identity_column": "person"}, "no value in row 3"),
        ],
    )
    def test_bad_tables(self, root, table, change, options, message):
        with pytest.raises(ValueError, match=message):
            load_table(change(table), root=root, **options)

    def test_bad_files(self, root, table):
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


def test_a_read_only_root(root):
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

    def test_of_a_data_set_with_parts(self, root):
        write_celeba(root)
        loaded = {split: load_celeba(root, split).attributes for split in ("train", "valid", "all")}
        for image in (root / "img_align_celeba").iterdir():
            image.write_bytes(b"no image")
        for split, attributes in loaded.items():
            pd.testing.assert_frame_equal(read_attributes("celeba", root, split), attributes)
        pd.testing.assert_frame_equal(read_attributes("celeba", root), loaded["train"])
        with pytest.raises(ValueError, match="split must be one of"):
            read_attributes("celeba", root, "val")

    def test_of_fairface(self, root):
        write_fairface(root)
        loaded = load_fairface(root, "validation").attributes
        (root / "val/1.jpg").unlink()
        pd.testing.assert_frame_equal(read_attributes("fairface", root, "validation"), loaded)

    def test_of_names(self, root):
        for name in ("2_0_0_2017.jpg", "39_1_2017.jpg"):
            (root / name).touch()
        with pytest.raises(ValueError, match=r"39_1_2017\.jpg: the file name is not"):
            read_attributes("utkface", root)
        attributes = read_attributes("utkface", root, on_error="skip")
        assert (attributes.index.tolist(), attributes["age"].tolist()) == (["2_0_0_2017.jpg"], [2])

    def test_of_a_table(self, root):
        pd.DataFrame({"image": ["007", "8"], "hat": [True, None]}).to_csv(root / "own.csv", index=False)
        attributes = read_attributes("table", root / "own.csv")
        assert attributes.index.tolist() == ["007", "8"]
        assert attributes["hat"].isna().tolist() == [False, True]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("imagenet", "."), "kind must be celeba, fairface, utkface or table, got 'imagenet'"),
            (("utkface", ".", "train"), "split must be None for utkface"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            read_attributes(*arguments)
        with pytest.raises(ValueError, match="on_error"):
            read_attributes("table", "own.csv", on_error="ignore")
