"""An audit in words: who loses more, how sure that is, what quality, drift and training say of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from captum_region.page import DASH, listed
from fairlearn_bridge.inspection import name_of

if TYPE_CHECKING:
    from fairlearn_bridge.audit.run import AuditRun

SIGNIFICANT = 0.05

# A data frame; pandas' stubs do not know the types of its rows.
Table: TypeAlias = Any


def points(value: float, *, signed: bool = False) -> str:
    """Return a share in points, to one place, with a true minus sign.

    Examples
    --------
    >>> points(0.1234), points(0.02, signed=True)
    ('12.3', '+2.0')
    """
    if not math.isfinite(value):
        return DASH
    text = f"{round(100 * value, 1) + 0.0:{'+' if signed else ''}.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def p_value(value: float) -> str:
    """Return a p-value.

    Examples
    --------
    >>> p_value(0.0004), p_value(0.0412)
    ('< 0.001', '0.041')
    """
    if not math.isfinite(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def class_name(target: str, label: Any) -> str:
    """Return what a class is called: of a binary target its name, or its name after "not"; else the class alone.

    Examples
    --------
    >>> class_name("Smiling", False), class_name("gender", "Female")
    ('not Smiling', 'Female')
    """
    return name_of(target, label) if isinstance(label, bool | np.bool_) else str(label)


def bias_in_words(row: Any) -> str:
    """Return a bias with its interval and corrected p."""
    p = p_value(row["p_holm"])
    equals = "" if p.startswith("<") else "= "
    return (
        f"{points(row['bias'])} points [{points(row['bias_low'])}, {points(row['bias_high'])}], corrected p {equals}{p}"
    )


def headline(run: AuditRun) -> str:
    """Return the answer: which degradations take more from one group, and the largest bias."""
    table: Table = run.table
    frame: Table = run.by_group
    biased = table[table["p_holm"] < SIGNIFICANT]
    chosen = (biased if len(biased) else table)["bias"].idxmax()
    row = table.loc[chosen]
    drops = frame.loc[chosen, "drop"]
    who = (
        f"{row['worst']} loses {points(drops[row['worst']])} points of accuracy, {row['best']} "
        f"{points(drops[row['best']])}: a bias of {bias_in_words(row)}"
    )
    if len(biased):
        count = f"{len(biased)} of {len(table)} degradations take" if len(table) > 1 else "The degradation takes"
        most = "The largest bias is that of" if len(biased) > 1 else "It is"
        return f"{count} more accuracy from one group than from another. {most} {chosen}: {who}."
    if row["bias"] == 0:
        return "No group loses more accuracy than another."
    return f"No bias is clear. The largest, of {chosen}, may be chance: {who}."


def findings(run: AuditRun) -> list[tuple[str, str]]:
    """Return what is behind the headline: a heading and its sentences each."""
    table: Table = run.table
    texts = [
        ("On originals", _originals(run)),
        ("Biased", _biased(table)),
        ("Not clear", _unclear(table)),
        ("Image quality", _quality(run.by_group, table)),
        ("Realism", _realism(run.by_group, table)),
        ("Drift", _drift(run.drift, run.config.target)),
        ("What training mends", _shares(table)),
        ("Rates", "; ".join(map(_rate, run.rates)) + "." if run.rates else ""),
        ("Keep in mind", " ".join(f"{remark[:1].upper()}{remark[1:]}." for remark in run.remarks)),
    ]
    return [(heading, text) for heading, text in texts if text]


def _originals(run: AuditRun) -> str:
    found, frame = run.found, run.by_group
    by_group: Table = frame.loc[found.names[0], "accuracy_before"]
    right = (found.target == found.classes[found.original.predicted]).mean()
    groups = listed([f"{100 * value:.1f} % for {name}" for name, value in by_group.items()])
    return f"The classifier is right for {100 * right:.1f} % of the images as they are: {groups}."


def _biased(table: Table) -> str:
    rows = table[table["p_holm"] < SIGNIFICANT].sort_values("bias", ascending=False)
    each = [f"{name}, most from {row['worst']}: {bias_in_words(row)}" for name, row in rows.head(6).iterrows()]
    more = f"; and {len(rows) - 6} more, see the table" if len(rows) > 6 else ""
    return f"{'; '.join(each)}{more}." if each else ""


def _unclear(table: Table) -> str:
    names = [str(name) for name in table.index[~(table["p_holm"] < SIGNIFICANT)]]
    if not names:
        return ""
    return f"The differences between groups may be chance for {listed(names)}. That is not proof that there are none."


def _quality(groups: Table, table: Table) -> str:
    """Return whether the group that loses most also has the lowest PSNR."""
    rows = table[table["psnr_range"].notna()]
    if not len(rows):
        return ""
    largest = rows["psnr_range"].idxmax()
    text = f"PSNR differs by at most {rows.loc[largest, 'psnr_range']:.1f} dB between groups ({largest})."
    biased = rows[rows["p_holm"] < SIGNIFICANT]
    if len(biased):
        psnr = groups["psnr"]
        lowest = sum(psnr.loc[name].idxmin() == row["worst"] for name, row in biased.iterrows())
        text += f" The group that loses most has the lowest PSNR in {lowest} of {len(biased)} biased degradations."
    return text


def _realism(groups: Table, table: Table) -> str:
    """Return which degradation moves the features most, and whether the group that loses most moves most."""
    if "frechet" not in table:
        return ""
    text = (
        f"In the classifier's own features, {table['frechet'].idxmax()} moves the images furthest from the originals "
        f"and {table['frechet'].idxmin()} least."
        if len(table) > 1
        else ""
    )
    biased = table[(table["p_holm"] < SIGNIFICANT) & table["frechet"].notna()]
    if len(biased):
        frechet = groups["frechet"]
        furthest = sum(frechet.loc[name].idxmax() == row["worst"] for name, row in biased.iterrows())
        text += f" The group that loses most is moved furthest in {furthest} of {len(biased)} biased degradations."
    return text.strip()


def _drift(drift: Table, target: str) -> str:
    """Return the largest change of a predicted class in a group."""
    change = (drift["after"] - drift["before"]).stack(future_stack=True)
    if not (change.abs() > 0).any():
        return ""
    name, group, label = change.abs().idxmax()
    before, after = (float(drift.loc[(name, group), (when, label)]) for when in ("before", "after"))
    return (
        f"With {name}, {class_name(target, label)} is predicted for {100 * after:.0f} % of {group}, where it was "
        f"{100 * before:.0f} % of the originals: the largest change of a predicted class."
    )


def _shares(table: Table) -> str:
    if "unrecoverable" not in table or not table["unrecoverable"].notna().any():
        return ""
    rows = table[table["unrecoverable"].notna() & (table["p_holm"] < SIGNIFICANT)]
    if not len(rows):
        return "No bias is clear enough to say what training would mend of it."
    row = rows.loc[rows["bias"].idxmax()]
    kinds = [
        f"{points(row[share])} points [{points(row[f'{share}_low'])}, {points(row[f'{share}_high'])}] are {share}"
        for share in ("unrecoverable", "recoverable")
    ]
    return (
        f"Of the bias of {row.name}, {points(row['bias'])} points, {listed(kinds)}: what a classifier that was trained "
        "on degraded images has too, and what it does not have."
    )


def _rate(row: dict[str, Any]) -> str:
    return f"{row['codec']}: {row['bpp']:g} bits per pixel wanted, {row['reached']:.3f} reached with {row['quality']:g}"
