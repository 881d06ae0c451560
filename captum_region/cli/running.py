"""What every command does: errors in one line, a check of --out, results as JSON or as a table."""

from __future__ import annotations

import atexit
import gc
import json
import re
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from captum_region.io.files import CHECKPOINTS, plain, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd
    from rich.console import Console


def new_app(name: str, description: str, *commands: Callable[..., None]) -> typer.Typer:
    """Return an application with these commands and --version."""
    app = typer.Typer(help=description, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback(invoke_without_command=True)
    def main(
        show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if show_version:
            typer.echo(f"{name} {version('captum-region')}")
            raise typer.Exit
        # Python ends by going through all objects several times; with torch loaded that takes seconds.
        atexit.register(gc.freeze)

    for command in commands:
        app.command()(command)
    return app


# Arguments in the library's messages, and the options that set them.
_OPTIONS = {
    "on_error='skip'": "--skip-damaged",
    "with image_column": "with --image-column",
    "confounders must": "--confounder must",
    "codecs must": "--codec must",
    "distortions must": "--distortion must",
    "n_bootstrap must": "--draws must",
    "random_state must": "--seed must",
    "validation_per_cell takes": "--validation-per-cell takes",
    "test_per_cell ": "--test-per-cell ",
    "severities must be a number": "--amount must be a number",
    "severities must be below": "--amount must be below",
    "where bpp is": "where --bpp is",
    "unless bpp is": "unless --bpp is",
    "table must be a .csv, .tsv or .parquet file or a DataFrame": "--root must be a .csv, .tsv or .parquet file",
}
_AT_THE_START = re.compile(
    "(root|size|train_size|test_per_cell|validation_per_cell|validation_share|test_share|target|confounder|groups|bpp|model|"
    "retrain|epochs|lr|region_epochs|retrain_epochs|backbone|weights|batch_size|noise_std|quantile|seeds|window|"
    "patch_size|stride|confidence|mixed_precision|limit|bins|threshold)"
    "(?= )"
)


def _with_options(message: str) -> str:
    """Return an error's message with a command's options in place of arguments."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    named = _AT_THE_START.match(message)
    return f"--{named[0].replace('_', '-')}{message[named.end() :]}" if named else message


@contextmanager
def errors_in_one_line(debug: bool, resumes: Path | None = None, *, by_force: bool = True) -> Iterator[None]:
    """Turn an error that the user can mend into one line on stderr and exit code 2, and Ctrl-C into a line and 130.

    `resumes` is what the same command resumes from, if it exists; only with --force unless `by_force` is False.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, OSError, MemoryError, RuntimeError, KeyboardInterrupt) as error:
        if _is_a_stop(error):
            kept = "nothing was saved, and the same command starts over"
            if resumes is not None and resumes.exists():
                again = "the same command with --force" if by_force else "the same command"
                kept = f"{resumes} keeps what was done, and {again} resumes from there"
            typer.echo(f"stopped: {kept}", err=True)
            raise typer.Exit(130) from error
        # torch raises RuntimeError where memory is short; other RuntimeErrors are faults of this package.
        is_fault = isinstance(error, RuntimeError) and not isinstance(error, ValueError)
        if debug or (is_fault and not re.search("allocate memory|out of memory", str(error))):
            raise
        message = _with_options(str(error) or "out of memory")
        lines = "; ".join(filter(None, (line.strip() for line in message.splitlines())))
        in_one = re.sub("([:.]);", r"\1", lines)
        typer.echo(f"error: {in_one}", err=True)
        raise typer.Exit(2) from error


def _is_a_stop(error: BaseException | None) -> bool:
    """Return whether an error is Ctrl-C, or came up while that was on its way out.

    It may come between the closing of a file and the line that notes it, as in shutil.rmtree, which closes it again.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def check_out(out: Path, force: bool) -> None:
    """Raise ValueError unless `out` is new, or an empty folder, or a folder that --force lets us write into."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, {out} is a file")
    if (out / CHECKPOINTS).is_symlink():  # it is removed in the end, which a link cannot be
        raise ValueError(f"{out / CHECKPOINTS} must be a folder of its own, it is a link")
    # Hidden files are what a lock or an interrupted writer has left.
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()) and not force:
        raise ValueError(f"--out {out} holds files already; name another folder, or write into it with --force")


def check_file(out: Path, force: bool) -> None:
    """Raise ValueError if `out` exists and may not be replaced, as a folder never may."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file with --out")
    if out.exists() and not force:
        raise ValueError(f"{out} exists already; name another file with --out, or replace it with --force")


def console() -> Console:
    """Return where tables are printed; a pipe has no width, and nothing is cut there."""
    from rich.console import Console

    return Console(width=None if Console().is_terminal else 1000, highlight=False, markup=False)


def write_and_print(path: Path, result: dict[str, Any], details: dict[str, Any], as_json: bool) -> None:
    """Write a result and its details as JSON; print the same JSON, or the result alone, a line a value."""
    from rich.table import Table

    text = write_json(path, result | details)
    if as_json:
        typer.echo(text, nl=False)
        return
    shown = Table.grid(padding=(0, 2))
    for name, value in result.items():
        if name == "skipped":
            shown.add_row(name, str(len(value)))
        elif value is not None:  # what was not measured
            shown.add_row(name.replace("_", " "), _shown(value))
    console().print(shown)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.3f}" if isinstance(value, float) else json.dumps(value)


def print_check(found: pd.DataFrame, as_json: bool, equal: str | None = None) -> None:
    """Print what was compared, or `equal` where all of it is, and exit with 1 if something differs."""
    differs = found[~found["equal"]]
    if as_json:
        typer.echo(json.dumps(plain(found.to_dict("records")), indent=1, default=str))
    elif equal is not None and differs.empty:
        typer.echo(equal)
    else:
        for row in differs.itertuples():
            typer.echo(f"differs: {row.what}: was {row.then}, is {row.now}")
        typer.echo(f"{len(found) - len(differs)} of {len(found)} comparisons are equal")
    if len(differs):
        raise typer.Exit(1)
