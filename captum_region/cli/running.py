"""What every command does: errors in one line, a check of --out, results as JSON or as lines."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.files import CHECKPOINTS, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.figure import Figure
    from rich.console import Console


def new_app(name: str, description: str) -> typer.Typer:
    """Return an application without commands; it has --version."""
    app = typer.Typer(help=description, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback(invoke_without_command=True)
    def main(
        show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    ) -> None:
        if show_version:
            typer.echo(f"{name} {version('captum-region')}")
            raise typer.Exit

    return app


# What the library calls arguments, as the commands call it.
_OPTIONS = {
    "on_error='skip'": "--skip-damaged",
    "with image_column": "with --image-column",
    "table must be a .csv, .tsv or .parquet file or a DataFrame": "--root must be a .csv, .tsv or .parquet file",
}
_AT_THE_START = re.compile(r"(root|size|train_size|test_per_cell|validation_per_cell)(?= must | asks )")


def _with_options(message: str) -> str:
    """Return an error's message with a command's options in place of arguments."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    named = _AT_THE_START.match(message)
    return f"--{named[0].replace('_', '-')}{message[named.end() :]}" if named else message


@contextmanager
def told_in_one_line(debug: bool, resumes: Path | None = None) -> Iterator[None]:
    """Turn what a user's input can cause into one line on stderr and exit code 2, and Ctrl-C into one and 130.

    `resumes` is where the command keeps what the same command with --force then need not do again.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
        # torch's lack of memory is a RuntimeError; others are faults of this package.
        is_fault = isinstance(error, RuntimeError) and not isinstance(error, ValueError)
        if debug or (is_fault and not re.search("allocate memory|out of memory", str(error))):
            raise
        message = _with_options(str(error) or "out of memory")
        lines = (line.strip() for line in message.splitlines())
        typer.echo(f"error: {'; '.join(filter(None, lines))}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        kept = "nothing is kept, the same command begins anew"
        if resumes is not None and resumes.exists():
            kept = f"{resumes} keeps what was done, and the same command with --force goes on from there"
        typer.echo(f"stopped: {kept}", err=True)
        raise typer.Exit(130) from error


def check_out(out: Path, force: bool) -> None:
    """Raise ValueError unless `out` is a folder to be made, an empty one, or one the user lets us write into."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, {out} is a file")
    if (out / CHECKPOINTS).is_symlink():  # it is removed in the end, which a link cannot be
        raise ValueError(f"{out / CHECKPOINTS} must be a folder of its own, it is a link")
    # Hidden is what a lock or an interrupted writer has left.
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()) and not force:
        raise ValueError(f"--out {out} holds files already; name another folder, or write into it with --force")


def check_file(out: Path, force: bool) -> None:
    """Raise ValueError if `out` is there and may not be replaced."""
    if out.exists() and not force:
        raise ValueError(f"{out} is there already; name another file with --out, or replace it with --force")


def show(result: dict[str, Any]) -> None:
    """Print single results, a line each; none for what was not measured."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in result.items():
        if value is None:
            continue
        text = f"{value:.3f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
        table.add_row(name.replace("_", " "), text)
    console().print(table)


def console() -> Console:
    """Return where tables are printed; a pipe has no width, and nothing is cut there."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else 200, highlight=False, markup=False)


def write_json(path: Path, result: dict[str, Any]) -> str:
    """Write a result, and return the text of the file."""
    text = json.dumps(result, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        beside.write_text(text)
    return text


def write_picture(path: Path, figure: Figure) -> None:
    """Write a figure as PNG."""
    with replacing(path) as beside:
        figure.savefig(beside, dpi=150)
