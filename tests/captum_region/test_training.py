"""Training of region classifiers: what it learns, within classes, equal runs, refusals."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from captum_region import DenseRegionClassifier, PatchRegionClassifier, RegionAttribution, RegionGrid
from captum_region import fit_region_classifier as fit
from captum_region.classifiers import RegionClassifier
from captum_region.io.digest import digest, digest_of
from captum_region.io.provenance import git_state
from captum_region.randomness import seeded
from captum_region.training import region_accuracy
from captum_region.training_data import draw_order, training_data, within_class_weights

GRID = RegionGrid(16, 4, 4)


def squares(labels, corner=(0, 0), size=16, seed=0):
    """Return noise images with a bright 4 x 4 square at `corner` where the label is 1."""
    images = np.random.default_rng(seed).integers(0, 120, (len(labels), 3, size, size), np.uint8)
    top, left = corner
    images[np.asarray(labels) == 1, :, top : top + 4, left : left + 4] += 130
    return images


def coin(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2, n)


def test_the_map_peaks_where_the_information_is():
    labels = coin(200)
    images = squares(labels, (4, 8))
    classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=0)
    training = fit(
        classifier,
        images,
        labels,
        validation=(squares(coin(100, 1), (4, 8), seed=1), coin(100, 1)),
        epochs=60,
        lr=1e-2,
        random_state=0,
    )
    assert training.region_accuracy.shape == (4, 4)
    assert training.region_accuracy[1, 2] > 0.9
    others = np.delete(training.region_accuracy.ravel(), 6)
    assert abs(others.mean() - 0.5) < 0.08
    mean_map = RegionAttribution(classifier).mean_map(images)
    assert mean_map.argmax() == 6
    assert mean_map[1, 2] > 0.5
    assert list(training.history["epoch"]) == list(range(1, 61))
    assert training.history["loss"].iloc[-1] < training.history["loss"].iloc[0]
    assert not classifier.training


class MeanColour(RegionClassifier):
    """A custom kind with the required methods only."""

    def __init__(self, grid, num_classes):
        super().__init__(grid, num_classes)
        with seeded(0):
            self.last = nn.Linear(3, num_classes)

    def forward(self, patches, region):
        return self.last(self.normalize(patches).mean((2, 3)))


def test_a_custom_kind_is_trained_by_the_papers_recipe():
    labels = coin(50)
    images = (255 * labels[:, None, None, None] * np.ones((3, 16, 16))).astype(np.uint8)
    classifier = MeanColour(GRID, 2)
    training = fit(classifier, images, labels, lr=0.1, random_state=0)
    assert training.history["epoch"].max() == 90
    assert (region_accuracy(classifier, images, labels) == 1).all()


def test_validation_changes_nothing_of_the_training():
    images, labels = squares(coin(40), (4, 8)), coin(40)
    weights = []
    for validation in (None, (images[:9], labels[:9]), (images, pd.DataFrame({"label": labels}))):
        classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0)
        history = fit(classifier, images, labels, epochs=2, random_state=0, validation=validation).history
        assert ("valid_accuracy" in history) == (validation is not None)
        weights.append(classifier.state_dict())
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0, atol=0)


def test_labels_may_be_a_column_of_a_table():
    images, labels, within = squares(coin(40), (4, 8)), coin(40), coin(40, 1)
    found = []
    for given in (labels, pd.DataFrame({"label": labels})):
        classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0)
        fit(classifier, images, given, within=within, epochs=1, random_state=0)
        found.append(classifier.state_dict())
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_backbone_with_auxiliary_heads_is_trained():
    class Two(nn.Sequential):
        def forward(self, patches):  # as torchvision's googlenet
            logits = super().forward(patches)
            return SimpleNamespace(logits=logits, aux_logits=logits) if self.training else logits

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    trained = []
    for backbone in (plain, Two(*plain)):
        classifier = PatchRegionClassifier(RegionGrid(16, 8, 4), 2, backbone, random_state=0)
        fit(classifier, squares(coin(20), (4, 8)), coin(20), epochs=1, random_state=0)
        trained.append(classifier.state_dict())
    torch.testing.assert_close(*trained)


def test_training_within_classes_shows_the_confounder_and_not_the_target():
    # The target's square is at the top left, the confounder's at the bottom right; no target = 1 has the confounder.
    target = np.repeat([1, 0], 600)
    confounder = np.r_[np.zeros(600, int), np.arange(600) % 3 > 0]
    images = squares(target, (0, 0))
    images[:, :, 12:, 12:] = squares(confounder, (12, 12), seed=2)[:, :, 12:, 12:]
    maps = {}
    for name, within in (("within", target), ("plain", None)):
        classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=0)
        fit(classifier, images, confounder, within=within, epochs=20, lr=1e-2, random_state=0)
        maps[name] = RegionAttribution(classifier).mean_map(images[target == 0])
    assert maps["within"][3, 3] > 0.5
    assert maps["plain"][3, 3] > 0.5
    # No bright square at the top left means target = 0, and so probably the confounder, after training on all images.
    assert maps["within"][0, 0] < 0.05
    assert maps["plain"][0, 0] > 0.15


def test_within_class_weights_balance_inside_each_class():
    rng = np.random.default_rng(0)
    target, confounder = rng.integers(0, 3, 500), rng.integers(0, 2, 500)
    confounder[target == 2] = 1
    weights = within_class_weights(confounder, target)
    assert (weights[target == 2] == 0).all()
    sums = [weights[(target == t) & (confounder == c)].sum() for t in (0, 1) for c in (0, 1)]
    np.testing.assert_allclose(sums, sums[0])
    assert weights[weights > 0].mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="several values"):
        within_class_weights([0, 0, 1, 1], ["a", "a", "b", "b"])


def test_draws_follow_the_weights():
    generator = torch.Generator().manual_seed(0)
    uniform = draw_order(torch.ones(10).double(), generator)
    assert sorted(uniform.tolist()) == list(range(10))
    weights = torch.tensor([0.0, 1.0, 3.0]).double()
    drawn = np.concatenate([draw_order(weights, generator) for _ in range(4000)])
    share = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(share, [0, 0.25, 0.75], atol=0.02)


def with_dropout(grid, num_classes, random_state):
    with seeded(random_state):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    return PatchRegionClassifier(grid, num_classes, network, random_state=random_state)


class Interrupted(np.ndarray):
    """Images that a user stops reading after a number of batches."""

    left = np.inf

    def __getitem__(self, index):
        Interrupted.left -= 1
        if Interrupted.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


class TestEndingEarly:
    @staticmethod
    def train(images, labels, *, min_steps=None, **options):
        classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=0)
        if min_steps:
            classifier.recipe = replace(classifier.recipe, early=replace(classifier.recipe.early, min_steps=min_steps))
        return fit(classifier, images, labels, random_state=0, **options), classifier

    @pytest.mark.slow
    def test_a_training_ends_when_images_kept_apart_gain_no_more(self):
        labels = coin(200)
        training, classifier = self.train(squares(labels, (4, 8)), labels)
        found = training.history["apart"].to_numpy()
        recent = -(-len(found) // 3)
        assert 6 <= len(found) < 40  # of 75
        before = max(found[:-recent])
        assert before > 0.52
        assert max(found[-recent:]) < before + 0.2 * (before - 0.5)
        assert RegionAttribution(classifier).mean_map(squares(coin(50, 1), (4, 8), seed=1)).argmax() == 6

    def test_a_fifth_of_each_pair_is_kept_apart_and_never_trained_on(self):
        within, labels = np.repeat([0, 1, 2], 40), np.r_[coin(40), coin(40, 1), np.zeros(40, int)]
        labels[40:80] = np.arange(40) == 0  # of one image of a label in this class none can be kept apart
        classifier, images = DenseRegionClassifier(GRID, 2), squares(labels)
        options = {"within": within, "validation": None, "sample_weight": "balanced"}
        data = training_data(classifier, images, labels, **options, apart_seed=0)
        apart = data.apart.numpy()
        assert (apart[40:] == 0).all()
        for label in (0, 1):
            pair = (within == 0) & (labels == label)
            assert (apart[pair] > 0).sum() == pair.sum() // 5
            assert apart[pair].sum() == pytest.approx(0.5)
        drawn = data.probability.numpy()
        assert ((drawn > 0) == ((apart == 0) & (within < 2))).all()
        sums = [drawn[(within == w) & (labels == label)].sum() for w in (0, 1) for label in (0, 1)]
        np.testing.assert_allclose(sums, sums[0])
        assert training_data(classifier, images, labels, **options).apart is None
        many = coin(301)
        of_many = training_data(classifier, squares(many), many, **(options | {"within": None}), apart_seed=0)
        assert of_many.apart is None
        few = [0, 1, 1, 1, 1, 1, 1, 1] * 4  # four images of label 0
        options["within"] = None
        assert training_data(classifier, squares(few), few, **options, apart_seed=0).apart is None

    def test_a_given_number_of_epochs_is_trained_on_all_images(self):
        labels = coin(40)
        training, _ = self.train(squares(labels), labels, epochs=30)
        assert len(training.history) == 30
        assert "apart" not in training.history

    def test_an_interrupted_training_resumes_to_the_same_weights(self, tmp_path, monkeypatch):
        monkeypatch.setattr("captum_region.training._STEPS", 4)
        monkeypatch.setattr("captum_region.io.snapshot._SHARE", 0)  # save after each step
        labels = coin(60)
        images = squares(labels).view(Interrupted)
        whole, trained = self.train(images, labels, min_steps=24)
        assert len(whole.history) == 6
        for reads in (5, 12, 20):
            folder = tmp_path / str(reads)
            monkeypatch.setattr(Interrupted, "left", reads)
            with pytest.raises(KeyboardInterrupt):
                self.train(images, labels, min_steps=24, checkpoint_dir=folder)
            Interrupted.left = np.inf
            for _ in range(2):  # it resumes, then it is read
                resumed, same = self.train(images, labels, min_steps=24, checkpoint_dir=folder)
                pd.testing.assert_frame_equal(resumed.history, whole.history, check_exact=True)
                torch.testing.assert_close(same.state_dict(), trained.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [DenseRegionClassifier, with_dropout])
def test_the_seed_decides_the_training_and_global_random_state_is_untouched(kind):
    labels = coin(24)
    images, weights = squares(labels), []
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    for seed in (0, 0, 1):
        classifier = kind(RegionGrid(16, 8, 8), 2, random_state=5)
        fit(classifier, images, labels, epochs=2, batch_size=8, random_state=seed)
        weights.append(torch.cat([value.flatten().double() for value in classifier.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_trainings_in_threads_are_those_that_run_alone():
    labels = coin(60)
    images = squares(labels)
    with seeded(0):
        network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 2))

    def train(seed):
        classifier = PatchRegionClassifier(GRID, 2, network, random_state=seed)
        return fit(classifier, images, labels, epochs=3, batch_size=4, random_state=seed).history

    before = torch.get_rng_state()
    alone = [train(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(4) as pool:
        for seed, history in zip((0, 1) * 2, pool.map(train, (0, 1) * 2), strict=True):
            pd.testing.assert_frame_equal(history, alone[seed], check_exact=True)
    assert torch.equal(before, torch.get_rng_state())


def test_images_may_be_arrays_tensors_or_read_only():
    labels = coin(20)
    images = squares(labels)
    read_only = images.copy()
    read_only.flags.writeable = False
    states = []
    for same in (images, torch.from_numpy(images), read_only):
        classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0)
        fit(classifier, same, labels, epochs=1, random_state=0)
        states.append(classifier.head[0].weight)
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    assert (images == squares(labels)).all()


def test_labels_of_any_kind_name_the_classes():
    labels = np.array(["woman", "man", "other"] * 8)
    classifier = DenseRegionClassifier(GRID, 3, width=4, random_state=0)
    fit(classifier, squares(coin(24)), labels, epochs=1)
    assert classifier.class_names == ("man", "other", "woman")


@pytest.mark.parametrize("target", [[0, 1], [0, 1, 0, 1], [0.0, 1.0, 0.0], ["a", "b", "a"]])
def test_region_accuracy_needs_a_class_number_for_each_image(target):
    classifier, images = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4).eval(), squares([0] * 3, size=8)
    with pytest.raises(ValueError, match="target must hold 3 class numbers, one per image"):
        region_accuracy(classifier, images, target)
    expected = region_accuracy(classifier, images, [0, 1, 0])
    for numbers in (np.array([0, 1, 0], np.uint8), np.array([False, True, False])):
        np.testing.assert_array_equal(region_accuracy(classifier, images, numbers), expected)


def test_region_accuracy_by_hand():
    class Constant(DenseRegionClassifier):
        def forward_grid(self, images, *, regions_per_pass=256):
            logits = torch.zeros(len(images), 2, *self.grid.shape)
            logits[:, 1, 0, 0] = 1  # class 1 in the first region, class 0 elsewhere
            return logits

    accuracy = region_accuracy(
        Constant(RegionGrid(8, 4, 4), 2), squares([0] * 5, size=8), [0, 0, 0, 1, 1], batch_size=2
    )
    np.testing.assert_allclose(accuracy, 0.5)
    only_zeros = region_accuracy(Constant(RegionGrid(8, 4, 4), 2), squares([0] * 3, size=8), [0, 0, 0])
    np.testing.assert_allclose(only_zeros, [[0, 1], [1, 1]])


def test_the_papers_recipe():
    recipe = PatchRegionClassifier.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.positions_per_image, recipe.lr) == (90, 256, 1, 1e-3)
    classifier = PatchRegionClassifier(RegionGrid(8, 4, 4), 2, nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    history = fit(classifier, squares([0, 1] * 4, size=8), [0, 1] * 4, random_state=0).history
    assert len(history) == 90
    np.testing.assert_allclose(history["lr"].iloc[[0, 39, 40, 79, 80, 89]], [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_progress_goes_to_stderr_when_asked(capfd):
    for show in (False, True):
        classifier = DenseRegionClassifier(GRID, 2, width=4, random_state=0)
        fit(classifier, squares([0, 1] * 4), [0, 1] * 4, epochs=1, show_progress=show)
        out, err = capfd.readouterr()
        assert out == ""
        assert ("region classifier: 100%" in err) == show


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"images": np.zeros((8, 3, 16, 16), np.int32)}, TypeError, "images must be uint8 or float"),
        ({"images": np.full((8, 3, 16, 16), np.nan)}, ValueError, r"images .* \[0, 1\]"),
        ({"images": np.full((8, 3, 16, 16), 255.0)}, ValueError, r"images .* \[0, 1\], got 255"),
        ({"images": np.zeros((8, 3, 8, 8), np.uint8)}, ValueError, "16 x 16"),
        ({"labels": [0, 1]}, ValueError, r"labels should be a 1d array of shape \(8,\)"),
        ({"labels": np.linspace(18, 90, 8)}, ValueError, "labels must be classes, got 18.0"),
        ({"within": np.linspace(18, 90, 8)}, ValueError, "within must be classes, got 18.0"),
        ({"within": [0, 1, 0, None, 1, 1, 1, 1]}, ValueError, "within must not have missing values, got 1"),
        ({"labels": [0] * 8}, ValueError, "labels must take 2 values"),
        ({"labels": [0, 1, 0, None, 1, 1, 1, 1]}, ValueError, "missing"),
        ({"within": [0, 1]}, ValueError, r"within should be a 1d array of shape \(8,\)"),
        ({"within": [0, 1] * 4, "sample_weight": None}, ValueError, "sample_weight must be 'balanced'"),
        ({"sample_weight": "even"}, ValueError, "sample_weight"),
        ({"sample_weight": [-1.0] * 8}, ValueError, "sample_weight"),
        ({"sample_weight": [0.0] * 8}, ValueError, "sample_weight"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
        ({"batch_size": 1.5}, TypeError, "batch_size must be an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"positions_per_image": 0}, ValueError, "positions_per_image"),
        ({"lr": 0}, ValueError, "lr must be above 0"),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing"),
        ({"random_state": "0"}, TypeError, "random_state"),
        ({"validation": (np.zeros((2, 3, 16, 16), np.uint8), [0, 7])}, ValueError, "others are: 7"),
        ({"validation": (np.zeros((2, 3, 16, 16), np.uint8), [0])}, ValueError, "validation"),
        ({"validation": np.zeros((3, 3, 16, 16), np.uint8)}, TypeError, r"must be \(images, labels\), got ndarray"),
    ],
)
def test_invalid_arguments_are_named_in_the_error(changed, error, words):
    arguments = {"images": squares([0, 1] * 4), "labels": [0, 1] * 4} | changed
    with pytest.raises(error, match=words):
        fit(DenseRegionClassifier(GRID, 2, width=4), arguments.pop("images"), arguments.pop("labels"), **arguments)
    with pytest.raises(TypeError, match="RegionClassifier"):
        fit(nn.Linear(2, 2), squares([0, 1]), [0, 1])


def test_a_diverging_loss_is_an_error():
    with pytest.raises(FloatingPointError, match="lower lr"):
        fit(DenseRegionClassifier(GRID, 2, width=4), squares([0, 1] * 8), [0, 1] * 8, lr=1e30, epochs=20)


TRAINING = """
import numpy as np
import torch._dynamo  # which an optimizer imports, for seconds in each child
from captum_region import DenseRegionClassifier, RegionGrid, fit_region_classifier, save_classifier

def work(out):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (96, 3, 16, 16), np.uint8), rng.integers(0, 2, 96)
    classifier = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, width=8, random_state=0)
    training = fit_region_classifier(
        classifier, images[:64], labels[:64], validation=(images[64:], labels[64:]), epochs=8, batch_size=8,
        random_state=0, checkpoint_dir=out + "/memory",
    )
    save_classifier(classifier, out + "/classifier")
    training.history.to_csv(out + "/history.csv")
    np.save(out + "/accuracy.npy", training.region_accuracy)
"""


@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_with_the_same_weights(tmp_path, kill_and_resume):
    whole, cut = kill_and_resume(TRAINING, tmp_path)
    (kept,) = (whole / "memory").iterdir()
    for folder in cut:
        for name in ("classifier/weights.safetensors", "history.csv", "accuracy.npy"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()
        # But for the time at which they were made.
        assert digest(read(folder / "memory" / kept.name)["state"]) == digest(read(kept)["state"])


def read(file):
    return torch.load(BytesIO(file.read_bytes().split(b"\n", 1)[1]), weights_only=True)


def write(file, content):
    """Write what may be anything as the state of a training, with the digest that it should have."""
    if not isinstance(content, bytes):
        torch.save(content, made := BytesIO())
        content = made.getvalue()
    file.write_bytes(digest_of([content]).encode() + b"\n" + content)


class TestCheckpointDir:
    labels = coin(24)

    def train(self, folder, images=None, **options):
        classifier = DenseRegionClassifier(GRID, 2, width=8, random_state=options.pop("weights", 0))
        images = squares(self.labels) if images is None else images
        settings = {"epochs": 2, "batch_size": 8, "random_state": 0, "checkpoint_dir": folder} | options
        return fit(classifier, images, self.labels, **settings), classifier

    def test_a_complete_training_is_read_and_not_done_again(self, tmp_path, written):
        first, trained = self.train(tmp_path)
        (file,) = tmp_path.iterdir()
        before = written(file)
        second, reread = self.train(tmp_path)
        pd.testing.assert_frame_equal(first.history, second.history)
        assert not reread.training
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(reread.state_dict()[name], value, rtol=0, atol=0)
        assert written(file) == before
        plain, same = self.train(None)
        pd.testing.assert_frame_equal(plain.history, first.history)
        torch.testing.assert_close(same.state_dict(), trained.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize(
        "options",
        [{"random_state": 1}, {"weights": 1}, {"epochs": 3}, {"lr": 1e-4}, {"images": squares(coin(24), seed=1)}],
    )
    def test_other_settings_are_another_training(self, options, tmp_path):
        self.train(tmp_path)
        self.train(tmp_path, **options)
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_missing_seed_and_damaged_states_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="random_state must be given"):
            self.train(tmp_path, random_state=None)
        assert not list(tmp_path.iterdir())
        self.train(tmp_path)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        for damaged in (b"", whole[:-9], b"x" * 100, whole.split(b"\n", 1)[1]):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=re.escape(file.name) + ".*remove it"):
                self.train(tmp_path)

    def test_a_flipped_bit_is_refused(self, tmp_path):
        self.train(tmp_path)
        (file,) = tmp_path.iterdir()
        whole = file.read_bytes()
        for position in np.random.default_rng(0).integers(0, len(whole), 50):
            changed = bytearray(whole)
            changed[position] ^= 1 << position % 8
            file.write_bytes(changed)
            with pytest.raises(ValueError, match=re.escape(file.name) + ".*remove it"):
                self.train(tmp_path)
        file.write_bytes(whole)
        self.train(tmp_path)

    def test_the_commit_is_that_of_the_training_and_not_of_the_reading(self, tmp_path, made_at):
        trained, _ = self.train(tmp_path)
        assert trained.git == git_state()
        (file,) = tmp_path.iterdir()
        kept = read(file)
        assert kept["provenance"]["git"] == git_state()
        assert kept["provenance"]["versions"]["torch"] == version("torch")
        made_at(file, "0123-dirty")
        again, _ = self.train(tmp_path)
        assert again.git == "0123-dirty"

    def test_another_dropout_or_frozen_weight_is_another_training(self, tmp_path):
        def backbone(dropout=0.1, frozen=False):
            layers = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 2))
            nn.init.ones_(layers[2].weight).requires_grad_(not frozen)
            nn.init.zeros_(layers[2].bias)
            return layers

        for options in ({}, {}, {"dropout": 0.5}, {"frozen": True}):
            classifier = PatchRegionClassifier(GRID, 2, backbone(**options), random_state=0)
            fit(classifier, squares(self.labels), self.labels, epochs=1, random_state=0, checkpoint_dir=tmp_path)
        assert len(list(tmp_path.iterdir())) == 3

    def test_a_foreign_state_is_refused_and_never_executed(self, tmp_path, trap):
        folder = tmp_path / "memory"
        self.train(folder)
        (file,) = folder.iterdir()
        whole = read(file)
        state = whole["state"]
        changed = [whole | {"format": number} for number in (1, None, "2", True, [2])]
        changed += [whole | {"state": value} for value in ("x", 5, [], {}, torch.ones(1))]
        changed += [whole | {"provenance": None}, {}, [], None, b"", b"x", pickle.dumps(trap), b"PK" + bytes(100)]
        changed += [whole | {"state": state | {name: value}} for name in state for value in (None, "x", torch.ones(1))]
        for content in changed:
            write(file, content)
            with pytest.raises(ValueError, match=re.escape(file.name) + ".*remove it"):
                self.train(folder)
        torch.save({"state": trap}, made := BytesIO())
        write(file, made.getvalue())
        with pytest.raises(ValueError, match=re.escape(file.name) + ".*remove it"):
            self.train(folder)
        other = {name: torch.zeros(3) for name in state["classifier"]}
        write(file, whole | {"state": state | {"classifier": other}})
        with pytest.raises(ValueError, match="(?s)" + re.escape(file.name) + ".*remove it.*size mismatch"):
            self.train(folder)
