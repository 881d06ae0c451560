"""from_dataset: what torch, torchvision and Hugging Face give arrives as it was; what does not fit is named."""

import os

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import CelebA, ImageFolder, OxfordIIITPet
from torchvision.transforms import v2

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, attribute_dataset, fit_region_classifier
from captum_region.datasets import AttributeImages, from_dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 12), dtype=np.uint8)
LABELS = [0, 1, 1, 0, 1, 0]


def picture(image):
    return Image.fromarray(image.transpose(1, 2, 0))


@pytest.fixture
def folder(tmp_path):
    """Two classes of images, in folders, as ImageFolder takes them."""
    for number, image in enumerate(IMAGES):
        path = tmp_path / ("cats", "dogs")[LABELS[number]] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(image).save(path)
    return tmp_path


class Mappings(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, number):
        if number >= 6:
            raise RuntimeError("iterated beyond the length")
        return {"image": picture(IMAGES[number]), "Smiling": LABELS[number] == 1, "box": [1, 2], "name": f"n{number}"}


def columns_of(items):
    return [list(column) for column in zip(*items, strict=True)]


class Stream(IterableDataset):
    def __iter__(self):
        return zip(IMAGES, LABELS, strict=True)


@pytest.mark.parametrize(
    "images",
    [
        torch.from_numpy(IMAGES),
        torch.from_numpy(IMAGES) / 255,
        IMAGES,
        IMAGES.transpose(0, 2, 3, 1),
        IMAGES / 255,
        [picture(image) for image in IMAGES],
    ],
    ids=["uint8 tensor", "float tensor", "array", "channels last", "float array", "PIL"],
)
def test_arrays_tensors_and_pil_images_keep_their_pixels(images):
    read = from_dataset(list(zip(images, LABELS, strict=True)))
    np.testing.assert_array_equal(read.images, IMAGES)
    assert read.attributes["label"].tolist() == LABELS
    assert read.attributes.index.tolist() == [0, 1, 2, 3, 4, 5]


def test_grey_becomes_rgb_and_all_are_resized():
    grey = [Image.new("L", (8, 9), 40), np.full((1, 5, 7), 40, np.uint8), torch.full((3, 4, 4), 40 / 255)]
    read = from_dataset(grey, size=(6, 5))
    assert read.images.shape == (3, 3, 6, 5)
    assert (read.images == 40).all()
    assert read.attributes.shape == (3, 0)


def test_images_can_be_streamed_to_a_file(tmp_path):
    out = tmp_path / "images.npy"
    read = from_dataset(Stream(), out=out)
    assert isinstance(read.images, np.memmap)
    np.testing.assert_array_equal(np.load(out), IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["images.npy"]
    with pytest.raises(ValueError, match="item 0"):
        from_dataset(Stream(), out=out, attributes=["a", "b"])
    np.testing.assert_array_equal(np.load(out), IMAGES)  # the file that was there is whole


class TestLoaders:
    @pytest.mark.parametrize("batch_size", [1, 4, None])
    def test_batches_of_a_loader_become_single_images(self, batch_size):
        pairs = TensorDataset(torch.from_numpy(IMAGES), torch.tensor(LABELS))
        read = from_dataset(DataLoader(pairs, batch_size=batch_size))
        np.testing.assert_array_equal(read.images, IMAGES)
        assert read.attributes["label"].tolist() == LABELS

    def test_a_shuffled_order_keeps_images_and_labels_together(self):
        pairs = TensorDataset(torch.from_numpy(IMAGES), torch.arange(6))
        read = from_dataset(DataLoader(pairs, 4, shuffle=True, generator=torch.Generator().manual_seed(0)))
        order = read.attributes["label"].to_numpy()
        assert order.tolist() != sorted(order)
        np.testing.assert_array_equal(read.images, IMAGES[order])

    def test_labels_may_be_mappings_tuples_or_texts(self):
        image = torch.from_numpy(IMAGES)
        vectors = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]])
        nested = [(image[i], (vectors[i], i, f"n{i}")) for i in range(6)]
        expected = pd.DataFrame(vectors.numpy(), columns=["a", "b"]).assign(
            number=range(6), name=[f"n{i}" for i in range(6)]
        )
        for given in (nested, DataLoader(nested, 2)):
            read = from_dataset(given, attributes=["a", "b", "number", "name"]).attributes
            pd.testing.assert_frame_equal(read, expected, check_names=False, check_index_type=False)
        named = [{"image": image[i], "a": LABELS[i], "name": f"n{i}"} for i in range(6)]
        pairs = [(each["image"], {"a": each["a"], "name": each["name"]}) for each in named]
        for given in (DataLoader(named, 4), pairs, DataLoader(pairs, 4)):
            read = from_dataset(given).attributes
            assert read.to_dict("list") == {"a": LABELS, "name": [f"n{i}" for i in range(6)]}

    @pytest.mark.parametrize("batch_size", [1, 2, 4])
    def test_texts_first_in_tuples_stay_with_their_images(self, batch_size):
        race, sex = ["White", "Asian", "Black", "White", "Asian", "Black"], ["M", "M", "F", "F", "M", "F"]
        image = torch.from_numpy(IMAGES)
        pairs = [(image[i], (race[i], sex[i])) for i in range(6)]
        nested = [(image[i], (race[i], (i, sex[i]))) for i in range(6)]
        named = [{"image": image[i], "race": race[i], "both": (race[i], i)} for i in range(6)]
        for items in (pairs, nested, named):
            alone = from_dataset(items)
            read = from_dataset(DataLoader(items, batch_size))
            pd.testing.assert_frame_equal(read.attributes, alone.attributes)
            np.testing.assert_array_equal(read.images, IMAGES)
        assert from_dataset(DataLoader(pairs, batch_size)).attributes["label_0"].tolist() == race
        # What a function of the user's has collated is by item already.
        own = DataLoader(pairs, batch_size, collate_fn=columns_of)
        assert from_dataset(own).attributes["label_1"].tolist() == sex

    def test_a_loader_with_workers_and_its_own_collate_function(self):
        pairs = [(torch.from_numpy(image), label) for image, label in zip(IMAGES, LABELS, strict=True)]
        loader = DataLoader(pairs, 4, collate_fn=columns_of, num_workers=1)
        np.testing.assert_array_equal(from_dataset(loader).images, IMAGES)
        assert from_dataset(loader).attributes["label"].tolist() == LABELS

    def test_a_loader_of_images_without_labels(self):
        read = from_dataset(DataLoader(IMAGES, 4))
        np.testing.assert_array_equal(read.images, IMAGES)
        assert list(read.attributes) == []


def test_numbers_and_texts_of_mappings_become_attributes():
    read = from_dataset(Mappings())
    assert read.attributes.to_dict("list") == {"Smiling": [v == 1 for v in LABELS], "name": [f"n{i}" for i in range(6)]}
    assert list(from_dataset(Mappings(), attributes=["Smiling"]).attributes) == ["Smiling"]
    assert list(from_dataset(Mappings(), attributes=[]).attributes) == []
    image = torch.from_numpy(IMAGES)
    items = [{"image": image[i], "one": torch.tensor([i]), "mask": image[i, 0]} for i in range(6)]
    assert from_dataset(items).attributes.to_dict("list") == {"one": [*range(6)]}
    with pytest.raises(TypeError, match="item 0's 'mask' must be a number or text, got Tensor"):
        from_dataset(items, attributes=["mask"])


class TestTorchvision:
    def test_image_folder_gives_the_names_of_its_classes(self, folder):
        read = from_dataset(ImageFolder(folder))
        assert read.attributes["label"].tolist() == ["cats"] * 3 + ["dogs"] * 3
        np.testing.assert_array_equal(read.images, IMAGES[np.argsort(LABELS, kind="stable")])
        subset = Subset(ImageFolder(folder, transform=v2.ToImage()), [5, 0])
        for given in (subset, DataLoader(subset, 2)):
            assert from_dataset(given).labels("label").tolist() == ["dogs", "cats"]
        swapped = ImageFolder(folder, target_transform=lambda label: 1 - label)
        assert from_dataset(swapped).attributes["label"].tolist() == [1, 1, 1, 0, 0, 0]

    def test_names_are_given_where_they_are_known_to_be_of_these_numbers(self, folder):
        class Relabelled(Dataset):
            def __init__(self, dataset):
                self.dataset = dataset

            def __len__(self):
                return 6

            def __getitem__(self, number):
                return self.dataset[number][0], number % 2

        assert from_dataset(Relabelled(ImageFolder(folder))).attributes["label"].tolist() == [0, 1] * 3
        named = ImageFolder(folder)
        named.classes = [("cat", "house cat"), ("dog",)]  # as ImageNet has them
        assert from_dataset(named).attributes["label"].tolist() == ["cat, house cat"] * 3 + ["dog"] * 3
        named.classes = [("crane",), ("crane",)]
        assert from_dataset(named).attributes["label"].tolist() == [0] * 3 + [1] * 3

    def test_pets_are_cats_and_dogs_where_that_is_asked_for(self, tmp_path):
        (tmp_path / "oxford-iiit-pet" / "images").mkdir(parents=True)
        (tmp_path / "oxford-iiit-pet" / "annotations").mkdir()
        rows = ["Abyssinian_1 1 1 1", "american_bulldog_1 2 2 1"]
        (tmp_path / "oxford-iiit-pet" / "annotations" / "trainval.txt").write_text("\n".join(rows))
        for row, image in zip(rows, IMAGES, strict=False):
            picture(image).save(tmp_path / "oxford-iiit-pet" / "images" / f"{row.split()[0]}.jpg")
        for kind, names in (("binary-category", ["Cat", "Dog"]), ("category", ["Abyssinian", "American Bulldog"])):
            read = from_dataset(OxfordIIITPet(tmp_path, target_types=kind))
            assert read.attributes["label"].tolist() == names

    def test_celeba_gives_its_attributes(self, tmp_path):
        class Few(CelebA):
            def _check_integrity(self):
                return True  # of the 202,599 images

        root = tmp_path / "celeba"
        (root / "img_align_celeba").mkdir(parents=True)
        names = [f"{number:06d}.jpg" for number in range(6)]
        for name, image in zip(names, IMAGES, strict=True):
            picture(image).save(root / "img_align_celeba" / name)
        rows = [f"{name} {2 * label - 1:2d}  1" for name, label in zip(names, LABELS, strict=True)]
        (root / "list_attr_celeba.txt").write_text("\n".join(["6", "Blond_Hair Male ", *rows]))
        box, points = " 1 2 3 4\n", f" {' '.join(map(str, range(10)))}\n"
        (root / "list_bbox_celeba.txt").write_text("6\nx\n" + "".join(f"{name}{box}" for name in names))
        (root / "list_landmarks_align_celeba.txt").write_text("6\nx\n" + "".join(f"{name}{points}" for name in names))
        for file in ("list_eval_partition.txt", "identity_CelebA.txt"):
            number = 0 if "eval" in file else 7
            (root / file).write_text("".join(f"{name} {number}\n" for name in names))
        read = from_dataset(Few(tmp_path, target_type="attr"))
        assert read.attributes.to_dict("list") == {"Blond_Hair": LABELS, "Male": [1] * 6}
        assert read.binary("Blond_Hair").tolist() == [label == 1 for label in LABELS]
        assert read.identities is None
        several = Few(tmp_path, target_type=["identity", "attr", "landmarks", "bbox"], transform=v2.ToImage())
        for given in (several, DataLoader(several, 4)):
            read = from_dataset(given)
            assert read.identities.tolist() == [7] * 6
            assert read.attributes[["Blond_Hair", "Male"]].to_dict("list") == {"Blond_Hair": LABELS, "Male": [1] * 6}
            assert read.attributes[["lefteye_x", "lefteye_y", "rightmouth_y"]].iloc[0].tolist() == [0, 1, 9]
            assert read.attributes[["x_1", "y_1", "width", "height"]].iloc[0].tolist() == [1, 2, 3, 4]
            assert read.attributes.shape == (6, 16)


class TestHuggingFace:
    @pytest.fixture
    def dataset(self):
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["cat", "dog"]),
                "age": datasets.Value("int64"),
            }
        )
        columns = {"image": [picture(image) for image in IMAGES], "label": LABELS, "age": list(range(6))}
        return datasets.Dataset.from_dict(columns, features=features)

    def test_columns_of_hugging_face_become_attributes(self, dataset):
        for given in (dataset, dataset.with_format("torch"), dataset.to_iterable_dataset()):
            read = from_dataset(given)
            np.testing.assert_array_equal(read.images, IMAGES)
            assert read.attributes.to_dict("list") == {
                "label": [["cat", "dog"][label] for label in LABELS],
                "age": list(range(6)),
            }

    def test_the_label_minus_1_of_hugging_face_is_missing(self, dataset):
        unknown = dataset.map(lambda row: {"label": -1 if row["age"] == 2 else row["label"]})
        read = from_dataset(unknown)
        assert read.attributes["label"].isna().tolist() == [False, False, True, False, False, False]
        with pytest.raises(ValueError, match="'label' is missing for 1 of 6 images"):
            read.labels("label")

    def test_images_that_are_not_decoded(self, dataset, folder):
        kept_as_bytes = dataset.cast_column("image", datasets.Image(decode=False))
        assert isinstance(kept_as_bytes[0]["image"]["bytes"], bytes)
        read = from_dataset(kept_as_bytes)
        np.testing.assert_array_equal(read.images, IMAGES)
        assert read.attributes["age"].tolist() == list(range(6))
        paths = [str(path) for path in sorted(folder.glob("*/*.png"), key=lambda path: path.stem)]
        kept_as_paths = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image(decode=False))
        assert kept_as_paths[0]["image"] == {"bytes": None, "path": paths[0]}
        np.testing.assert_array_equal(from_dataset(kept_as_paths).images, IMAGES)

    def test_its_own_decoder_does_not_open_what_is_no_image(self, dataset, tmp_path, monkeypatch):
        program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
        (tmp_path / "gs").write_text(f"#!/bin/sh\necho 9 > {tmp_path / 'ran'}\n")  # leaves a trace
        (tmp_path / "gs").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        made = datasets.Dataset.from_dict({"image": [{"bytes": program, "path": "b.png"}]})
        made = made.cast_column("image", datasets.Image())
        for given in (made, made.to_iterable_dataset()):
            with pytest.raises(ValueError, match="item 0's image: not an image of a supported format"):
                from_dataset(given)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("image", "error", "words"),
        [
            ({"bytes": b"no image", "path": "a.png"}, ValueError, "item 0's image: not an image of a supported format"),
            ({"bytes": None, "path": "nowhere.png"}, FileNotFoundError, r"(?s)nowhere\.png.*while reading item 0"),
            ({"bytes": None, "path": None}, TypeError, "item 0's image must be .* or a mapping of bytes or path"),
        ],
    )
    def test_undecoded_contents_that_are_not_images_are_refused(self, image, error, words):
        with pytest.raises(error, match=words):
            from_dataset([{"image": image}])

    def test_an_unchosen_split_and_an_unknown_column_are_refused(self, dataset):
        with pytest.raises(ValueError, match=r"dataset must be one split, such as dataset\['train'\]"):
            from_dataset(datasets.DatasetDict({"train": dataset}))
        with pytest.raises(ValueError, match="item 0 has no 'img', it has 'image', 'label', 'age'"):
            from_dataset(dataset, image_column="img")


class Endless(Dataset):
    def __getitem__(self, number):
        return IMAGES[0], 0


class Unreadable(Mappings):
    def __getitem__(self, number):
        if number == 2:
            raise OSError("the disk is gone")
        return super().__getitem__(number)


def test_errors_name_the_number_of_the_unreadable_item(tmp_path):
    picture(np.repeat(np.repeat(IMAGES[0], 9, 1), 9, 2)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "a.jpg") as truncated:  # nothing is decoded yet
        pairs = [(picture(IMAGES[0]), 0), (truncated, 1)]
        with pytest.raises(OSError, match=r"(?s)truncated.*while reading item 1 of dataset"):
            from_dataset(pairs, size=8)
    for image in (Image.new("F", (8, 8)), Image.fromarray(np.full((8, 8), 10**6, np.int32))):
        with pytest.raises(ValueError, match=r"(?s)no known range.*while reading item 0"):
            from_dataset([(image, 1)])
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with (
        Image.open(tmp_path / "b.png") as program,
        pytest.raises(ValueError, match=r"item 0's image: not an image of a supported format"),
    ):
        from_dataset([(program, 1)])
    with pytest.raises(OSError, match=r"(?s)the disk is gone.*while reading item 2 of dataset"):
        from_dataset(Unreadable())


@pytest.mark.parametrize(
    ("dataset", "options", "error", "words"),
    [
        ([(IMAGES[0], 0), ("face.png", 1)], {}, TypeError, "item 1's image must be a PIL image, .* got str"),
        ([(IMAGES[0] - 500.0, 0)], {}, ValueError, r"item 0's image must be uint8 or float in \[0, 1\], got float64"),
        ([IMAGES[0], IMAGES[0, :, :9]], {}, ValueError, r"item 1's image has \(9, 12\) pixels, those before have \(16"),
        ([(IMAGES[0], 0), (IMAGES[1],)], {}, ValueError, r"item 1 has the labels \[\], those before \[0\]"),
        ([(IMAGES[0], 0, 1)], {"attributes": ["a"]}, ValueError, r"must name the labels of item 0, 2, got \['a'\]"),
        ([{"image": IMAGES[0]}], {"attributes": ["a"]}, ValueError, "item 0 has no 'a', it has 'image'"),
        (
            [(IMAGES[0], IMAGES[1])],
            {"attributes": ["a"]},
            TypeError,
            "item 0's 'a' must be a number or text, got ndarr",
        ),
        ([], {}, ValueError, "dataset must hold at least one item"),
        ([(IMAGES[0], 0, 1)], {"attributes": ["a", "a"]}, ValueError, r"must name each label once, got \['a', 'a'\]"),
        (Endless(), {}, TypeError, "dataset must have a length and items by number, or be iterable; got a Endless"),
        (3, {}, TypeError, "dataset must have a length"),
        ([IMAGES[0]], {"size": 0}, ValueError, "size must be a positive int"),
        (DataLoader([1], collate_fn=lambda _: (IMAGES[:2], [1])), {}, ValueError, r"one length, got \[1, 2\]"),
    ],
)
def test_invalid_data_sets_are_refused(dataset, options, error, words):
    with pytest.raises(error, match=words):
        from_dataset(dataset, **options)


class TestTrainingAndAttribution:
    """A data set in place of arrays is those arrays."""

    GRID = RegionGrid((16, 12), 8, 4)

    def trained(self, *data, **options):
        classifier = DenseRegionClassifier(self.GRID, 2, width=4, random_state=0)
        fit_region_classifier(classifier, *data, epochs=2, random_state=0, **options)
        return classifier

    def test_every_kind_of_data_set_gives_the_same_training_and_maps(self, folder, tmp_path):
        read = from_dataset(ImageFolder(folder))
        labels = read.labels("label")
        expected = self.trained(read.images, labels, within=["a", "b"] * 3, validation=(read.images, labels))
        twice = AttributeImages(read.images, read.attributes.assign(other=["a", "b"] * 3))
        doubled = [(image.repeat(2, 1).repeat(2, 2), label) for image, label in zip(read.images, labels, strict=True)]
        options = {"within": ["a", "b"] * 3}
        classifiers = [
            self.trained(ImageFolder(folder), validation=(ImageFolder(folder), None), **options),
            self.trained(DataLoader(ImageFolder(folder, v2.ToImage()), 4), validation=(twice, "label"), **options),
            self.trained(twice, "label", within="other", validation=(read, None)),
        ]
        for classifier in classifiers:
            assert classifier.class_names == ("cats", "dogs")
            for name, value in expected.state_dict().items():
                torch.testing.assert_close(classifier.state_dict()[name], value, rtol=0, atol=0)
        attribution = RegionAttribution(expected)
        mean = attribution.mean_map(read.images)
        for given in (ImageFolder(folder), read, DataLoader(ImageFolder(folder, v2.ToImage()), 4)):
            torch.testing.assert_close(attribution.mean_map(given), mean, rtol=0, atol=0)
            assert attribution.region_map(given).shape == (6, *self.GRID.shape)
        assert attribution.region_map(DataLoader(doubled, 2)).shape == (6, *self.GRID.shape)  # resized
        maps = attribute_dataset(attribution, ImageFolder(folder), tmp_path / "maps")
        torch.testing.assert_close(maps.mean(), mean, rtol=0, atol=1e-3)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ((IMAGES,), "labels must be given, as images hold none"),
            ((TensorDataset(torch.from_numpy(IMAGES), torch.zeros(6), torch.zeros(6)),), "labels must name one of"),
            ((TensorDataset(torch.from_numpy(IMAGES)),), r"one of the attributes of images, \[\]"),
            (
                (TensorDataset(torch.from_numpy(IMAGES), torch.zeros(6)), "hat"),
                "'hat' is not an attribute of these images",
            ),
        ],
    )
    def test_missing_labels_are_named_in_the_error(self, data, words):
        with pytest.raises(ValueError, match=words):
            self.trained(*data)
