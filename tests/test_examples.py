"""Every example runs, as a script of its own, and shows what it says it shows."""

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(forked, tmp_path, monkeypatch):
    """Run an example in `tmp_path`, where a warning is an error; return what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")

    def of(name):
        with forked(EXAMPLES / name) as process:
            stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr
        return stdout

    return of


def rows(printed, *names):
    """The numbers of the rows of a printed table that have these names."""
    found = {name: re.search(rf"^{name}((?: +-?[\d.]+)+)$", printed, re.MULTILINE)[1] for name in names}
    return {name: [float(value) for value in values.split()] for name, values in found.items()}


@pytest.mark.slow
def test_first_map_example(run, tmp_path):
    printed = run("plot_first_map.py")
    assert (tmp_path / "first_map.png").stat().st_size > 1000
    assert float(re.search(r"detector of pixels of hats: ([\d.]+)", printed)[1]) > 0.85


@pytest.mark.slow
def test_what_confounds_example(run, tmp_path):
    printed = run("plot_what_confounds.py")
    assert set(re.findall(r"^(\w+) +0\.\d+ +0\.0+ +True", printed, re.MULTILINE)) == {"Smiling", "Blond_Hair"}
    flip_rate = dict(re.findall(r"^(\w+) +(0\.\d+)$", printed, re.MULTILINE))
    assert float(flip_rate["Blond_Hair"]) > float(flip_rate["Smiling"]) + 0.1
    assert (tmp_path / "what_confounds.png").stat().st_size > 1000


@pytest.mark.slow
def test_captum_drop_in_example(run, tmp_path):
    printed = run("plot_captum_drop_in.py")
    measured = rows(printed, "IntegratedGradients", "Occlusion", "RegionAttribution")
    sensitivity = {name: values[0] for name, values in measured.items()}
    assert 0 < sensitivity["RegionAttribution"] < sensitivity["IntegratedGradients"]
    assert all(values[1] > 0 for values in measured.values())
    assert (tmp_path / "captum_drop_in.png").stat().st_size > 1000


@pytest.mark.slow
def test_own_table_example(run, tmp_path):
    printed = run("plot_own_table.py")
    assert re.search(r"0003\.png +there is no such file\n *0005\.png the image is damaged", printed)
    assert "(698, 3, 32, 32) uint8" in printed
    assert float(re.search(r"best region ([\d.]+)", printed)[1]) > 0.75
    assert [path.name for path in tmp_path.iterdir()] == ["own_table.png"]


@pytest.mark.slow
def test_own_backbone_example(run, tmp_path):
    printed = run("plot_own_backbone.py")
    areas = re.findall(r"area under the ROC ([\d.]+)", printed)
    assert len(areas) == 2
    assert all(float(area) > 0.85 for area in areas)
    assert float(re.search(r"smiles: balanced accuracy ([\d.]+)", printed)[1]) > 0.65
    assert (tmp_path / "own_backbone.png").stat().st_size > 1000


@pytest.mark.slow
def test_mitigation_example(run, tmp_path):
    printed = run("plot_mitigation.py")
    cells = rows(printed, "blond man", "blond woman", "dark man", "dark woman")
    original, transplant = map(min, zip(*cells.values(), strict=True))
    assert transplant > original + 0.1
    flipped = dict(re.findall(r"^([\w ]+): ([\d.]+) of the predictions change", printed, re.MULTILINE))
    assert float(flipped["transplant"]) < float(flipped["ERM baseline"]) - 0.1
    assert (tmp_path / "mitigation.png").stat().st_size > 1000


@pytest.mark.slow
def test_two_confounders_example(run, tmp_path):
    table = rows(run("plot_two_confounders.py"), "nothing", "hair alone", "hair and hat")
    misled = {name: values[2] for name, values in table.items()}
    assert misled["nothing"] + 0.15 < misled["hair alone"] < misled["hair and hat"]
    of_hat = {name: values[4] for name, values in table.items()}
    assert of_hat["hair alone"] > of_hat["hair and hat"] + 0.15
    # It flips seldom because it does not look at the hat, not because it looks at nothing.
    assert table["hair and hat"][1] > max(0.6, table["nothing"][1])
    assert (tmp_path / "two_confounders.png").stat().st_size > 1000


@pytest.mark.slow
def test_compare_mitigators_example(run, tmp_path):
    printed = run("plot_compare_mitigators.py")
    assert "resampling, seed 0: not applicable: no training image" in printed
    assert re.search(r"^resampling( +NaN){5}$", printed, re.MULTILINE)
    table = rows(printed, "original", "threshold shifted", "transplant", "elsewhere")
    crossed_auc = {name: values[3] for name, values in table.items()}
    assert crossed_auc["threshold shifted"] == crossed_auc["original"]
    assert crossed_auc["transplant"] > max(crossed_auc["original"], crossed_auc["elsewhere"]) + 0.1
    assert (tmp_path / "compare_mitigators.png").stat().st_size > 1000


@pytest.mark.slow
def test_saliency_comparison_example(run, tmp_path):
    printed = run("plot_saliency_comparison.py")
    area = re.search(r"^MultiScaleRegionAttribution +[\d.]+ +([\d.]+)$", printed, re.MULTILINE)[1]
    assert float(area) > 0.7
    by_model = re.findall(r"LayerGradCam, model of \w+ +([\d.]+) +([\d.]+)", printed)
    (hat, mouth), (not_hat, not_mouth) = ((float(first), float(second)) for first, second in by_model)
    assert hat > mouth  # each model shows its own cue
    assert not_mouth > not_hat
    assert {path.name for path in tmp_path.glob("*.png")} == {"saliency.png", "two_cues.png"}


@pytest.mark.slow
def test_slices_example(run, tmp_path):
    printed = run("plot_slices.py")
    after = {name: values[2] for name, values in rows(printed, "pretrained", "swapped", "uniform tied").items()}
    assert after["pretrained"] > 0.2
    assert after["swapped"] < -0.2  # it turns with the weights
    assert after["uniform tied"] == 0
    dice = dict(re.findall(r"^(uniform|uniform tied) +([\d.]+) .*-?[01]\.\d+$", printed, re.MULTILINE))
    assert float(dice["uniform"]) > float(dice["uniform tied"]) + 0.2
    assert {path.name for path in tmp_path.glob("*.png")} == {"slices_asymmetry.png", "slices_saliency.png"}


@pytest.mark.slow
def test_codec_audit_example(run, tmp_path):
    printed = run("plot_codec_audit.py")
    measured = rows(printed, *(f"of {kind} {n}" for kind in ("bare heads", "all faces") for n in (16, 24, 32)))
    for n in (16, 24, 32):
        bare, every = measured[f"of bare heads {n}"], measured[f"of all faces {n}"]
        for column, most in enumerate((0.02, 0.5, 0.05)):  # rate, PSNR and accuracy are almost equal
            assert abs(bare[column] - every[column]) < most
        assert bare[3] > every[3] + 0.04  # the bias is not
        assert bare[6] < 0.05
    drops = dict(re.findall(r"^(of bare heads \d+) +([\d.]+ +[\d.]+)$", printed, re.MULTILINE))
    assert len(drops) == 3
    for pair in drops.values():
        with_hat, without = map(float, pair.split())
        assert with_hat > without + 0.05
    (compared,) = re.findall(r"^drop +([\d. -]+)$", printed, re.MULTILINE)
    assert float(compared.split()[-1]) < 0.05
    assert {path.name for path in tmp_path.glob("*.png")} == {"codec_audit.png", "codec_faces.png"}


@pytest.mark.slow
def test_seeds_on_dask_example(run, tmp_path):
    pytest.importorskip("distributed")
    printed = run("seeds_on_dask.py")  # it compares what Dask's workers give with what joblib's give
    assert "each worker trained: True" in printed
    assert re.search(r"^general_transplant( +[\d.]+){4}$", printed, re.MULTILINE)


@pytest.mark.slow
def test_own_loop_example(run, tmp_path):
    printed = run("plot_own_loop.py")
    found = re.findall(r"^[\w ]+: .* dark-haired woman ([\d.]+), blond man ([\d.]+)$", printed, re.MULTILINE)
    as_they_are, perturbed = (sum(map(float, cells)) / 2 for cells in found)
    assert perturbed > as_they_are + 0.1
    assert {path.name for path in tmp_path.glob("*.png")} == {"own_loop.png", "own_loop_faces.png"}


def test_every_example_is_tested():
    tested = set(re.findall(r"\w+\.py", Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
