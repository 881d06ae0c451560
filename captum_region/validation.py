"""Checks of arguments that several modules have."""

import numbers
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a number of something as an int.

    Raises
    ------
    ValueError
        If it is not an integer of at least `least`.

    Examples
    --------
    >>> import numpy as np
    >>> check_count("steps", np.int64(3))
    3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)
