"""fairlearn-bridge audit as a user runs it, on tiny faces."""

import html
import json
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from captum_region.datasets import AttributeImages, make_faces
from fairlearn_bridge.audit.codecs.rate import mean_rate
from fairlearn_bridge.audit.decoded import Decoded
from fairlearn_bridge.audit.degradations import cases_of
from fairlearn_bridge.audit.run import LEARNED_FROM, AuditConfig, degradations_of, run_audit
from fairlearn_bridge.audit.specifications import codecs_of, distortion_of
from fairlearn_bridge.cli import app
from fairlearn_bridge.samples import groups_of

TINY = ["--size", 24, "--train-size", 60, "--test-size", 90, "--epochs", 2, "--draws", 50, "--jobs", 1]
CODECS = ["audit", "codecs", *TINY, "--codec", "jpeg:5,60", "--codec", "pca:6"]
NAMES = ["jpeg 5", "jpeg 60", "pca 6"]


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def done(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "run"
    return out, command("fairlearn_bridge", *CODECS, "--retrain", "--save-decoded", "--json", "--out", out)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A user's own table of images: files in a folder, a csv beside."""
    folder = tmp_path_factory.mktemp("own")
    faces = make_faces(400, 20, random_state=0)
    for number, image in enumerate(faces.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(400)]
    skin = np.where(faces.attributes["Dark_Skin"], "dark", "light")
    mouth = np.where(faces.attributes["Smiling"], "smile", "none")
    pd.DataFrame({"image": names, "skin": skin, "mouth": mouth}).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


@pytest.mark.slow
def test_it_writes_every_documented_file_with_consistent_numbers(done, documented, listed):
    out, process = done
    assert listed(out) == documented("audit codecs") | {"decoded"} == documented("audit pruning") | {"decoded"}
    assert process.stdout == (out / "audit.json").read_text()
    results = json.loads(process.stdout)
    assert [row["name"] for row in results["table"]] == NAMES
    assert results["config"]["codecs"] == ["jpeg:5,60", "pca:6"]
    assert results["images"] == {"train": 60, "test": 90}
    groups = pd.read_csv(out / "groups.csv").set_index(["name", "group"])
    predictions = pd.read_csv(out / "predictions.csv", index_col="image")
    right = predictions[["original", *NAMES]].eq(predictions["target"], axis=0).groupby(predictions["group"]).mean()
    for name in NAMES:
        of_case = groups.loc[name]
        assert of_case.index.tolist() == ["Dark_Skin", "not Dark_Skin"]
        np.testing.assert_allclose(of_case["drop"], right["original"] - right[name])
        np.testing.assert_allclose(of_case["unrecoverable"] + of_case["recoverable"], of_case["drop"], atol=1e-12)
    table = pd.read_csv(out / "table.csv", index_col="name")
    np.testing.assert_allclose(table["bias"], np.ptp(groups["drop"].unstack(), axis=1).reindex(NAMES))
    np.testing.assert_allclose(table["frechet"], groups["frechet"].unstack().mean(axis=1).reindex(NAMES))
    assert table.loc["jpeg 5", "frechet"] > table.loc["jpeg 60", "frechet"] > 0
    spectrum = pd.read_csv(out / "spectrum.csv").set_index(["name", "group", "cycles"])["kept"]
    assert len(spectrum) == len(results["spectrum"]) == len(NAMES) * 2 * 12
    # Of few components details are left out.
    assert (spectrum.xs(12, level="cycles")["pca 6"] < 0.5).all()
    drift = pd.read_csv(out / "drift.csv").set_index(["name", "group", "class"])
    np.testing.assert_allclose(drift.groupby(["name", "group"]).sum(), 1)
    assert "note: groups of fewer than 200 images" in process.stderr
    assert "2/2" in process.stderr  # epochs
    assert "report: " in process.stderr
    for stage in ("drawing faces", "preparing the degradations", "training the classifier on originals", "auditing"):
        assert f"{stage} ..." in process.stderr


@pytest.mark.slow
def test_decoded_images_are_those_that_were_measured(done):
    out, _ = done
    assert {path.name for path in (out / "decoded").iterdir()} == {"jpeg_5", "jpeg_60", "pca_6"}
    faces = make_faces(90, 24, random_state=1).images.astype(float)
    squares = []
    for number in range(90):
        decoded = np.asarray(Image.open(out / "decoded" / "jpeg_5" / f"{number}.png")).transpose(2, 0, 1)
        squares.append(((faces[number] - decoded) ** 2).mean())
    psnr = (10 * np.log10(255**2 / np.array(squares))).mean()
    assert pd.read_csv(out / "table.csv", index_col="name").loc["jpeg 5", "psnr"] == pytest.approx(psnr)


@pytest.mark.slow
def test_the_page_says_what_was_found(done):
    out, _ = done
    page = (out / "report.html").read_text()
    assert "<title>Audit of codecs: Smiling by Dark_Skin, on faces</title>" in page
    assert "it has little to lose" in page
    for text in (*NAMES, "Images before and after", "not Smiling", "Unrecoverable", "Limitations", "Frechet"):
        assert text in page
    assert page.count("An image of Dark_Skin: jpeg 5") == 2
    assert "In the classifier's own features, " in html.unescape(page)
    plots = {"bias.png", "shares.png", "realism.png", "spectrum.png", "drift.png"}
    assert {path.name for path in (out / "plots").iterdir()} == plots
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.slow
def test_check_repeats_a_part_and_writes_nothing(done, refused, tmp_path, written):
    out, _ = done
    before = {path: written(path) for path in out.rglob("*")}
    arguments = [*CODECS, "--retrain", "--quiet", "--check", "--out"]
    found = invoke(*arguments, out, "--json")
    assert found.exit_code == 0, found.stdout
    whats = {row["what"] for row in json.loads(found.stdout)}
    assert whats >= {"test images", "examples of pca 6", "loss of the classifier's first epoch", "setting bpp"}
    other = invoke(*arguments, out, "--seed", 5)
    assert other.exit_code == 1
    assert "differs: setting random_state: was 0, is 5" in other.stdout
    assert "differs: examples of jpeg 5: " in other.stdout
    assert {path: written(path) for path in out.rglob("*")} == before
    assert "audit.json" in refused(app, *arguments, tmp_path / "none")


def of_a_table(labels, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"grade": labels, "dark": np.arange(len(labels)) % 2})
    return AttributeImages(rng.integers(0, 256, (len(labels), 3, 16, 16), np.uint8), table)


def test_classes_are_compared_before_anything_is_trained():
    config = AuditConfig("grade", ("dark",), distortions=("blur:1",), epochs=1, n_bootstrap=50)
    three = of_a_table(np.arange(120) % 3)
    two = of_a_table(np.arange(120) % 2, seed=1)  # of which 2 is missing by chance: no booleans for that
    assert run_audit(config, three, two).found.classes.tolist() == [0, 1, 2]
    seconds = {}
    with pytest.raises(ValueError, match=r"target grade must have classes that occur in training, \[0, 1\]; .* \[2\]"):
        run_audit(config, two, three, seconds=seconds)
    assert seconds == {}


def test_what_another_audit_left_is_removed(tmp_path):
    out = tmp_path / "run"
    for folder in ("plots", "decoded/jpeg_50"):
        (out / folder).mkdir(parents=True)
    (out / "plots" / "realism.png").write_bytes(b"of another")
    (out / "decoded" / "jpeg_50" / "1.png").write_bytes(b"of another")
    (out / "audit.json").write_text("{}")
    own = tmp_path / "own"
    (own / "plots").mkdir(parents=True)
    for name in ("spectrum.csv", "plots/figure.png"):
        (own / name).write_text("of the user's")
    options = ["audit", "distortions", *TINY, "--distortion", "blur:1", "--force", "--quiet", "--out", out]
    done = invoke(*options)
    assert done.exit_code == 0, done.stderr
    assert b"of another" not in [path.read_bytes() for path in (out / "plots").iterdir()]
    assert not (out / "decoded" / "jpeg_50").exists()
    done = invoke("audit", "pruning", *TINY, "--amount", 0.5, "--force", "--quiet", "--out", own)
    assert done.exit_code == 0, done.stderr
    assert (own / "spectrum.csv").exists()
    assert (own / "plots" / "figure.png").exists()


@pytest.mark.slow
def test_a_stopped_audit_resumes_and_ends_with_the_same_results(done, command, interrupted, listed, states, tmp_path):
    whole, _ = done
    out = tmp_path / "run"
    # Two outcomes: the classifier, two of the trainings anew and two cases make five files.
    options = [*CODECS, "--retrain", "--save-decoded", "--out", out]
    told = interrupted(lambda: len(states(out)) >= 3, "fairlearn_bridge", *options)
    assert told.startswith(f"stopped: {out / 'checkpoints'} keeps what was done")
    assert not (out / "audit.json").exists()
    command("fairlearn_bridge", *options, "--force", "--quiet")
    assert listed(out) == listed(whole)
    for name in ("table.csv", "groups.csv", "drift.csv", "spectrum.csv", "predictions.csv", "decoded/pca_6/3.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_kept_outcomes_are_read_and_not_computed_again(tmp_path):
    train, test = make_faces(60, 16, random_state=0), make_faces(90, 16, random_state=1)
    config = AuditConfig(
        "Smiling", ("Dark_Skin",), distortions=("blur:1",), epochs=1, n_bootstrap=50, n_permutations=50
    )
    seen = []
    runs = [
        run_audit(config, train, test, checkpoint_dir=tmp_path, on_images=lambda name, start, _: seen.append(start))
        for _ in range(2)
    ]
    assert seen == [0]
    pd.testing.assert_frame_equal(runs[0].found.to_frame(), runs[1].found.to_frame())
    assert len(list(tmp_path.glob("*.pt"))) == 2  # the classifier and the outcome


@pytest.mark.slow
def test_ones_own_table_at_a_rate(refused, table, tmp_path):
    out = tmp_path / "run"
    data = ["--data", "table", "--root", table, "--target", "mouth", "--groups", "skin", "--cache", tmp_path / "cache"]
    options = ["audit", "codecs", *data, "--size", 20, "--epochs", 1, "--draws", 50, "--quiet", "--out", out]
    line = refused(app, *options, "--codec", "jpeg", "--bpp", 0.3)
    assert "jpeg at 0.3 bits per pixel: bpp must be a rate that the codec reaches; the lowest found is" in line
    done = invoke(*options, "--force", "--codec", "webp", "--codec", "pca", "--bpp", 12, "--bpp", 6)
    assert done.exit_code == 0, done.stderr
    assert "drop: dark" in done.stdout
    results = json.loads((out / "audit.json").read_text())
    assert len(results["rates"]) == 4
    assert all(row["reached"] <= row["bpp"] for row in results["rates"])
    assert results["classes"] == ["none", "smile"]


@pytest.mark.slow
def test_distortions_and_pruning(tmp_path):
    done = invoke("audit", "distortions", *TINY, "--distortion", "blur:1,2", "--quiet", "--out", tmp_path / "d")
    assert done.exit_code == 0, done.stderr
    assert "blur 2" in done.stdout
    assert "note: " in done.stderr
    assert "frechet" in done.stdout
    (tmp_path / "p").mkdir()
    for name in ("spectrum.csv", "audit.json"):
        (tmp_path / "p" / name).write_text("of another audit")
    options = ["--amount", 0.9, "--reestimate", "--quiet", "--out", tmp_path / "p", "--force"]
    done = invoke("audit", "pruning", *TINY, *options)
    assert done.exit_code == 0, done.stderr
    assert "frechet" not in done.stdout
    assert not (tmp_path / "p" / "spectrum.csv").exists()
    results = json.loads((tmp_path / "p" / "audit.json").read_text())
    (row,) = results["table"]
    assert (row["name"], row["psnr"]) == ("pruning, batch statistics anew 0.9", None)
    page = (tmp_path / "p" / "report.html").read_text()
    assert "estimated anew on training images" in page
    assert "Images before and after" not in page


def test_ones_own_classifier_and_codec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_audited.py").write_text(
        "import numpy as np\n"
        "from fairlearn_bridge.audit import PillowCodec\n"
        "def brightness(images):\n"
        "    bright = images.mean((1, 2, 3)) / 255\n"
        "    return np.stack([1 - bright, bright], axis=1)\n"
        "brightness.classes = [False, True]\n"
        "def classifier():\n"
        "    return brightness\n"
        "codec = PillowCodec('jpeg', 7)\n"
    )
    options = ["audit", "codecs", *TINY[:6], "--draws", 50, "--quiet", "--out", tmp_path / "run"]
    mine = ["--model", "my_audited:classifier", "--codec", "my_audited:codec"]
    done = invoke(*options, *mine)
    assert done.exit_code == 0, done.stderr
    assert "jpeg 7" in done.stdout
    results = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert results["losses"] == []
    # It has no network, so no features.
    assert (results["spectrum"], "frechet" in results["table"][0]) == ([], False)
    for more, words in (
        (["--epochs", 3], "--epochs must be left out with --model"),
        (["--retrain", "--lr", 0.5], "--lr must be left out with --model"),
        (["--retrain"], "a classifier that has no fit"),
        (["--model", "my_audited:nothing"], "cannot be imported"),
        (["--model", "my_audited"], "--model must be module:name"),
    ):
        done = invoke(*options, "--force", *mine, *more)
        assert done.exit_code == 2, done.stdout
        assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["codecs", "--codec", "gif:3"], "error: --codec must be of jpeg, jpeg2000, webp, avif, jpegxl, heic, pca"),
        (["codecs", "--codec", "jpeg"], "--codec must have a quality unless --bpp is given, as in 'jpeg:50'"),
        (["codecs", "--codec", "jpeg:5", "--bpp", "1"], "--codec must be without a quality where --bpp is given"),
        (["codecs", "--codec", "jpeg:500"], r"quality must be a number in [1, 100], got 500"),
        (["codecs", "--codec", "jpeg:low"], "'jpeg:low' must have numbers after the colon"),
        (["codecs", "--codec", "webp:5:4:4:4"], "subsampling must be left out for webp"),
        (["codecs", "--codec", "pca:2.5"], "pca must be followed by its number of components"),
        (["codecs", "--groups", "Smiling"], "--groups must be of another attribute than the target"),
        (["codecs", "--groups", "Skin"], "'Skin' is not an attribute of these images"),
        (["codecs", "--groups", "Dark_Skin,Male,Eyeglasses"], "--groups must have at least 30 images each"),
        (["codecs", "--data", "imagenet"], "--data must be one of"),
        (["codecs", "--data", "table", "--groups", "x"], "--target must be given, unless --data is faces"),
        (["codecs", "--epochs", "0"], "--epochs must be an integer of at least 1, got 0"),
        (["codecs", "--draws", "0"], "--draws must be an integer of at least 1, got 0"),
        (["codecs", "--test-size", "0"], "--test-size must be at least 1, got 0"),
        (["codecs", "--seed", "-1"], "--seed must lie in 0 to"),
        (["codecs", "--groups", ""], "--groups must name an attribute, got none"),
        (["codecs", "--target", ""], "'' is not an attribute of these images"),
        (["distortions", "--distortion", "fog"], "--distortion must be of blur, noise"),
        (["distortions", "--distortion", "blur:-1"], "severities of blur must be numbers in"),
        (["pruning", "--amount", "1"], "--amount must be below 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_written(refused, arguments, words, tmp_path):
    out = tmp_path / "run"
    mode, *options = arguments
    assert words in refused(app, "audit", mode, *TINY, "--quiet", "--out", out, *options)
    assert not out.exists() or {path.name for path in out.iterdir()} <= {".lock"}


def test_a_full_folder_and_what_is_in_the_way_are_refused(refused, tmp_path):
    (tmp_path / "plots").write_text("")
    line = refused(app, *CODECS, "--quiet", "--out", tmp_path)
    assert "holds files already" in line
    line = refused(app, *CODECS, "--quiet", "--out", tmp_path, "--force")
    assert line == f"error: {tmp_path / 'plots'} must be a folder, it is a file"


def test_specifications():
    images = make_faces(20, 16, random_state=0).images
    codecs, rates = codecs_of(["jpeg:5,10", "jpeg:5:4:4:4", "pca:2,4"], (), images)
    assert {name: [codec.severity for codec in each] for name, each in codecs.items()} == {
        "jpeg": [5, 10],
        "jpeg 4:4:4": [5],
        "pca": [2, 4],
    }
    assert rates == []
    # A quality that two rates lead to is audited once.
    codecs, rates = codecs_of(["jpeg:4:2:0"], (1000, 2000), images)
    assert [codec.quality for codec in codecs["jpeg 4:2:0"]] == [100]
    assert len(rates) == 2
    codecs, _ = codecs_of(["jpeg:4:4:4:4", "jpeg:4:4:2:0"], (), images)
    assert {name: [codec.quality for codec in each] for name, each in codecs.items()} == {
        "jpeg 4:4:4": [4],
        "jpeg 4:2:0": [4],
    }
    assert distortion_of("noise:0.05,0.5").severities == (0.05, 0.5)
    assert distortion_of("blur").severities == (1, 2, 4)


def test_groups_of_several_attributes_are_combined():
    faces = make_faces(4, 16, attributes={"Male": np.arange(4) < 2, "Dark_Skin": np.arange(4) % 2 == 0}, random_state=0)
    assert groups_of(faces, ("Male", "Dark_Skin")).tolist() == [
        "Male, Dark_Skin",
        "Male, not Dark_Skin",
        "not Male, Dark_Skin",
        "not Male, not Dark_Skin",
    ]


def test_codecs_learn_from_all_of_a_sorted_data_set():
    brightness = np.sort(np.random.default_rng(0).integers(0, 256, 3 * LEARNED_FROM)).astype(np.uint8)
    images = np.broadcast_to(brightness[:, None, None, None], (len(brightness), 1, 8, 8))
    sorted_images = AttributeImages(np.ascontiguousarray(images), pd.DataFrame({"Smiling": brightness > 127}))
    degradations, _ = degradations_of(AuditConfig("Smiling", ("Male",), codecs=("pca:1",)), sorted_images)
    several = {"codecs": ("jpeg:5",), "distortions": ("jpeg:50", "blur:1", "blur:2")}
    given, _ = degradations_of(AuditConfig("Smiling", ("Male",), **several), sorted_images)
    assert [case.name for case in cases_of(given)] == ["jpeg 5", "jpeg 50", "blur 1", "blur 2"]
    with pytest.raises(ValueError, match="must have different names, got blur 1 twice"):
        degradations_of(AuditConfig("Smiling", ("Male",), distortions=("blur:1", "blur:1")), sorted_images)
    ((codec,),) = degradations.values()
    assert 255 * codec.mean_.mean() == pytest.approx(brightness.mean(), abs=10)


def test_rates_are_measured_on_all_of_a_sorted_data_set():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 1, 32, 32)).astype(np.uint8)
    images[:150] = 128  # which costs next to nothing
    data = AttributeImages(images, pd.DataFrame({"Smiling": np.arange(300) % 2}))
    degradations, _ = degradations_of(AuditConfig("Smiling", ("Male",), codecs=("webp",), bpp=(2.0,)), data)
    ((codec,),) = degradations.values()
    assert mean_rate(codec, images) == pytest.approx(2, abs=0.4)


def test_decoded_images_are_whole_folders_or_none(tmp_path):
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 1, 4, 4)
    saved = Decoded(tmp_path, ["a/1.jpg", "a/2.jpg", "b.png"])
    saved("jpeg 5", 0, images[:2])
    assert [path.name for path in tmp_path.iterdir()] == [".partial-jpeg_5"]
    saved("jpeg 5", 2, images[2:])
    assert {path.name for path in (tmp_path / "jpeg_5").iterdir()} == {"a_1.png", "a_2.png", "b.png"}
    assert (np.asarray(Image.open(tmp_path / "jpeg_5" / "b.png")) == images[2, 0]).all()
    assert len(set(Decoded(tmp_path, ["1.jpg", "1.png"]).names)) == 2
