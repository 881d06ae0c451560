"""fairlearn-bridge report: write the page of a run again, or of several."""

from pathlib import Path
from typing import Annotated

import typer

from captum_region.cli.options import Debug, ReplaceFile
from captum_region.cli.running import check_file, errors_in_one_line


def report(
    folders: Annotated[list[Path], typer.Argument(help="A run folder, or several to compare on one page.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page; by default report.html in the run folder, or side_by_side.html here for several."),
    ] = None,
    force: ReplaceFile = False,
    debug: Debug = False,
) -> None:
    """Write a run's report.html again from its results, or one page of several runs.

    Example: fairlearn-bridge report runs/blond runs/hats --out runs/both.html
    """
    from fairlearn_bridge.report import write_report, write_side_by_side

    with errors_in_one_line(debug):
        page = out or (folders[0] / "report.html" if len(folders) == 1 else Path("side_by_side.html"))
        check_file(page, force)
        if len(folders) == 1:
            write_report(folders[0], page)
        else:
            write_side_by_side(folders, page)
        typer.echo(page)
