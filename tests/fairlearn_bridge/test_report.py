"""The report: its first sentence agrees with the numbers, it needs nothing beside it, and what comes in is escaped."""

import json
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from captum_region.datasets import make_faces
from fairlearn_bridge.report import figures, page, words, write_report
from fairlearn_bridge.report.figures import Interval
from fairlearn_bridge.report.run import LABELS, read_run

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


def results(worst=WINNING, width=0.02, confounder="Blond_Hair"):
    cells = [(group, value) for group in (False, True) for value in (False, True)]
    values = {
        name: dict.fromkeys(MEASURES, value) | {"gap": 0.9 - value, "flip_rate": 1 - value}
        for name, value in worst.items()
    }
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
            for (group, value), count in zip(cells, (1000, 2000, 3000, 0), strict=True)
        ],
        "seconds": {"training": 75.0},
        "region_classifier": {
            "history": [{"epoch": 1, "loss": 0.7, "lr": 0.001}, {"epoch": 2, "loss": 0.5, "lr": 0.001}],
            "mean_region_accuracy": 0.71,
            "best_region_accuracy": None,
        },
        "mitigators": [{"name": name, "kind": ARMS[name], "description": f"What {name} does."} for name in worst],
        "table": [
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
        ],
        "measures": MEASURES,
        "cells": [
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
            for group, value in cells
        ],
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
        "example_schemes": np.array(["general_mask", "general_noise"]),
        "example_general_mask": faces // 2,
        "example_general_noise": 255 - faces,
    }


def write(folder: Path, content=None, arrays=None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results() if content is None else content))
    np.savez(folder / "maps.npz", **(maps() if arrays is None else arrays))
    return folder


@pytest.fixture
def run_of(tmp_path):
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
def folder(tmp_path_factory):
    """A whole run, rendered, with a script for the confounder's name and a value missing."""
    content = results(confounder=SCRIPT)
    content["table"] = [
        row | {"mean": None, "low": math.nan} if (row["mitigator"], row["measure"]) == ("balanced", "auc") else row
        for row in content["table"]
    ]
    folder = write(tmp_path_factory.mktemp("report") / "run", content)
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(html):
    return Page(html)


def test_the_page_needs_nothing_beside_it(html, parsed):
    sources = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "href")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not parsed.of("script")
    assert not re.search(r"url\(|@import", html)
    assert len(html) < 3_000_000


def test_the_page_says_what_it_is_in(parsed):
    assert parsed.of("html") == [{"lang": "en"}]
    assert len(parsed.of("h1")) == 1
    assert all(cell.get("scope") in ("row", "col") for cell in parsed.of("th"))


def test_names_are_escaped(html, parsed):
    assert SCRIPT not in html
    assert f"{SCRIPT}.jpg" in parsed.text
    assert f"Predictions that change when only {SCRIPT} is toggled." in parsed.text


def test_all_measures_and_mitigators_are_there_and_explained(parsed):
    for measure, description in MEASURES.items():
        label = {"accuracy[False]": "accuracy, not Male", "accuracy[True]": "accuracy, Male"}.get(measure)
        assert (label or LABELS.get(measure, measure)) in parsed.text
        assert parsed.text.count(description) == 1
    for name in ARMS:
        assert f"What {name} does." in parsed.text
    for text in ("1 min 15 s", "fairlearn-bridge demo", "2.6.0", "general_mask, general_noise", "3,000", "0.710"):
        assert text in parsed.text


def test_figures_have_words(folder, parsed):
    images = parsed.of("img")
    assert len(images) == 10
    assert all(len(image["alt"]) > 40 for image in images)
    assert len(parsed.of("figcaption")) == 10
    plots = {path.name: path.read_bytes()[:4] for path in (folder / "plots").iterdir()}
    assert set(plots.values()) == {b"\x89PNG"}
    assert {"accuracy_by_group.png", "worst_cell.png", "flip_rate.png", "schemes.png", "region_map.png"} <= set(plots)
    assert len(plots) == 10


def test_a_missing_value_is_a_dash(run_of):
    content = results()
    for row in content["table"]:
        if (row["mitigator"], row["measure"]) == ("balanced", "auc"):
            row |= {"mean": None, "low": math.nan, "high": math.inf}
    rows = {row["name"]: row["cells"] for row in page.page_content(run_of(content))["rows"]}
    position = list(MEASURES).index("auc")
    assert rows["balanced"][position] == {"mean": words.DASH, "interval": "", "spread": "", "best": False}
    assert rows["original"][position]["mean"] == "0.400"


def test_the_dash_reaches_the_page(html):
    assert f'<span class="value">{words.DASH}</span>' in html


def test_the_best_are_marked_without_those_given_other_data(run_of):
    run = run_of(results())
    assert page.best_of(run, "worst_cell") == {"general_noise"}
    assert page.best_of(run, "flip_rate") == {"general_noise"}
    assert page.best_of(run, "gap") == {"general_noise"}
    tied = run_of(results(WINNING | {"original": 0.7}))
    assert page.best_of(tied, "accuracy[True]") == {"original", "general_noise"}


def test_the_headline_of_a_scheme_that_helped(run_of):
    assert words.headline(run_of(results())) == (
        "general_noise raised worst-cell accuracy the most of 2 schemes, from 0.400 [0.380, 0.420] to "
        "0.700 [0.680, 0.720] (+0.300, intervals apart); it is above the controls “threshold shifted” at "
        "0.500 [0.480, 0.520] and “elsewhere” at 0.300 [0.280, 0.320]."
    )


def test_the_headline_where_a_control_does_as_well(run_of):
    text = words.headline(run_of(results(WINNING | {"elsewhere": 0.71})))
    assert text.endswith(
        "it is above the control “threshold shifted” at 0.500 [0.480, 0.520] but not above the control “elsewhere” at "
        "0.710 [0.690, 0.730]."
    )
    overlapping = words.headline(run_of(results(WINNING | {"elsewhere": 0.69})))
    assert "and above, though intervals overlap, the control “elsewhere” at 0.690" in overlapping


def test_the_headline_where_nothing_helped(run_of):
    worst = WINNING | {"general_noise": 0.3, "general_mask": 0.35}
    assert words.headline(run_of(results(worst))) == (
        "No scheme helped: the best of 2, general_mask, is at a worst-cell accuracy of 0.350 [0.330, 0.370], against "
        "0.400 [0.380, 0.420] of the original with nothing done."
    )


def test_the_headline_where_it_is_not_clear(run_of):
    text = words.headline(run_of(results(width=0.4)))
    assert text.startswith("No clear help: general_noise raised worst-cell accuracy the most of 2 schemes, from 0.400")
    assert "(+0.300, intervals overlap)" in text


def test_the_headline_where_it_cannot_be_said(run_of):
    only = {name: value for name, value in WINNING.items() if ARMS[name] != "scheme"}
    assert "cannot say whether a scheme helped" in words.headline(run_of(results(only)))
    without = {name: value for name, value in WINNING.items() if name != "original"}
    assert "the original has no worst-cell accuracy" in words.headline(run_of(results(without)))


def test_the_findings_say_what_was_biased_and_what_it_did(run_of):
    found = dict(words.findings(run_of(results())))
    assert found["What was biased"] == (
        "In training, 2,000 of 3,000 images of not Male and 0 of 3,000 images of Male are Blond_Hair. The original has "
        "an accuracy of 0.400 [0.380, 0.420] for not Male and 0.400 [0.380, 0.420] for Male: a gap of "
        "+0.500 [+0.480, +0.520]. Its weakest cell is Male, Blond_Hair at 0.400 [0.400, 1.000]."
    )
    assert "from 0.400 [0.380, 0.420] to 0.700 [0.680, 0.720]" in found["Beyond a moved threshold"]
    assert "from 0.600 [0.580, 0.620] to 0.300 [0.280, 0.320]" in found["Does the confounder still decide?"]


@pytest.mark.parametrize("name", ["results.json", "maps.npz"])
def test_a_missing_file_is_named(tmp_path, name):
    (write(tmp_path / "run") / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "results.json is of format 2, this version reads format 1"),
        ({"title": 7}, "'title' is of the wrong type, int"),
        ({"table": [{"mitigator": "original"}]}, "'table' must be a list of records with mitigator, measure, mean"),
        ({"table": []}, "must hold something"),
        ({"table": 2 * results()["table"]}, "'table' holds the same mitigator and measure twice"),
        ({"cells": [results()["cells"][0] | {"accuracy": "high"}]}, "'accuracy' of 'cells' must hold numbers"),
        ({"trainings": [results()["trainings"][0] | {"mitigator": "magic"}]}, "mitigators that are not among them"),
        ({"trainings": [results()["trainings"][0] | {"losses": None}]}, "'losses' of 'trainings' must be lists"),
        ({"mitigators": [{"name": "a", "kind": "b", "description": ""}]}, "kind must be one of"),
    ],
)
def test_damaged_results_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_report(write(tmp_path / "run", results() | change))


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is damaged, it holds no JSON"), ("[]", "holds no results"), ("\xff", "is damaged")]
)
def test_results_that_are_none_are_named(tmp_path, text, message):
    folder = write(tmp_path / "run")
    (folder / "results.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"results.json {message}"):
        write_report(folder)


def test_a_lacking_key_is_named(tmp_path):
    content = results()
    del content["cells"]
    with pytest.raises(ValueError, match=r"results\.json lacks 'cells'"):
        write_report(write(tmp_path / "run", content))


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
    with pytest.raises(ValueError, match=r"maps\.npz lacks the arrays example_general_mask"):
        write_report(write(tmp_path / "run", arrays=arrays))
    with pytest.raises(ValueError, match=r"maps\.npz does not fit together"):
        write_report(write(tmp_path / "run", arrays=maps() | {"pixel_map": np.zeros((3, 3))}))


def test_little_is_enough(tmp_path):
    content = results({"original": 0.4}) | {"cells": [], "trainings": [], "counts": [], "skipped": [], "caveats": []}
    content["table"] = [row for row in content["table"] if row["measure"] == "worst_cell"]
    content["region_classifier"] = {}
    arrays = {name: array for name, array in maps().items() if name not in ("truth_mean", "region_accuracy")}
    arrays["example_images"] = arrays["example_images"][:0]
    text = write_report(write(tmp_path / "run", content, arrays)).read_text(encoding="utf-8")
    assert len(Page(text).of("img")) == 2
    assert "cannot say" in text


def test_dots_sit_at_the_values():
    content = results()
    table, mitigators = pd.DataFrame(content["table"]), pd.DataFrame(content["mitigators"])
    ax = figures.measure_dots(table, mitigators, "worst_cell", "worst cell").axes[0]
    dots = [float(line.get_xdata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert dots == list(WINNING.values())
    assert [label.get_text() for label in ax.get_yticklabels()] == list(WINNING)


def test_the_plane_takes_the_size_of_the_gap():
    assert figures._absolute(Interval(-0.1, -0.2, 0.05)) == Interval(0.1, 0.0, 0.2)
    assert figures._absolute(Interval(-0.3, -0.4, -0.2)) == Interval(0.3, 0.2, 0.4)


def test_labels_are_spread_and_stay_within():
    placed = figures._spread([0.0, 0.01, 0.99, 1.0], gap=0.1)
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
    with pytest.raises(ValueError, match="must hold the same examples"):
        figures.scheme_strip(arrays["example_images"], arrays["example_maps"][:1], changed)
    with pytest.raises(ValueError, match="labels must be one an example, 2, got 1"):
        figures.scheme_strip(arrays["example_images"], arrays["example_maps"], changed, ["a"])


@pytest.mark.parametrize("name", ["accuracy_by_group", "accuracy_gap_plane"])
def test_a_table_without_the_measure_is_named(name):
    content = results()
    mitigators = pd.DataFrame(content["mitigators"])
    table = pd.DataFrame(content["table"])
    rest = (content["target_names"],) if name == "accuracy_by_group" else ()
    with pytest.raises(ValueError, match="table must hold"):
        getattr(figures, name)(table[table["measure"] == "auc"], mitigators, *rest)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome")
def test_a_browser_shows_it_on_a_phone_without_errors(folder, html, tmp_path):
    # A window of a browser is at least 500 px wide, a frame is not. The measuring script is let in for the test only.
    measuring = (
        "<script>onload = () => parent.postMessage(document.documentElement.scrollWidth + ' ' + "
        "[...document.images].filter(image => image.naturalWidth).length, '*')</script></body>"
    )
    without_policy = re.sub(r"<meta http-equiv=[^>]*>", "", html)
    assert without_policy != html
    (tmp_path / "phone.html").write_text(without_policy.replace("</body>", measuring), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        "<script>onmessage = event => document.body.dataset.seen = event.data</script>"
        '<iframe src="phone.html" style="width: 390px; height: 800px; border: 0"></iframe>'
    )
    seen = _browse(tmp_path / "frame.html", tmp_path / "profile")
    width, images = map(int, re.search(r'data-seen="([^"]*)"', seen.stdout)[1].split())
    assert width <= 390
    assert images == 10
    errors = _browse(folder / "report.html", tmp_path / "other").stderr
    assert "CONSOLE" not in errors


def _browse(path, profile):
    options = ["--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
    options += ["--disable-component-update", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")  # which it needs to start at all for root, as in containers
    command = [CHROMIUM, *options, f"--user-data-dir={profile}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
