"""The figures of an audit's page, each with its words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from captum_region.page import Picture
from captum_region.plotting import LINE_COLORS, add_legend, add_legend_below, add_title, drawn
from fairlearn_bridge.audit.plotting import MARKERS, plot_audit, plot_groups, plot_realism, plot_spectrum
from fairlearn_bridge.audit.result import SHARES
from fairlearn_bridge.audit.words import Table, class_name, points
from fairlearn_bridge.plotting import Interval, name_rows, plot_dot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes

    from fairlearn_bridge.audit.run import AuditRun

# Spectra in a row.
_ACROSS = 4
# Classes that get a plot of their own.
_CLASSES = 4


def pictures_of(run: AuditRun) -> Iterator[Picture]:
    """Yield the figures of an audit: bias, drop and PSNR; shares, realism and spectrum, where they are; drift."""
    table: Table = run.table
    frame, target = run.by_group, run.config.target
    groups = len(frame.index.unique("group"))
    height = max(3.6, (0.12 * groups + 0.2) * len(table) + 1.4)
    biases = "; ".join(f"{name} {points(value)}" for name, value in table["bias"].items())
    yield Picture(
        "bias",
        drawn((12.6, height), lambda axes: plot_audit(table, frame, axes=axes), ncols=3),
        f"Bias of each degradation, in points: {biases}. Drop of accuracy and PSNR of each group.",
        "Left: bias, the largest minus the smallest drop of accuracy among groups; filled where the corrected p is "
        "below 0.05. Middle: what each group loses. Right: the quality of its images. Lines are intervals.",
    )
    if SHARES[0] in table and table[SHARES[0]].notna().any():
        yield Picture(
            "shares",
            drawn((8.4, 0.34 * len(table) + 1.4), lambda axes: plot_shares(table, axes[0])),
            "Unrecoverable and recoverable share of each bias.",
            "The two shares of each bias, of the group that loses most minus the group that loses least. A classifier "
            "that is trained on degraded images mends the recoverable one; what is left is the unrecoverable one.",
        )
    if run.spectrum is not None:
        yield from _pictures_of_realism(run, run.spectrum, height)
    classes = run.found.classes.tolist()
    # Of two classes, the second says all.
    shown = {label: class_name(target, label) for label in (classes[1:] if len(classes) == 2 else classes[:_CLASSES])}
    wide = drawn((4.2 * max(2, len(shown)), height), lambda axes: plot_drift(run.drift, shown, axes), ncols=len(shown))
    yield Picture(
        "drift",
        wide,
        f"Share of images that are predicted {', '.join(shown.values())}, by degradation and group.",
        "How often a class is predicted, by group; dashed: of the originals. Where a mark is far from its line, the "
        "degradation moves decisions into the class or out of it.",
    )


def _pictures_of_realism(run: AuditRun, spectrum: Table, height: float) -> Iterator[Picture]:
    table, frame = run.table, run.by_group
    yield Picture(
        "realism",
        drawn((10.4, height), lambda axes: plot_distances(table, frame, axes), ncols=2),
        "Bias of each degradation against the Frechet distance, and the distance of each group.",
        "Left: bias against realism, the mean Frechet distance between originals and degraded images in the "
        "classifier's last hidden layer. Right: the distance of each group. The more a degradation moves the "
        "features, the further right it is.",
    )
    columns = min(_ACROSS, len(table))
    rows = -(-len(table) // columns)
    size = max(4.2, 3.1 * columns), 2.4 * rows + 0.2
    yield Picture(
        "spectrum",
        drawn(size, lambda axes: plot_spectrum(spectrum, axes), nrows=rows, ncols=columns),
        "Share of the power that is kept at each frequency, by degradation and group.",
        "How much of the originals' power is left at each frequency: details are at the right. Above 1 power was "
        "added, such as noise or the edges of blocks. A group whose line is lower loses more of its detail.",
    )


def plot_distances(table: Table, by_group: Table, axes: list[Axes]) -> None:
    """Draw bias against the Frechet distance, and the distance of each group."""
    plot_realism(table, ax=axes[0])
    plot_groups(axes[1], by_group, "frechet", "Frechet distance of features")
    axes[1].set_xlim(left=0)
    add_legend(axes[1], loc="best")


def plot_shares(table: Table, ax: Axes) -> None:
    """Draw the unrecoverable and the recoverable share of each bias, with their intervals."""
    rows = table[table[SHARES[0]].notna()]
    name_rows(ax, rows.index)
    ax.axvline(0, color="#767676", linewidth=0.9)
    for number, share in enumerate(SHARES):
        for y, (_, row) in enumerate(rows.iterrows()):
            ends = (100 * row[each] for each in (share, f"{share}_low", f"{share}_high"))
            where = y + 0.3 * (number - 0.5)
            plot_dot(ax, Interval(*ends), where, color=LINE_COLORS[number], label=share, marker=MARKERS[number])
    ax.set_xlabel("share of the bias (points)")
    add_legend_below(ax, columns=2)


def plot_drift(drift: Table, classes: Mapping[Any, str], axes: list[Axes]) -> None:
    """Draw how often each class is predicted, by degradation and group, and for the originals as dashed lines."""
    for ax, (label, called) in zip(axes, classes.items(), strict=True):
        plot_groups(ax, drift["after"], label, "images (%)", 100)
        before = drift["before"][label].groupby("group", sort=False).first()
        for color, share in zip(itertools.cycle(LINE_COLORS), before):
            ax.axvline(100 * share, color=color, linestyle=(0, (4, 3)), linewidth=0.9)
        add_title(ax, f"predicted {called}")
        if ax is not axes[0]:
            ax.tick_params(axis="y", labelleft=False)
    add_legend_below(axes[0], columns=3)
