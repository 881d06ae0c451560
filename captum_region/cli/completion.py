"""What the shell completes after an option."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def list_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what completes the last of comma-separated `values`."""

    def complete(incomplete: str) -> list[str]:
        before = incomplete[: incomplete.rfind(",") + 1]
        return [before + value for value in values]

    return complete


def attributes(ctx: typer.Context) -> list[str]:
    """Complete attributes of the data that the options so far name, or else of synthetic faces."""
    from captum_region.datasets import faces, read_attributes

    # What cannot be read has nothing to complete; the command itself says why.
    with suppress(ValueError, OSError):
        column = ctx.params.get("image_column") or "image"
        return [str(name) for name in read_attributes(ctx.params["data"], ctx.params["root"], image_column=column)]
    return list(faces.ATTRIBUTES)
