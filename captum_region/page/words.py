"""Numbers and lists in words, for pages and tables."""

import math
from collections.abc import Sequence
from typing import Any

DASH = "–"  # noqa: RUF001 - what a table shows where there is no value


def number(value: float, *, signed: bool = False) -> str:
    """Return a value to three places, with a true minus sign, and a dash for none.

    Examples
    --------
    >>> number(0.51), number(0.26, signed=True), number(float("nan")) == DASH
    ('0.510', '+0.260', True)
    """
    if not math.isfinite(value):
        return DASH
    # Adding 0 turns -0.0 into 0.0.
    return f"{round(value, 3) + 0.0:{'+' if signed else ''}.3f}".replace("-", "\N{MINUS SIGN}")


def shown(value: Any) -> str:
    """Return a setting as text.

    Examples
    --------
    >>> shown([1, (2, 3)]), shown({"a": [1, 2]}), shown(None) == shown([]) == DASH
    ('1, 2, 3', 'a: 1, 2', True)
    """
    if isinstance(value, dict):
        return ", ".join(f"{name}: {shown(entry)}" for name, entry in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or DASH
    return DASH if value is None else str(value)


def listed(texts: Sequence[str]) -> str:
    """Return texts as one.

    Examples
    --------
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))
