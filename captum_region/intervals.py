"""Intervals of values that were measured with several seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student_t


def paired_differences(values: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the mean over seeds, and how each differs from a reference, paired by seed.

    Parameters
    ----------
    values : DataFrame
        A row for each seed and a column for each thing that is compared. A difference leaves out seeds with NaN.
    reference : str
        One of the columns.

    Returns
    -------
    DataFrame
        One row per column of `values`: ``mean``, ``std_seeds``, ``difference`` (minus the reference), ``low`` and
        ``high``, its 95 % interval by Student's t, NaN for one seed.

    Examples
    --------
    >>> values = pd.DataFrame({"a": [0.5, 0.7], "b": [0.6, 0.9]})
    >>> paired_differences(values, "a").round(3)
       mean  std_seeds  difference    low   high
    a  0.60      0.141        0.00  0.000  0.000
    b  0.75      0.212        0.15 -0.485  0.785
    """
    difference = values.sub(values[reference], axis=0)
    seeds = difference.count()
    mean, half = difference.mean(), student_t.ppf(0.975, np.maximum(seeds - 1, 1)) * difference.sem()
    table = {"mean": values.mean(), "std_seeds": values.std(), "difference": mean, "low": mean - half}
    return pd.DataFrame({**table, "high": mean + half})
