"""What an audit run leaves in its folder: JSON, tables, plots and a page; and a check that it can be repeated."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.io.digest import digest
from captum_region.io.files import read_json, records, remove_pictures, write_json, write_text
from captum_region.io.provenance import provenance
from fairlearn_bridge.audit.engine import audit
from fairlearn_bridge.audit.inputs import REFUSED
from fairlearn_bridge.audit.run import degradations_of, trainer
from fairlearn_bridge.checking import compared, first_epoch, settings_and_images
from fairlearn_bridge.samples import fingerprints, groups_of

if TYPE_CHECKING:
    from pathlib import Path

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.audit.run import AuditConfig, AuditRun

FORMAT = 1
FILES = ("audit.json", "table.csv", "groups.csv", "drift.csv", "spectrum.csv", "predictions.csv", "report.html")
FOLDERS = ("plots", "decoded")


def results_of(run: AuditRun, train: AttributeImages, test: AttributeImages, title: str) -> dict[str, Any]:
    """Return what was found, as JSON holds it; what is missing or infinite is null, such as PSNR without a change."""
    found = run.found
    counts = pd.crosstab(found.groups, found.target)
    skipped = pd.concat([train.skipped, test.skipped]).drop_duplicates()
    return {
        "format": FORMAT,
        "title": title,
        **provenance(),
        "git": run.git,
        "config": asdict(run.config),
        "images": {"train": len(train), "test": len(test)},
        "image_size": list(test.image_size),
        "data": fingerprints({"train": train, "test": test}),
        "counts": {str(group): {str(name): int(n) for name, n in row.items()} for group, row in counts.iterrows()},
        "classes": [str(name) for name in found.classes],
        "confidence_level": found.confidence_level,
        "table": records(run.table.reset_index()),
        "groups": records(run.by_group.reset_index()),
        "drift": records(flat_drift(run).reset_index()),
        "spectrum": [] if run.spectrum is None else records(flat_spectrum(run.spectrum).reset_index()),
        "rates": run.rates,
        "losses": run.losses,
        "examples": example_digests(found.outcomes),
        "remarks": run.remarks,
        "skipped": skipped.to_dict("records"),
        "seconds": {name: round(value, 1) for name, value in run.seconds.items()},
    }


def example_digests(outcomes: Any) -> dict[str, str]:
    """Return a digest of the examples that each degradation of images changed."""
    changed = {name: outcome for name, outcome in outcomes.items() if not np.isnan(outcome.psnr).all()}
    return {name: digest(outcome.examples) for name, outcome in changed.items()}


def flat_drift(run: AuditRun) -> pd.DataFrame:
    """Return the shares of predicted classes, a row each: ``class``, ``before`` and ``after``."""
    stacked = pd.DataFrame(run.drift.stack("class", future_stack=True))
    return stacked[["before", "after"]]


def flat_spectrum(spectrum: pd.DataFrame) -> pd.DataFrame:
    """Return the share of the power that is kept, ``kept``, a row for each name, group and number of ``cycles``."""
    return pd.DataFrame({"kept": spectrum.stack("cycles", future_stack=True)})


def write_audit(
    run: AuditRun, train: AttributeImages, test: AttributeImages, out: Path, *, title: str
) -> dict[str, Any]:
    """Write all files of a run into a folder and return its results, as ``audit.json`` has them.

    Parameters
    ----------
    run : AuditRun
    train, test : AttributeImages
        What it was made of.
    out : path
        A folder that exists.
    title : str
        Of the page.
    """
    from fairlearn_bridge.audit.page import write_page

    results = results_of(run, train, test, title)
    is_written_over = (out / "audit.json").exists()  # that of another audit, where --force writes over it
    write_text(out / "table.csv", run.table.to_csv())
    write_text(out / "groups.csv", run.by_group.to_csv())
    write_text(out / "drift.csv", flat_drift(run).to_csv())
    if run.spectrum is None:
        if is_written_over:
            (out / "spectrum.csv").unlink(missing_ok=True)
    else:
        write_text(out / "spectrum.csv", flat_spectrum(run.spectrum).to_csv())
    write_text(out / "predictions.csv", predictions_of(run, test).to_csv())
    if is_written_over:
        remove_pictures(out / "plots")
    write_page(run, results, out)
    write_json(out / "audit.json", results)
    return results


def predictions_of(run: AuditRun, test: AttributeImages) -> pd.DataFrame:
    """Return the predictions of each image: ``target``, ``group``, ``original``, and one column a degradation."""
    found = run.found
    columns = {"target": found.target, "group": found.groups, "original": found.classes[found.original.predicted]}
    columns |= {name: found.classes[outcome.predicted] for name, outcome in found.outcomes.items()}
    return pd.DataFrame(columns, index=test.attributes.index.rename("image"))


def check_audit(config: AuditConfig, train: AttributeImages, test: AttributeImages, out: Path) -> pd.DataFrame:
    """Repeat a small part of an audit run and compare it with its folder, in which nothing is changed.

    It compares the settings, the digests of all images and attributes, the examples of each degradation of images, and
    the loss of the first epoch of the classifier.

    Returns
    -------
    DataFrame
        A row for each comparison: ``what``, ``then``, ``now``, and ``equal``, for the loss to 1e-3 of its value.

    Raises
    ------
    FileNotFoundError
        If `out` is not the folder of a complete run.
    ValueError
        If its ``audit.json`` is damaged.
    """
    path = out / "audit.json"
    results = read_json(path, FORMAT)
    if not all(isinstance(results.get(name), dict) for name in ("config", "data", "examples")):
        raise ValueError(f"{path} must hold config, data and examples")
    rows = settings_and_images(config, {"train": train, "test": test}, results)
    for name, now in _examples_again(config, train, test).items():
        rows.append(compared(f"examples of {name}", results["examples"].get(name), now))
    if results.get("losses") and config.model is None:
        rows.append(
            first_epoch("the classifier", results["losses"], trainer(config), train.images, train.labels(config.target))
        )
    return pd.DataFrame(rows)


def _examples_again(config: AuditConfig, train: AttributeImages, test: AttributeImages) -> dict[str, str]:
    """Return what `example_digests` returns, from the first images of each group alone."""
    degradations, _ = degradations_of(config, train)
    changing = {name: what for name, what in degradations.items() if not hasattr(what, "changed")}
    if not changing:
        return {}
    groups = groups_of(test, config.groups)
    ranks = pd.Series(groups).groupby(groups).cumcount().to_numpy()
    first = np.flatnonzero(ranks < REFUSED)  # as few as an audit takes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        again = audit(
            changing,
            lambda images: np.full((len(images), 2), 0.5),
            test.images[first],
            groups[first],
            target=np.arange(len(first)) % 2,
            classes=[0, 1],
            n_bootstrap=1,
            n_permutations=1,
            n_jobs=config.n_jobs,
            random_state=config.random_state,
        )
    return example_digests(again.outcomes)
