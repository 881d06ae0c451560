"""Measures of a mitigation: by decision, overall, by group and by cell, with intervals that small cells can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from captum_region.page import listed
from fairlearn_bridge.metrics import MEASURES, alignment, summarize, wilson
from fairlearn_bridge.mitigation.data import cells_of, samples_of
from fairlearn_bridge.samples import groups_of
from fairlearn_bridge.threshold import worst_group_threshold

if TYPE_CHECKING:
    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.mitigation.configuration import MitigationConfig
    from fairlearn_bridge.mitigation.data import MitigationData

# How probabilities become predictions.
LIKELIEST, CHOSEN = "likeliest class", "chosen threshold"
LEVEL = 0.95
CELL = "cell"
# What is measured, in this order; those in brackets of each spurious attribute alone, where there are several.
KEPT = ("accuracy", "worst_cell", "auc", "crossed_auc", "flip_rate")
_OF_ONE = ("crossed_auc", "flip_rate")


def thresholds_of(config: MitigationConfig, data: MitigationData, predictions: pd.DataFrame) -> dict[str, float]:
    """Return the threshold that each mitigator's validation images choose; none where there are not two classes."""
    validation = samples_of(config, data.validation)
    if len(np.unique(samples_of(config, data.train).y)) != 2:
        return {}
    found = predictions[predictions["set"] == "validation"].groupby("mitigator", sort=False)["score"]
    return {
        str(name): worst_group_threshold(validation.y, score.clip(0, 1), sensitive_features=validation.confounder)
        for name, score in found
    }


def decided(predictions: pd.DataFrame, thresholds: dict[str, float]) -> pd.DataFrame:
    """Return the predictions with a column ``decided``: the prediction by the mitigator's chosen threshold."""
    classes = np.unique(predictions["target"])
    if not thresholds:
        return predictions.assign(decided=predictions["predicted"])
    is_second = predictions["score"] >= predictions["mitigator"].map(thresholds)
    return predictions.assign(decided=classes[is_second.astype(int)])


def measure_all(
    config: MitigationConfig, data: MitigationData, predictions: pd.DataFrame, thresholds: dict[str, float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure the test images: a table of measures, and one of accuracies by group and cell.

    Parameters
    ----------
    config : MitigationConfig
    data : MitigationData
    predictions : DataFrame
        Of `decided`.
    thresholds : dict
        Of `thresholds_of`.

    Returns
    -------
    table : DataFrame
        Columns ``mitigator``, ``decision``, ``threshold``, ``measure``, ``value``, ``low``, ``high``, and
        ``difference``, ``difference_low``, ``difference_high`` from the ERM baseline with the same decision.
    groups : DataFrame
        Columns ``mitigator``, ``decision``, ``by`` (the target, a spurious attribute, or ``cell``), ``group``,
        ``images``, ``accuracy``, ``low``, ``high``.
    """
    tables, groups = [], []
    for decision, column in ((LIKELIEST, "predicted"), (CHOSEN, "decided")):
        if decision == CHOSEN and not thresholds:
            continue
        of_decision = predictions.assign(predicted=predictions[column])
        by_group = _by_group(config, data.test, of_decision)
        table = _table(config, data, of_decision, by_group)
        used = table["mitigator"].map(thresholds) if decision == CHOSEN else 0.5 if thresholds else np.nan
        table.insert(1, "decision", decision)
        table.insert(2, "threshold", used)
        by_group.insert(1, "decision", decision)
        tables.append(table)
        groups.append(by_group)
    return pd.concat(tables, ignore_index=True), pd.concat(groups, ignore_index=True)


def sentences(config: MitigationConfig, names: list[str]) -> dict[str, str]:
    """Return what each measure says."""
    own = {
        "accuracy": "Share of test images classified correctly, as many of each cell as the test set has.",
        "worst_cell": f"Lowest accuracy among the cells of {listed([config.target, *config.confounders])} that have "
        "test images.",
    }
    found = {}
    for name in names:
        of, _, one = name.rstrip("]").partition("[")
        text = own.get(of, MEASURES[of].sentence.replace("the biased training set", "the training set"))
        found[name] = text.format(target=config.target, confounder=one or config.confounder)
    return found


def _by_group(config: MitigationConfig, test: AttributeImages, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of each class, of each value of each spurious attribute, and of each cell."""
    by = {name: groups_of(test, (name,)) for name in (config.target, *config.confounders)}
    by[CELL] = cells_of(config, test)
    rows = []
    for name, found in predictions[predictions["set"] == "test"].groupby("mitigator", sort=False):
        right = found["predicted"].to_numpy() == found["target"].to_numpy()
        for attribute, values in by.items():
            for group, of_group in pd.Series(right).groupby(values):
                accuracy, images = float(of_group.mean()), len(of_group)
                rows.append((name, attribute, group, images, accuracy, *wilson(accuracy, images)))
    return pd.DataFrame(rows, columns=["mitigator", "by", "group", "images", "accuracy", "low", "high"])


def _table(
    config: MitigationConfig, data: MitigationData, predictions: pd.DataFrame, by_group: pd.DataFrame
) -> pd.DataFrame:
    train, test = samples_of(config, data.train), predictions[predictions["set"] == "test"]
    whole = summarize(test, aligned=alignment(train.y, train.confounder), reference="original")
    found: dict[str, Any] = {name: whole[name] for name in ("accuracy", "worst_cell", "auc") if name in whole}
    for name in config.confounders:
        aligned = alignment(train.y, groups_of(data.train, (name,)))
        of_one = test.assign(confounder=np.resize(groups_of(data.test, (name,)), len(test)))
        twins = predictions[predictions["set"] == f"twins of {name}"]
        if len(twins):
            of_one["flipped"] = test["predicted"].to_numpy() != twins["predicted"].to_numpy()
        one = summarize(of_one, aligned=aligned, reference="original")
        for measure in _OF_ONE:
            # Where all classes go with one value, no image goes against a bias.
            if measure in one and (measure != "crossed_auc" or len(set(aligned.values())) > 1):
                found[measure if len(config.confounders) == 1 else f"{measure}[{name}]"] = one[measure]
    order = sorted(found, key=lambda name: KEPT.index(name.partition("[")[0]))
    flat = pd.concat({name: found[name] for name in order}, names=["measure", "mitigator"]).reset_index()
    flat = flat.rename(columns={"mean": "value"}).drop(columns=["std", "seeds"])
    cells = dict(list(by_group[by_group["by"] == CELL].groupby("mitigator")))
    for row in flat.index:
        name, value = flat.loc[row, "measure"].partition("[")[0], float(flat.loc[row, "value"])
        if name in ("accuracy", "flip_rate"):
            flat.loc[row, ["low", "high"]] = wilson(value, len(data.test))
        elif name == "worst_cell":
            flat.loc[row, ["low", "high"]] = _of_the_least(cells[flat.loc[row, "mitigator"]])
    positions = {name: at for at, name in enumerate(test["mitigator"].unique())}
    flat = flat.sort_values("mitigator", key=lambda names: names.map(positions), kind="stable", ignore_index=True)
    columns = ["mitigator", "measure", "value", "low", "high", "difference", "difference_low", "difference_high"]
    return pd.DataFrame(flat[columns])


def _of_the_least(cells: pd.DataFrame) -> tuple[float, float]:
    """Return an interval of the lowest accuracy: of intervals that hold together, by Bonferroni, the least ends.

    Which cell is the worst is not known for certain: the interval of the one that looks so would be too narrow.
    """
    level = 1 - (1 - LEVEL) / len(cells)
    ends = [wilson(row["accuracy"], row["images"], level) for row in cells.to_dict("records")]
    low, high = np.min(ends, axis=0).tolist()
    return low, high
