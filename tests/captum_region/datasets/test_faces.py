"""make_faces: what is asked for is drawn, toggles are exact, and no pixel alone gives an attribute away."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from captum_region.datasets.faces import ATTRIBUTES, Faces, make_faces
from captum_region.io.digest import digest

every_attribute = pytest.mark.parametrize("attribute", ATTRIBUTES)
# Skin is all over the face and shows in a single pixel.
every_part = pytest.mark.parametrize("attribute", [name for name in ATTRIBUTES if name != "Dark_Skin"])


@pytest.fixture(scope="module")
def faces() -> Faces:
    return make_faces(60, random_state=0)


@pytest.fixture(scope="module")
def truths(faces: Faces) -> dict[str, np.ndarray]:
    return {attribute: faces.truth(attribute) for attribute in ATTRIBUTES}


def test_shapes_and_types(faces):
    assert faces.images.shape == (60, 3, 64, 64)
    assert faces.images.dtype == np.uint8
    assert tuple(faces.attributes.columns) == ATTRIBUTES
    assert faces.attributes.dtypes.eq(bool).all()
    assert faces.latents.to_numpy().min() >= 0
    assert faces.latents.to_numpy().max() < 1


def test_same_seed_same_faces(faces):
    again = make_faces(60, random_state=0)
    np.testing.assert_array_equal(again.images, faces.images)
    pd.testing.assert_frame_equal(again.attributes, faces.attributes)
    assert (make_faces(60, random_state=1).images != faces.images).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("n", [0, 1, 5, 37])
def test_a_face_depends_on_the_seed_and_its_number_alone(faces, n):
    fewer = make_faces(n, random_state=0)
    np.testing.assert_array_equal(fewer.images, faces.images[:n])
    np.testing.assert_array_equal(fewer.attributes.to_numpy(bool), faces.attributes.to_numpy(bool)[:n])


@pytest.mark.parametrize("kind", [np.random.default_rng, np.random.RandomState])
def test_generators_are_used_and_advance(kind):
    generator = kind(3)
    first, second = make_faces(2, 16, random_state=generator), make_faces(2, 16, random_state=generator)
    np.testing.assert_array_equal(make_faces(2, 16, random_state=kind(3)).images, first.images)
    assert (first.images != second.images).any()


def test_unaligned_faces_are_the_aligned_ones_moved_as_their_latents_say():
    options = {"attributes": {"Eyeglasses": 1.0}, "random_state": 0}
    aligned, moved = make_faces(40, 96, **options), make_faces(40, 96, unaligned=0.8, **options)
    pd.testing.assert_frame_equal(moved.latents.iloc[:, :-5], aligned.latents.iloc[:, :-5])
    assert not aligned.latents.iloc[:, -5:].any(axis=None)
    pose = moved.latents.iloc[:, -5:]
    assert pose["mirror"].isin([0, 1]).all()
    assert 0.1 < pose["mirror"].mean() < 0.7
    centres = []
    for truth in (aligned.truth("Eyeglasses"), moved.truth("Eyeglasses")):
        inside = truth & ~np.pad(np.zeros((40, 94, 94), bool), ((0, 0), (1, 1), (1, 1)), constant_values=True)
        centres.append([np.argwhere(mask)[:, ::-1].mean(0) / 96 - (0.5 - 0.5 / 96) for mask in inside])
    (u, v), found = np.transpose(centres[0]), np.transpose(centres[1])
    sine, size = pose["turn"], 1 - pose["shrink"]
    cosine, across = np.sqrt(1 - sine**2), u * (1 - 2 * pose["mirror"])
    expected = np.stack([size * (cosine * across - sine * v), size * (sine * across + cosine * v)])
    expected += pose[["move_x", "move_y"]].to_numpy().T
    whole = np.abs(expected).max(0) < 0.33  # not cut by the edge
    assert whole.sum() > 20
    assert np.abs(found - expected)[:, whole].max() < 0.02
    assert (np.hypot(*(found - np.stack([u, v])))[whole] > 0.05).mean() > 0.8
    fewer = make_faces(3, 96, unaligned=0.8, **options)
    np.testing.assert_array_equal(fewer.images, moved.images[:3])
    np.testing.assert_array_equal(moved.twin("Smiling", [7]), moved.subset([7]).twin("Smiling"))


@pytest.mark.parametrize("unaligned", [-0.1, 1.1, np.nan])
def test_how_far_faces_are_moved_is_a_share(unaligned):
    with pytest.raises(ValueError, match=r"unaligned must be in \[0, 1\], got"):
        make_faces(1, unaligned=unaligned)


def test_random_state_none_draws_other_faces_each_time():
    assert (make_faces(2, 16).images != make_faces(2, 16).images).any()


def test_global_random_state_is_neither_read_nor_set():
    np.random.seed(0)
    torch.manual_seed(0)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = make_faces(3, 16, random_state=4)
    make_faces(3, 16)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.random.seed(1)
    np.testing.assert_array_equal(make_faces(3, 16, random_state=4).images, first.images)


def test_numpy_buffer_size_is_left_alone():
    before = np.getbufsize()
    make_faces(2, 16, random_state=0)
    assert np.getbufsize() == before


def test_given_attributes_are_kept_and_change_nothing_else(faces):
    table = faces.attributes.assign(Male=~faces.attributes["Male"]).set_index(np.arange(60)[::-1])
    other = make_faces(60, attributes=table, random_state=0)
    pd.testing.assert_frame_equal(other.attributes, table)
    assert other.latents.index.equals(table.index)
    np.testing.assert_array_equal(other.images, faces.twin("Male"))


def test_attributes_that_are_not_given_are_fair_coins(faces):
    male = np.arange(60) < 30
    mixed = make_faces(60, attributes={"Male": male, "Blond_Hair": 0.9, "Smiling": 0.0}, random_state=0).attributes
    np.testing.assert_array_equal(mixed["Male"], male)
    assert 0.8 < mixed["Blond_Hair"].mean() < 0.98
    assert not mixed["Smiling"].any()
    np.testing.assert_array_equal(mixed["Eyeglasses"], faces.attributes["Eyeglasses"])


def test_coins_are_fair_and_independent():
    drawn = make_faces(2000, 16, random_state=5).attributes
    np.testing.assert_allclose(drawn.mean(), 0.5, atol=0.04)
    np.testing.assert_allclose(drawn.astype(float).corr(), np.eye(6), atol=0.08)


@every_attribute
def test_truth_is_the_difference_from_the_twin(faces, truths, attribute):
    np.testing.assert_array_equal(truths[attribute], (faces.images != faces.twin(attribute)).any(axis=1))


@every_attribute
@pytest.mark.parametrize("selection", [slice(3, 8), [7], np.arange(60) % 20 == 0])
def test_twins_of_a_selection(faces, truths, attribute, selection):
    np.testing.assert_array_equal(faces.twin(attribute, selection), faces.twin(attribute)[selection])
    np.testing.assert_array_equal(faces.truth(attribute, selection), truths[attribute][selection])


@every_attribute
def test_the_twins_twin_is_the_face(faces, attribute):
    flags = faces.attributes.assign(**{attribute: ~faces.attributes[attribute]})
    twins = make_faces(60, attributes=flags, random_state=0)
    np.testing.assert_array_equal(twins.images, faces.twin(attribute))
    np.testing.assert_array_equal(twins.twin(attribute), faces.images)


@every_part
def test_the_truth_covers_some_but_not_much_of_the_image(truths, attribute):
    share = truths[attribute].mean(axis=(1, 2))
    assert (share > 0).mean() > 0.99
    assert share.max() < 0.5
    assert share.mean() < 0.2


def test_each_attribute_shows_in_its_part_of_the_face(faces, truths):
    where = {attribute: truth.mean(axis=0) for attribute, truth in truths.items()}
    rows = {attribute: truth.any(axis=2).mean(axis=0) for attribute, truth in truths.items()}
    assert rows["Eyeglasses"][:18].max() == rows["Eyeglasses"][46:].max() == 0
    assert rows["Smiling"][:28].max() == 0
    assert rows["Wearing_Hat"][40:].max() == 0
    mouth = np.s_[40:45, 28:36]
    assert where["Blond_Hair"][mouth].mean() < 0.1 * where["Blond_Hair"].max()
    assert where["Male"][mouth].mean() > 0.3
    corners = np.s_[:6, :6]
    assert all(shown[corners].max() == 0 for name, shown in where.items() if name != "Wearing_Hat")


@every_attribute
def test_subset_keeps_the_twins(faces, attribute):
    chosen = faces.subset(faces.attributes["Male"]).subset([4, 2])
    positions = np.flatnonzero(faces.attributes["Male"])[[4, 2]]
    assert isinstance(chosen, Faces)
    np.testing.assert_array_equal(chosen.images, faces.images[positions])
    np.testing.assert_array_equal(chosen.twin(attribute), faces.twin(attribute, positions))


def test_a_selection_is_a_mask_or_positions(faces):
    few = faces.subset(slice(6))
    numbers = np.array([0, 0, 0, 1, 0, 1])
    for mask in (numbers == 1, np.array(numbers == 1, object), pd.Series(numbers == 1).astype("boolean")):
        assert few.positions(mask).tolist() == [3, 5]
        assert len(few.subset(mask)) == 2
    for none in ([], np.zeros(6, bool)):
        assert len(few.subset(none)) == 0
    assert few.positions([1, 0, 1]).tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match=r"got 6 numbers of 0 and 1, which could be either; labels\(name\) gives"):
        few.subset(numbers)
    with pytest.raises(TypeError, match="selection must be a boolean mask, positions or a slice, got float64"):
        few.subset(numbers / 2)
    for selection, words in (
        ([True], "a mask of 6 images, got 1"),
        ([0, 6], "positions of 6 images, got 0 to 6"),
        ([[0, 1]], "one-dimensional, got 2 dimensions"),
        (3, "one-dimensional, got 0 dimensions"),
    ):
        with pytest.raises(ValueError, match=f"selection must (be|hold) {words}"):
            few.subset(selection)


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (24, 40), (33, 47)])
def test_images_of_any_size_show_the_attributes(size):
    drawn = make_faces(40, size, random_state=0)
    assert drawn.images.shape == (40, 3, *size)
    for attribute in ATTRIBUTES:
        assert (drawn.truth(attribute).any(axis=(1, 2))).mean() > 0.9
    np.testing.assert_array_equal(make_faces(3, size, random_state=0).images, drawn.images[:3])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": -1}, ValueError, "n must be at least 0, got -1"),
        ({"n": 2.0}, TypeError, "n must be an integer, got 2.0"),
        ({"size": 15}, ValueError, "size must be at least 16 pixels, got 15"),
        ({"size": (64, 8)}, ValueError, "size must be at least 16 pixels"),
        ({"size": 64.0}, TypeError, "size must be an integer"),
        ({"size": (64, 64, 3)}, TypeError, "size must be an integer"),
        ({"attributes": {"Bald": [True, False]}}, ValueError, r"attributes must be among Male, .* got \['Bald'\]"),
        ({"attributes": pd.DataFrame({"Bald": [True, False]})}, ValueError, "attributes must be among"),
        ({"attributes": {"Male": [True]}}, ValueError, r"attributes\['Male'\] must have shape \(2,\), got \(1,\)"),
        ({"attributes": {"Male": True}}, ValueError, r"attributes\['Male'\] must have shape"),
        ({"attributes": pd.DataFrame({"Male": [True] * 3})}, ValueError, r"attributes\['Male'\] must have shape"),
        ({"attributes": {"Male": [1, 0]}}, TypeError, r"attributes\['Male'\] must be boolean.*got dtype int64"),
        ({"attributes": {"Male": 1.5}}, ValueError, r"attributes\['Male'\] as a probability must be in \[0, 1\]"),
        ({"attributes": [True, False]}, TypeError, "attributes must be a DataFrame or a mapping, got list"),
        ({"random_state": "0"}, TypeError, "random_state must be None"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(arguments, error, message):
    with pytest.raises(error, match=message):
        make_faces(**{"n": 2, **arguments})


def test_unknown_attribute_is_named(faces):
    for method in (faces.twin, faces.truth):
        with pytest.raises(ValueError, match=r"attribute must be one of Male, .*got 'Bald'"):
            method("Bald")


def test_latents_must_fit_the_images(faces):
    with pytest.raises(ValueError, match="latents must have one row per face: 3 rows, 2 faces"):
        Faces(
            faces.images[:2],
            faces.attributes.iloc[:2],
            latents=faces.latents.iloc[:3],
            noise_seeds=faces.noise_seeds[:2],
        )


@every_part
def test_no_single_pixel_gives_an_attribute_away(attribute):
    drawn = make_faces(1500, 16, random_state=6)
    pixels = drawn.images[:, :, ::2, ::2].reshape(1500, 3, -1) / 255
    labels = drawn.attributes[attribute].to_numpy()
    scores = [
        LogisticRegression().fit(pixels[:1000, :, i], labels[:1000]).score(pixels[1000:, :, i], labels[1000:])
        for i in range(pixels.shape[2])
    ]
    assert max(scores) < 0.85


def test_dark_skin_names_the_skins_that_are_drawn_by_default(faces):
    dark = faces.attributes["Dark_Skin"].to_numpy()
    np.testing.assert_array_equal(dark, faces.latents["skin"].to_numpy() < 0.5)
    given = make_faces(60, attributes={"Dark_Skin": dark}, random_state=0)
    np.testing.assert_array_equal(given.images, faces.images)
    named, other = (faces.attributes.drop(columns="Dark_Skin"), make_faces(60, random_state=0).attributes)
    pd.testing.assert_frame_equal(named, other.drop(columns="Dark_Skin"))


# Of the faces that this seed drew before skin had a name.
def test_the_attribute_changed_no_face():
    assert digest(make_faces(40, random_state=0).images) == "953898f4e928076c994b65944135dc5c"


def test_dark_skin_shows_on_the_skin_alone(faces):
    dark, light = (
        make_faces(60, attributes={"Dark_Skin": np.full(60, value)}, random_state=0) for value in (True, False)
    )
    truth = faces.truth("Dark_Skin")
    np.testing.assert_array_equal(truth, (dark.images != light.images).any(axis=1))
    brightness = [drawn.images.mean(1)[truth].mean() for drawn in (dark, light)]
    assert brightness[0] < 0.75 * brightness[1]
    where = truth.mean(axis=0)
    assert where[34:40, 28:36].min() > 0.9  # nose and cheeks
    assert where[:6, :6].max() == where[:6, -6:].max() == 0  # the wall
    assert 0.1 < truth.mean() < 0.4


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 1.0])
def test_the_shades_within_dark_and_light_do_not_depend_on_their_share(share):
    drawn = make_faces(3000, 16, attributes={"Dark_Skin": share}, random_state=0)
    dark = drawn.attributes["Dark_Skin"].to_numpy()
    assert dark.mean() == pytest.approx(share, abs=0.03)
    shade = drawn.latents["skin"].to_numpy() % 0.5
    for part in filter(len, (shade[dark], shade[~dark])):
        assert part.mean() == pytest.approx(0.25, abs=0.03)
