"""The options that several commands have, and what the shell completes after them."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer


def attributes(text: str) -> Any:
    """Return an option for attributes of the data, with its help text."""
    return typer.Option(help=text, autocompletion=_attributes)


def _attributes(ctx: typer.Context) -> list[str]:
    """Complete attributes of the data that the options so far name, or else of synthetic faces."""
    from captum_region.datasets import faces, read_attributes

    # What cannot be read has nothing to complete; the command itself says why.
    with suppress(ValueError, OSError):
        column = ctx.params.get("image_column") or "image"
        return [str(name) for name in read_attributes(ctx.params["data"], ctx.params["root"], image_column=column)]
    return list(faces.ATTRIBUTES)


def choice(text: str, *values: str, **settings: Any) -> Any:
    """Return an option with its help text, for which the shell completes `values`."""
    return typer.Option(help=text, autocompletion=lambda: list(values), **settings)


def list_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes the last of comma-separated `values`."""

    def complete(incomplete: str) -> list[str]:
        before = incomplete[: incomplete.rfind(",") + 1]
        return [before + value for value in values]

    return complete


def _usable(device: str | None) -> str | None:
    """Return `device` if torch can compute there."""
    import torch

    if device is None:
        return None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"{device}: {str(error).splitlines()[0]}") from error
    return device


def _device(text: str) -> Any:
    return choice(f"Where to compute: {text}", "cpu", "cuda", "mps", callback=_usable)


Out = Annotated[Path, typer.Option(help="Folder for the results; it must be new or empty unless --force is given.")]
Force = Annotated[bool, typer.Option("--force", help="Write into --out even if it holds files.")]
ReplaceFile = Annotated[bool, typer.Option("--force", help="Replace --out if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Device = Annotated[str, _device("cpu, cuda, cuda:1, mps ...")]
LaunchedDevice = Annotated[str | None, _device("cpu, cuda, cuda:1, mps ...; by default as launched, or cpu.")]
MixedPrecision = Annotated[str, choice("bf16 computes in bfloat16, no in float32.", "no", "bf16")]
Data = Annotated[
    str,
    choice(
        "Data set: celeba, fairface, utkface, table (a csv file with a column of image files) or faces (synthetic).",
        *("celeba", "fairface", "utkface", "table", "faces"),
    ),
]
DataInFiles = Annotated[
    str,
    choice(
        "Data set: celeba, fairface, utkface or table (a csv file with a column of image files).",
        *("celeba", "fairface", "utkface", "table"),
    ),
]
RootOfFiles = Annotated[Path, typer.Option("--root", help="Folder of the data set, or the csv file of a table.")]
Root = Annotated[Path, typer.Option(help="Folder of the data set, or the csv file of a table; not needed for faces.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the table with the image files; image by default.")]
IdentityColumn = Annotated[
    str | None, typer.Option(help="Column of the table that says who an image shows: no person is in two sets.")
]
Size = Annotated[int, typer.Option(help="Side in pixels that images are resized to.")]
Cache = Annotated[
    Path | None,
    typer.Option(help="Folder for decoded images; by default CAPTUM_REGION_CACHE, or else the user's cache folder."),
]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder, or the --out folder of train.")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave out damaged images, and list them.")]
