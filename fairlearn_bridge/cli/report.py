"""fairlearn-bridge report: the page of a run again, or of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_region.cli.options import Debug, ReplaceFile
from captum_region.cli.running import check_file, told_in_one_line


def report(
    folders: Annotated[list[Path], typer.Argument(help="A run folder, or several to put side by side in one page.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page; report.html in the run folder by default, of several side_by_side.html here."),
    ] = None,
    force: ReplaceFile = False,
    debug: Debug = False,
) -> None:
    """Write a run's report.html again from its results, or one page of several runs.

    Example: fairlearn-bridge report runs/blond runs/hats --out runs/both.html
    """
    from fairlearn_bridge.report import write_report, write_side_by_side

    with told_in_one_line(debug):
        if len(folders) == 1:
            page = out or folders[0] / "report.html"
            check_file(page, force)
            write_report(folders[0], page)
        else:
            page = out or Path("side_by_side.html")
            check_file(page, force)
            write_side_by_side(folders, page)
        typer.echo(page)
