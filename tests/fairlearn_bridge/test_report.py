"""The report: its first sentence agrees with the numbers, it needs nothing beside it, and what comes in is escaped."""

import copy
import io
import json
import math
import pickle
import re
import tracemalloc
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from captum_region.datasets import make_faces
from captum_region.page import DASH
from captum_region.plotting import png_of
from fairlearn_bridge import metrics, noise, plotting
from fairlearn_bridge.cli import app
from fairlearn_bridge.noise import quantile_mask
from fairlearn_bridge.plotting import Interval
from fairlearn_bridge.report import examples, figures, page, pictures, words, write_report, write_side_by_side
from fairlearn_bridge.report.examples import mask_levels
from fairlearn_bridge.report.run import ARRAYS, read_run, run_of
from fairlearn_bridge.schemes import SCHEMES

SCRIPT = "<script>alert('x')</script>"
ARMS = {
    "original": "reference",
    "balanced": "reference",
    "threshold shifted": "control",
    "elsewhere": "control",
    "general_mask": "scheme",
    "general_noise": "scheme",
}
WINNING = {
    "original": 0.4,
    "balanced": 0.9,
    "threshold shifted": 0.5,
    "elsewhere": 0.3,
    "general_mask": 0.41,
    "general_noise": 0.7,
}
MEASURES = {
    "accuracy": "Share classified right.",
    "accuracy[False]": "Among women.",
    "accuracy[True]": "Among men.",
    "gap": "The first minus the second.",
    "worst_cell": "Least of the cells.",
    "confounder_gap": "With against without.",
    "auc": "Area.",
    "crossed_auc": "Area, crossed.",
    "flip_rate": "Share that changes.",
}


CELLS = [(group, value) for group in (False, True) for value in (False, True)]
REGION_CLASSIFIER = {
    "history": [{"epoch": 1, "loss": 0.7, "lr": 0.001}, {"epoch": 2, "loss": 0.5, "lr": 0.001}],
    "mean_region_accuracy": 0.71,
    "best_region_accuracy": None,
    "calibration": {
        "bins": [
            {"lower": 0.0, "upper": 0.5, "patches": 0, "confidence": None, "accuracy": None},
            {"lower": 0.5, "upper": 1.0, "patches": 900, "confidence": 0.75, "accuracy": 0.625},
        ],
        "error": 0.125,
        "accuracy": 0.6,
        "images": 9,
    },
}


def table_of(worst, width):
    values = {
        name: dict.fromkeys(MEASURES, value) | {"gap": 0.9 - value, "flip_rate": 1 - value}
        for name, value in worst.items()
    }
    return [
        {
            "mitigator": name,
            "measure": measure,
            "mean": mean,
            "std": None,
            "low": mean - width,
            "high": mean + width,
        }
        for name, of_mitigator in values.items()
        for measure, mean in of_mitigator.items()
    ]


def cells_of(worst):
    return [
        {
            "mitigator": name,
            "group": group,
            "confounder": value,
            "images": 9,
            "low": low,
            "high": 1,
            "accuracy": 0.9,
        }
        | ({"accuracy": low} if group and value else {})
        for name, low in worst.items()
        for group, value in CELLS
    ]


def results(worst=WINNING, width=0.02, confounder="Blond_Hair"):
    return {
        "format": 1,
        "title": "Male without hair",
        "command": "fairlearn-bridge demo",
        "created": "2025-01-02T03:04:05+00:00",
        "versions": {"torch": "2.6.0"},
        "config": {"quantile": 0.7, "device": None, "schemes": ["general_mask", "general_noise"]},
        "target": "Male",
        "confounder": confounder,
        "target_names": {"False": "not Male", "True": "Male"},
        "confounder_names": {"False": f"not {confounder}", "True": confounder},
        "counts": [
            {"set": "biased", "target": group, "confounder": value, "images": count}
            for (group, value), count in zip(CELLS, (1000, 2000, 3000, 0), strict=True)
        ],
        "seconds": {"training": 75.0},
        "region_classifier": copy.deepcopy(REGION_CLASSIFIER),  # tests change what they get
        "pareto_front": list(worst)[:1],
        "confident": [
            {"image": f"{SCRIPT}.png", "label": "Male, $x", "mean": 0.75, "max": 0.875},
            {"image": "b.png", "label": "not Male, $y", "mean": 0.125, "max": 0.25},
        ],
        "mitigators": [{"name": name, "kind": ARMS[name], "description": f"What {name} does."} for name in worst],
        "table": table_of(worst, width),
        "measures": MEASURES,
        "cells": cells_of(worst),
        "trainings": [
            {"mitigator": name, "seed": seed, "seconds": 1.5, "losses": [0.7, 0.5 + seed / 10][: 2 - seed]}
            for name in worst
            for seed in (0, 1)
        ],
        "skipped": [{"image": f"{SCRIPT}.jpg", "reason": "truncated"}],
        "caveats": ["Synthetic faces."],
        "random_states": [0],
        "confidence_level": 0.95,
    }


def maps():
    faces = make_faces(2, 16, random_state=0).images
    ramp = np.linspace(0, 0.6, 256, dtype=np.float32).reshape(16, 16)
    return {
        "mean_image": faces.mean(0).astype(np.uint8).transpose(1, 2, 0),
        "mean_map": ramp[::4, ::4],
        "pixel_map": ramp,
        "region_accuracy": 0.5 + ramp[::4, ::4],
        "truth_mean": ramp,
        "example_images": faces,
        "example_maps": np.stack([ramp, ramp / 2]),
        "example_labels": np.array(["Male, $x", "not Male, $y"]),
        "example_names": np.array([f"{SCRIPT}.png", "b.png"]),
        "donor_images": 255 - faces[::-1],
        "donor_maps": np.stack([ramp.T, ramp[::-1]]),
        "confident_images": faces,
        "confident_maps": np.stack([ramp, ramp / 2]),
        "example_schemes": np.array(["general_mask", "general_noise"]),
        "example_general_mask": faces // 2,
        "example_general_noise": 255 - faces,
    }


def write(folder: Path, content=None, arrays=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results() if content is None else content))
    np.savez(folder / "maps.npz", **(maps() if arrays is None else arrays))
    return folder


def rendered(run):
    """Return the page without its figures, which take seconds."""
    pictures = {"results": [], "trainings": [], "maps": []}
    return page.render_report(run, pictures=pictures, strip=examples.strip_content(run), confident=[])


@pytest.fixture
def read_back(tmp_path):
    """A run folder read back, without the cost of drawing."""

    def read(content):
        return read_run(write(tmp_path / "run", content))

    return read


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def content():
    """A whole run's results, with a script for the confounder's name and a value missing."""
    content = results(confounder=SCRIPT)
    content["table"] = [
        row | {"mean": None, "low": math.nan} if (row["mitigator"], row["measure"]) == ("balanced", "auc") else row
        for row in content["table"]
    ]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory, content):
    """A whole run, rendered."""
    folder = write(tmp_path_factory.mktemp("report") / "run", content)
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(html):
    return Page(html)


def test_the_page_loads_nothing_from_elsewhere(html, parsed):
    sources = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "href")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert [script.get("type") for script in parsed.of("script")] == ["application/json", None]
    assert not re.search(r"url\(|@import", html)
    assert len(html) < 3_000_000


def test_the_page_has_a_language_one_heading_and_table_scopes(parsed):
    assert parsed.of("html") == [{"lang": "en"}]
    assert len(parsed.of("h1")) == 1
    assert all(cell.get("scope") in ("row", "col") for cell in parsed.of("th"))


def test_names_are_escaped(html, parsed):
    assert SCRIPT not in html
    assert f"{SCRIPT}.jpg" in parsed.text
    assert f"{SCRIPT}.png: Male, $x" in parsed.text
    assert f"Share of predictions that change when only {SCRIPT} is toggled." in parsed.text


def test_all_measures_and_mitigators_are_there_and_explained(parsed):
    for measure, description in MEASURES.items():
        assert metrics.label(measure, {"False": "not Male", "True": "Male"}) in parsed.text
        assert parsed.text.count(description) == 1
    for name in ARMS:
        assert f"What {name} does." in parsed.text
    words = parsed.text + " ".join(image["alt"] for image in parsed.of("img"))
    for text in (
        "mean 0.750, max 0.875",
        "mean 0.125, max 0.250",
        "right in 0.62 of 900 patches",
        "75.0 s",
        "fairlearn-bridge demo",
        "2.6.0",
        "general_mask, general_noise",
        "3,000",
        "0.710",
    ):
        assert text in words


def test_every_figure_has_a_text_alternative(folder, parsed):
    images = parsed.of("img")
    assert all(image["alt"] for image in images)
    plots = [image for image in images if image["width"] != "16"]
    assert len(plots) == 11
    assert all(len(image["alt"]) > 40 for image in plots)
    assert all(canvas["role"] == "img" and canvas["aria-label"] for canvas in parsed.of("canvas"))
    assert len(parsed.of("figcaption")) == len(parsed.of("figure")) == 11 + 2 + 2
    plots = {path.name: path.read_bytes()[:4] for path in (folder / "plots").iterdir()}
    assert set(plots.values()) == {b"\x89PNG"}
    assert {"accuracy_by_group.png", "worst_cell.png", "flip_rate.png", "schemes.png", "region_map.png"} <= set(plots)
    assert len(plots) == 11


def test_a_missing_value_is_a_dash(read_back):
    content = results()
    for row in content["table"]:
        if (row["mitigator"], row["measure"]) == ("balanced", "auc"):
            row |= {"mean": None, "low": math.nan, "high": math.inf}
    rows = {row["name"]: row["cells"] for row in page.page_content(read_back(content))["rows"]}
    position = list(MEASURES).index("auc")
    assert rows["balanced"][position] == {"mean": DASH, "interval": "", "spread": "", "best": False}
    assert rows["ERM baseline"][position]["mean"] == "0.400"


def test_the_dash_reaches_the_page(html):
    assert f'<span class="value">{DASH}</span>' in html


def test_the_best_are_marked_without_those_given_other_data(read_back):
    run = read_back(results())
    assert page.best_of(run, "worst_cell") == {"general_noise"}
    assert page.best_of(run, "flip_rate") == {"general_noise"}
    assert page.best_of(run, "gap") == {"general_noise"}
    tied = read_back(results(WINNING | {"original": 0.7}))
    assert page.best_of(tied, "accuracy[True]") == {"ERM baseline", "general_noise"}


BIASED = (
    "In training, 67 % of not Male and 0 % of Male are Blond_Hair. The ERM baseline reaches a worst-group accuracy of "
    "0.400 [0.380, 0.420]. "
)


def test_the_headline_of_a_scheme_that_helped(read_back):
    assert words.headline(read_back(results())) == (
        f"{BIASED}general_noise, the best of 2 schemes, raises it to 0.700 [0.680, 0.720] (+0.300 [+0.260, +0.340]). "
        "It is above every control."
    )


def test_the_headline_where_a_control_does_as_well(read_back):
    text = words.headline(read_back(results(WINNING | {"elsewhere": 0.71})))
    assert text.endswith(" It is above the control “threshold shifted” and not above the control “elsewhere”.")
    overlapping = words.headline(read_back(results(WINNING | {"elsewhere": 0.69})))
    assert overlapping.endswith(
        "It is above the control “threshold shifted” and above, which may be chance, the control “elsewhere”."
    )


def test_a_difference_has_the_interval_of_the_difference(read_back):
    content = results(width=0.4)  # intervals that overlap, of differences that are clear
    pairs = {"original": (0.3, 0.25, 0.34), "threshold shifted": (0.2, 0.1, 0.3), "elsewhere": (0.4, -0.01, 0.5)}
    content["differences"] = [
        {"mitigator": "general_noise", "other": other, "measure": measure}
        | dict(zip(("difference", "low", "high"), values, strict=True))
        for other, values in pairs.items()
        for measure in ("worst_cell", "accuracy")
    ]
    run = read_back(content)
    assert words.headline(run).endswith(
        "raises it to 0.700 [0.300, 1.100] (+0.300 [+0.250, +0.340]). It is above the control “threshold shifted” and "
        "above, which may be chance, the control “elsewhere”."
    )
    found = dict(words.findings(run))
    assert found["Overall accuracy"].endswith("(+0.300 [+0.250, +0.340]).")
    assert found["Beyond a moved threshold"].endswith("(+0.300 [\N{MINUS SIGN}0.500, +1.100], which may be chance).")


def test_the_headline_where_nothing_helped(read_back):
    worst = WINNING | {"general_noise": 0.3, "general_mask": 0.35}
    assert words.headline(read_back(results(worst))) == (
        f"{BIASED}No scheme helps: general_mask, the best of 2 schemes, reaches 0.350 [0.330, 0.370] "
        "(\N{MINUS SIGN}0.050 [\N{MINUS SIGN}0.090, \N{MINUS SIGN}0.010])."
    )


def test_the_headline_where_it_is_not_clear(read_back):
    text = words.headline(read_back(results(width=0.4)))
    assert "No scheme clearly helps: general_noise, the best of 2 schemes, reaches 0.700 [0.300, 1.100]" in text


def test_the_headline_of_few_test_images(read_back):
    content = results()
    content["counts"] += [{"set": "test", "target": "True", "confounder": "True", "images": 29}]
    text = words.headline(read_back(content))
    assert text.endswith(
        "Whether a scheme helps cannot be told: general_noise, the best of 2 schemes, reaches 0.700 [0.680, 0.720] "
        "(+0.300 [+0.260, +0.340]), but a cell has only 29 test images."
    )
    content["counts"][-1]["images"] = 30
    assert "general_noise, the best of 2 schemes, raises it" in words.headline(read_back(content))


def test_what_did_not_run_is_named_once_and_not_drawn(read_back):
    content = results()
    content["table"] = [row | ({"mean": None} if row["mitigator"] == "elsewhere" else {}) for row in content["table"]]
    content["cells"] = [row for row in content["cells"] if row["mitigator"] != "elsewhere"]
    told = {"status": "not applicable", "reason": f"no {SCRIPT}"}
    content["trainings"] = [row | (told if row["mitigator"] == "elsewhere" else {}) for row in content["trainings"]]
    run = read_back(content)
    assert run.not_run == {"elsewhere": f"not applicable: no {SCRIPT}"}
    assert list(run.kinds) == ["ERM baseline", *(name for name in ARMS if name not in ("original", "elsewhere"))]
    assert [row["name"] for row in page.page_content(run)["rows"]] == list(run.kinds)
    assert words.headline(run).endswith("It is above every control.")


def test_a_mitigator_with_fewer_seeds_is_named_in_table_and_text(tmp_path):
    content = results()
    failed = {"status": "failed", "reason": f"FloatingPointError: {SCRIPT}"}
    content["trainings"] = [
        row | (failed if (row["mitigator"], row["seed"]) == ("elsewhere", 1) else {"status": "done", "reason": None})
        for row in content["trainings"]
    ]
    folder = write(tmp_path / "run", content)
    run = read_run(folder)
    assert run.failed
    assert run.fewer_seeds == {"elsewhere": f"1 of 2 seeds; seed 1 failed: FloatingPointError: {SCRIPT}"}
    text = Page(rendered(run)).text
    assert "elsewhere control, 1 of 2 seeds" in text
    assert (
        f"fewer trainings than the others: elsewhere (1 of 2 seeds; seed 1 failed: FloatingPointError: {SCRIPT})"
        in text
    )
    assert not read_run(write(tmp_path / "whole")).failed


def test_the_page_of_a_run_in_memory_is_that_of_its_folder(content, html, tmp_path):
    page.draw_report(run_of(content, maps()), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_the_headline_without_schemes_or_baseline(read_back):
    only = {name: value for name, value in WINNING.items() if ARMS[name] != "scheme"}
    assert "cannot say whether a scheme helps" in words.headline(read_back(results(only)))
    without = {name: value for name, value in WINNING.items() if name != "original"}
    assert "the ERM baseline has no worst-group accuracy" in words.headline(read_back(results(without)))


def test_the_findings_say_what_was_biased_and_what_it_did(read_back):
    found = dict(words.findings(read_back(results())))
    assert found["Bias without mitigation"] == (
        "The ERM baseline has an accuracy of 0.400 [0.380, 0.420] for not Male and 0.400 [0.380, 0.420] for Male: a "
        "gap of +0.500 [+0.480, +0.520]. Its worst group is Male, Blond_Hair, at 0.400 [0.400, 1.000]."
    )
    assert (
        "is 0.400 [0.380, 0.420] for the ERM baseline and 0.700 [0.680, 0.720] with general_noise (+0.300 "
        in found["Beyond a moved threshold"]
    )
    assert "0.600 [0.580, 0.620] for the ERM baseline" in found["Is the spurious attribute still used?"]
    assert found["With balanced data"].endswith("0.900 [0.880, 0.920] (balanced).")


@pytest.mark.parametrize("name", ["results.json", "maps.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path / "run") / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"format": value}, "results.json is of format version .*, this package reads") for value in (2, "1", True)),
        ({"title": 7}, "results.title must be text, got 7"),
        ({"table": [{"mitigator": "original"}]}, r"results.table\[0\] must be an object with mitigator, measure, mean"),
        ({"table": []}, "must hold mitigators and a table"),
        ({"table": 2 * results()["table"]}, "'table' must hold each mitigator and measure once"),
        (
            {"cells": [results()["cells"][0] | {"accuracy": "high"}]},
            "accuracy must be a number or null",
        ),
        (
            {"trainings": [results()["trainings"][0] | {"mitigator": "magic"}]},
            "'trainings' must name mitigators of the run",
        ),
        (
            {"trainings": [results()["trainings"][0] | {"losses": None}]},
            r"results.trainings\[0\].losses must be a list",
        ),
        ({"pareto_front": ["magic"]}, "'pareto_front' must name mitigators of the run, got magic"),
        ({"confident": [{"image": "a"}]}, r"results.confident\[0\] must be an object with image, label, mean"),
        ({"region_classifier": {"calibration": {"bins": []}}}, "calibration must be an object with bins, error, acc"),
        ({"mitigators": [{"name": "a", "kind": "b", "description": ""}]}, "kind must be one of"),
    ],
)
def test_damaged_results_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_report(write(tmp_path / "run", results() | change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged, it is not JSON"),
        ("[]", "must hold a JSON object"),
        ("\xff", "is damaged"),
        ("[" * 10**5, "is damaged"),
        (" " * (2**25 + 1), "must have at most"),
    ],
)
def test_files_that_are_not_results_are_refused(tmp_path, text, message):
    folder = write(tmp_path / "run")
    (folder / "results.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"results.json {message}"):
        write_report(folder)


def test_a_training_that_diverged_is_drawn_as_far_as_it_went(read_back):
    content = results()
    content["trainings"][0]["losses"] = [0.7, None]
    run = read_back(content)
    assert np.isnan(run.trainings["losses"][0][1])
    assert [picture.name for picture in pictures.training_pictures(run)] == ["region_training", "training_losses"]


def test_a_lacking_key_is_named(tmp_path):
    content = results()
    del content["cells"]
    with pytest.raises(
        ValueError, match=r"results\.json is damaged, .*run: results must be an object with .*it lacks cells"
    ):
        write_report(write(tmp_path / "run", content))


def places(value, at=()):
    """Yield where in nested JSON something stands; of a list, its first entry."""
    for key in value if isinstance(value, dict) else range(len(value[:1])) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(value[key], (*at, key))


def with_change(value, at, new):
    if not at:
        return new
    changed = copy.copy(value)
    changed[at[0]] = with_change(value[at[0]], at[1:], new)
    return changed


WRONG = [None, True, -1, 0.5, 1e308, math.nan, math.inf, 10**400, "x", SCRIPT, [], {}, [[1]], {"a": {"b": 1}}]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(list(places(results()))), st.sampled_from(WRONG))
def test_wrong_values_are_shown_or_refused_by_name(tmp_path, at, wrong):
    folder = write(tmp_path / "run", with_change(results(), at, wrong))
    try:
        run = read_run(folder)
    except ValueError as error:
        assert "results.json" in str(error)  # noqa: PT017 - most are shown
        return
    html = rendered(run)
    assert words.headline(run)
    assert SCRIPT not in html


def lying_archive(path, *, size=None, header=None):
    """Write maps.npz with an array whose header, or whose entry in the archive, claims more than is there."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in maps().items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            content = buffer.getvalue()
            if header and name == "pixel_map":
                np.lib.format.write_array_header_1_0(buffer := io.BytesIO(), header)
                content = buffer.getvalue() + bytes(100)
            archive.writestr(f"{name}.npy", content)
        if size:
            archive.getinfo("pixel_map.npy").file_size = size


def test_maps_that_claim_to_be_enormous_take_no_memory(tmp_path):
    folder = write(tmp_path / "run")
    for options in (
        {"size": 2**40},
        *(
            {"header": {"descr": "<f4", "fortran_order": False, "shape": shape}}
            for shape in ((10**12,), (10**6, 10**6))
        ),
    ):
        lying_archive(folder / "maps.npz", **options)
        tracemalloc.start()
        with pytest.raises(
            ValueError, match=r"maps\.npz is damaged: .* (at most 1,073,741,824 bytes|says that it has)"
        ):
            read_run(folder)
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()


def test_pickles_in_maps_are_refused_and_not_run(tmp_path, trap):
    folder = write(tmp_path / "run")
    np.savez(folder / "maps.npz", **maps() | {"example_labels": np.array([trap, trap], dtype=object)})
    with pytest.raises(ValueError, match=r"maps\.npz is damaged"):
        write_report(folder)
    for content in (pickle.dumps(trap), pickle.dumps({"mean_image": trap})):
        (folder / "maps.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"maps\.npz is damaged"):
            write_report(folder)


def test_names_that_climb_write_nothing_elsewhere(tmp_path):
    content, arrays = results(), maps()
    climbing = "../../climbed"
    content["table"] += [row | {"measure": climbing} for row in content["table"] if row["measure"] == "auc"]
    content["mitigators"][4]["name"] = climbing
    content = json.loads(json.dumps(content).replace('"mitigator": "general_mask"', f'"mitigator": "{climbing}"'))
    arrays |= {"example_schemes": np.array([climbing]), f"example_{climbing}": arrays["example_general_mask"]}
    folder = write(tmp_path / "a" / "b", content, arrays)
    write_report(folder)
    assert {
        path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name not in ("b", "plots")
    } == set()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_arrays_of_other_kinds_are_named(tmp_path, name):
    array = maps()[name]
    for wrong in (
        np.array(3.0),
        array[None],
        np.full(array.shape, "x") if array.dtype.kind != "U" else np.ones(array.shape, np.uint8),
        array.astype(complex) if array.dtype.kind != "U" else array.astype("S"),
        np.full(array.shape, np.nan, np.float32),
    ):
        with pytest.raises(ValueError, match=rf"maps\.npz(: {name} must| must hold the arrays)"):
            read_run(write(tmp_path / "run", arrays=maps() | {name: wrong}))


def test_damaged_maps_are_named(tmp_path):
    folder = write(tmp_path / "run")
    whole = (folder / "maps.npz").read_bytes()
    np.save(tmp_path / "one.npy", np.zeros(3))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 8]) + whole[middle + 8 :]
    one_array = (tmp_path / "one.npy").read_bytes()
    for damaged in (b"", b"no arrays", whole[:200], whole[:-100], flipped, one_array):
        (folder / "maps.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"maps\.npz is damaged"):
            write_report(folder)
    np.savez(folder / "maps.npz", example_labels=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"maps\.npz is damaged"):
        write_report(folder)


def test_maps_that_lack_something_or_do_not_fit_are_named(tmp_path):
    arrays = maps()
    del arrays["example_general_mask"]
    with pytest.raises(ValueError, match=r"maps\.npz must hold the arrays example_general_mask"):
        write_report(write(tmp_path / "run", arrays=arrays))
    with pytest.raises(ValueError, match=r"maps\.npz is inconsistent"):
        write_report(write(tmp_path / "run", arrays=maps() | {"pixel_map": np.zeros((3, 3))}))


def test_a_report_needs_only_the_worst_cell_measure(tmp_path):
    content = results({"original": 0.4}) | {"cells": [], "trainings": [], "counts": [], "skipped": [], "caveats": []}
    content["table"] = [row for row in content["table"] if row["measure"] == "worst_cell"]
    content["region_classifier"] = {}
    del content["pareto_front"], content["confident"]
    left_out = ("truth_mean", "region_accuracy", "donor_images", "donor_maps")
    arrays = {name: array for name, array in maps().items() if name not in left_out}
    arrays["example_images"] = arrays["example_images"][:0]
    text = write_report(write(tmp_path / "run", content, arrays)).read_text(encoding="utf-8")
    assert len(Page(text).of("img")) == 2
    assert "cannot say" in text


def test_the_plane_takes_the_size_of_the_gap():
    assert plotting._absolute(Interval(-0.1, -0.2, 0.05)) == Interval(0.1, 0.0, 0.2)
    assert plotting._absolute(Interval(-0.3, -0.4, -0.2)) == Interval(0.3, 0.2, 0.4)


def test_labels_are_spread_and_stay_within():
    placed = plotting._spread([0.0, 0.01, 0.99, 1.0], gap=0.1)
    assert (np.diff(placed) >= 0.1 - 1e-9).all()
    assert placed[0] == 0
    assert placed[-1] == 1


def test_the_strip_draws_each_image_as_it_is():
    arrays = maps()
    changed = {"general_mask": arrays["example_general_mask"]}
    figure = figures.scheme_strip(arrays["example_images"], arrays["example_maps"], changed, ["a", "b"])
    third = np.asarray(figure.axes[2].images[0].get_array())
    np.testing.assert_array_equal(third, arrays["example_general_mask"][0].transpose(1, 2, 0))
    assert {ax.images[1].get_clim() for ax in (figure.axes[1], figure.axes[4])} == {(0, 0.6)}
    for wrong in ((arrays["example_maps"][:1], ["a", "b"]), (arrays["example_maps"], ["a"])):
        with pytest.raises(ValueError, match="is shorter than"):
            figures.scheme_strip(arrays["example_images"], wrong[0], changed, wrong[1])


@pytest.mark.parametrize("labels", [["not Male, indoor", "Male, indoor"], ["not Male, not Blond_Hair", "a, b"]])
@pytest.mark.parametrize("count", [1, 4])
def test_nothing_of_the_strip_is_cut_off(count, labels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 32, 32), np.uint8)
    changed = {f"specific_transplant{'@' * number}": images for number in range(count)}
    figure = figures.scheme_strip(images, rng.random((4, 32, 32)), changed, 2 * labels)
    file = io.BytesIO(png_of(figure, dpi=100))
    pixels = np.asarray(Image.open(file).convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge > 200).all()


def test_a_table_without_the_measure_is_named(read_back):
    run = read_back(results())
    with pytest.raises(ValueError, match="table must hold the measure"):
        figures.accuracy_by_group(run.table[["auc"]], run.results["target_names"])


def test_levels_hold_the_mask_of_each_step():
    rounded = np.random.default_rng(0).random((3, 7, 5)).round(1)  # with ties
    for pixel_map in (*rounded, np.zeros((4, 4))):
        levels = mask_levels(pixel_map)
        for step in range(101):
            wanted = quantile_mask(torch.from_numpy(pixel_map), step / 100)
            np.testing.assert_array_equal(levels > step, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"donor_maps": np.zeros((2, 3, 3))}, r"donor_maps must have shape \(2, 16, 16\), got \(2, 3, 3\)"),
        ({"confident_images": np.zeros((1, 3, 16, 16), np.uint8)}, "must hold 2 images, as 'confident' does, got 1"),
    ],
)
def test_images_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"maps.npz.*{message}"):
        write_report(write(tmp_path / "run", arrays=maps() | change))


def test_a_run_without_donors_offers_no_transplants(tmp_path):
    arrays = {name: array for name, array in maps().items() if not name.startswith("donor")}
    run = read_run(write(tmp_path / "run", arrays=arrays))
    strip = examples.strip_content(run)
    assert strip["schemes"] == ["general_mask", "general_noise", "specific_mask", "specific_noise"]
    assert all(set(drawn) == {"levels"} for drawn in strip["data"]["examples"])


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, folder):
    """The run that is rendered, and one without "balanced", with another title and quantile."""
    content = results({name: value / 2 for name, value in WINNING.items() if name != "balanced"})
    content |= {"title": f"Other {SCRIPT}", "config": content["config"] | {"quantile": 0.9}}
    other = write(tmp_path_factory.mktemp("other") / SCRIPT.replace("/", ""), content)
    out = write_side_by_side([folder, other], other.parent / "both.html")
    assert out == other.parent / "both.html"
    assert not (other / "report.html").exists()
    return out


def test_runs_stand_side_by_side(two_runs, folder):
    html = two_runs.read_text(encoding="utf-8")
    parsed = Page(html)
    assert "<script" not in html
    assert f"Other {SCRIPT}" in parsed.text
    for run in (folder, two_runs.parent / SCRIPT.replace("/", "")):
        assert words.headline(read_run(run)) in parsed.text
    rows = [Page(row).text.replace("_ ", "_").strip() for row in re.findall(r"<tr>(.*?)</tr>", html, re.S)]
    assert "quantile 0.7 0.9" in rows
    assert "general_noise 0.700 [0.680, 0.720] 0.350 [0.330, 0.370]" in rows
    assert f"balanced 0.900 [0.880, 0.920] {DASH}" in rows
    # What is the same in both is not told.
    assert not any(row.startswith("device") for row in rows)
    assert all(image["alt"] and image["src"].startswith("data:") for image in parsed.of("img"))


@pytest.mark.slow
def test_the_command_writes_one_page_of_one_run_or_of_several(two_runs, folder, tmp_path):
    other = two_runs.parent / SCRIPT.replace("/", "")
    for name, folders in {"new/deep/one.html": [folder], "both.html": [folder, other]}.items():
        done = CliRunner().invoke(app, ["report", *map(str, folders), "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert done.stdout.strip() == str(tmp_path / name)
    assert (tmp_path / "both.html").read_text(encoding="utf-8") == two_runs.read_text(encoding="utf-8")
    one = (folder / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "new" / "deep" / "one.html").read_text(encoding="utf-8") == one


def test_runs_that_cannot_stand_side_by_side_are_named(tmp_path):
    run = write(tmp_path / "run")
    for folders in ([run], [run, run], [run] * 9):
        with pytest.raises(ValueError, match="folders must be 2 to 8 different ones, got"):
            write_side_by_side(folders, tmp_path / "both.html")
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        write_side_by_side([run, tmp_path], tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()


def _pixels(browser, kind):
    """Return what a kind of canvas shows of each example, N x height x width x 3."""
    # By way of a canvas that is made to be read: reading those of the page again and again would warn.
    shown = browser.evaluate(
        f"""[...document.querySelectorAll('canvas.{kind}')].map(canvas => {{
            const {{width, height}} = canvas;
            const copy = new OffscreenCanvas(width, height).getContext('2d', {{willReadFrequently: true}});
            copy.drawImage(canvas, 0, 0);
            return Array.from(copy.getImageData(0, 0, width, height).data);
        }})"""
    )
    return np.array(shown, dtype=np.uint8).reshape(len(shown), 16, 16, 4)[..., :3]


def _choose(browser, scheme, step):
    browser.evaluate(f"document.querySelector('#strip-scheme').value = '{scheme}'")
    browser.evaluate(
        f"document.querySelector('#strip-quantile').value = {step};"
        "document.querySelector('#strip-quantile').dispatchEvent(new Event('input'))"
    )


LIVE = (
    "new Promise(done => { const wait = () => document.querySelector('.live') ? done(1) : setTimeout(wait); wait() })"
)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 35, 70, 100])
def test_the_strip_draws_what_the_package_does(browser, folder, step):
    arrays = maps()
    images = torch.from_numpy(arrays["example_images"]).float() / 255
    pixel_maps = torch.from_numpy(np.concatenate([arrays["example_maps"], arrays["donor_maps"]]))
    browser.show(folder / "report.html")
    browser.evaluate(LIVE)
    for scheme in SCHEMES:
        reach, kind = scheme.split("_")
        own = pixel_maps if reach == "specific" else torch.from_numpy(arrays["pixel_map"]).expand(4, -1, -1)
        masks = quantile_mask(own, step / 100)
        # A specific transplant takes the pixels of both images' masks.
        mask = masks[:2] | masks[2:] if kind == "transplant" else masks[:2]
        _choose(browser, scheme, step)
        np.testing.assert_array_equal(_pixels(browser, "mask")[..., 0] == 255, mask)
        drawn = _pixels(browser, "perturbed").transpose(0, 3, 1, 2)
        if kind == "noise":
            away = torch.from_numpy(drawn).float() - images * 255
            inside = mask[:, None].expand_as(away)
            assert (away[~inside] == 0).all()
            # Of values in the midst few are cut off; the noise of 0.5 is 127 of 255.
            assert step == 100 or 60 < away[inside].std() < 120
        else:
            donors = torch.from_numpy(arrays["donor_images"].copy()).float() / 255
            wanted = (
                noise.transplant(images, donors, mask[:, None])
                if kind == "transplant"
                else noise.grey_out(images, mask[:, None], torch.Generator())
            )
            np.testing.assert_allclose(drawn, wanted.numpy() * 255, atol=0.51)
    assert browser.complaints == []


@pytest.mark.slow
def test_keys_move_the_slider_and_change_the_picture(browser, folder):
    browser.show(folder / "report.html")
    browser.evaluate(LIVE)
    # The run's quantile and first scheme come first.
    said = "document.querySelector('#strip-said').textContent"
    assert browser.evaluate(said) == "Quantile 0.70: 30 % of the pixels of each map are above it"
    assert browser.evaluate("document.querySelector('#strip-scheme').value") == "general_mask"
    before = _pixels(browser, "perturbed")
    browser.evaluate("document.querySelector('#strip-quantile').focus()")
    browser.press("ArrowRight", 39)
    assert browser.evaluate(said).startswith("Quantile 0.71: 29 %")
    assert (_pixels(browser, "perturbed") != before).any()
    browser.press("Tab", 9)
    browser.press("ArrowDown", 40)
    assert browser.evaluate("document.querySelector('#strip-scheme').value") == "general_noise"
    assert (_pixels(browser, "mask")[..., 0] == 255).sum() < 0.3 * 2 * 256
    assert browser.complaints == []


@pytest.mark.slow
def test_without_scripts_and_on_paper_a_picture_stands_for_the_strip(browser, folder):
    shown = "['.still img', '#strip'].map(each => document.querySelector(each).getBoundingClientRect().height > 0)"
    browser.show(folder / "report.html")
    browser.evaluate(LIVE)
    assert browser.evaluate(shown) == [False, True]
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate(shown) == [True, False]
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.show(folder / "report.html")
    assert browser.evaluate(shown) == [True, False]
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("several", [False, True], ids=["one run", "two runs"])
def test_a_browser_shows_it_on_a_phone_without_errors(browser, folder, two_runs, theme, several):
    shown = two_runs if several else folder / "report.html"
    browser.show(shown, width=390, theme=theme)
    if not several:
        browser.evaluate(LIVE)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.evaluate("[...document.images].every(image => image.naturalWidth)")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [shown.as_uri()]


CONTRASTS = """[...document.querySelectorAll('body *')].flatMap(element => {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.tagName === 'OPTION') return [];
    const color = text => text.match(/[\\d.]+/g).map(Number);
    let behind = element;
    while (color(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const luminance = rgb => rgb.slice(0, 3).map(value => value / 255)
        .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const both = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
    const [low, high] = both.map(text => luminance(color(text))).sort((one, other) => one - other);
    return [[(high + 0.05) / (low + 0.05), element.tagName + '.' + element.className + ' ' + both]];
})"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_have_enough_contrast(browser, folder, two_runs, theme):
    for page_of in (folder / "report.html", two_runs):
        browser.show(page_of, theme=theme)
        contrasts = browser.evaluate(CONTRASTS)
        assert len(contrasts) > 50
        # 4.5 is what the WCAG ask for, 21 is black on white.
        assert min(contrasts)[0] >= 4.5, min(contrasts)


@pytest.mark.slow
def test_controls_have_accessible_names(browser, folder):
    browser.show(folder / "report.html")
    browser.evaluate(LIVE)
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"slider", "combobox", "image", "region", "group", "form"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert ("slider", "Quantile") in named
    assert ("combobox", "Scheme") in named
    assert [node for node in named if not node[1]] == []
    browser.call("Accessibility.disable")


@pytest.mark.slow
def test_the_table_fits_a_small_laptop(browser, folder):
    browser.show(folder / "report.html", width=1100)
    box = "document.querySelector('.results').parentElement"
    assert browser.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")
