"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_region.cli import completion


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


Out = Annotated[Path, typer.Option(help="Folder for the results; new or empty unless --force.")]
Force = Annotated[bool, typer.Option("--force", help="Write into --out even if it holds files.")]
ReplaceFile = Annotated[bool, typer.Option("--force", help="Replace --out if it is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option(help="Decides all that is random.")]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:1, mps ...", callback=_usable, autocompletion=completion.one_of("cpu", "cuda", "mps")
    ),
]
LaunchedDevice = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1, mps ...; by default cpu, or where accelerate launch says.",
        callback=_usable,
        autocompletion=completion.one_of("cpu", "cuda", "mps"),
    ),
]
MixedPrecision = Annotated[
    str,
    typer.Option(help="bf16 computes in bfloat16; no is the default.", autocompletion=completion.one_of("no", "bf16")),
]
Data = Annotated[
    str,
    typer.Option(
        help="celeba, fairface, utkface, table (a csv with a column of image files), or faces (synthetic).",
        autocompletion=completion.one_of("celeba", "fairface", "utkface", "table", "faces"),
    ),
]
Root = Annotated[Path, typer.Option(help="Folder of the data set, or the table's file; not for faces.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of a table that names the image files; image by default.")
]
Size = Annotated[int, typer.Option(help="Side in pixels that images are resized to.")]
Cache = Annotated[
    Path | None, typer.Option(help="Folder for decoded images; CAPTUM_REGION_CACHE, else the user's, by default.")
]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint folder, or the --out of train.")]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave out damaged images, and list them.")]
