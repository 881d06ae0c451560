"""find_confounders: which attributes are associated with the target, and could be learnt in its place."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import chi2_contingency, false_discovery_control
from scipy.stats.contingency import expected_freq
from sklearn.metrics import normalized_mutual_info_score

from captum_region.validation import check_count

THRESHOLD = 0.2
# Of an attribute with more values there are too few images of each.
MAX_VALUES = 50


def find_confounders(
    attributes: pd.DataFrame,
    target: str | ArrayLike,
    *,
    threshold: float = THRESHOLD,
    alpha: float = 0.05,
    max_values: int = MAX_VALUES,
    rare: int = 25,
) -> pd.DataFrame:
    """Measure how strongly each attribute is associated with the target, and flag strong associations.

    A strong association in training data makes a shortcut possible: the attribute predicts the target. It is no proof
    that a model takes the shortcut, and a weak association is no proof that none does.

    Parameters
    ----------
    attributes : DataFrame of N rows
        One column an attribute, of booleans, integers, text or categories, all taken as categories. Missing values
        are counted and left out, for each attribute separately.
    target : str or array-like of shape (N,)
        The column that is to be classified, or its values, of any number of classes.
    threshold : float, default=0.2
        The least Cramer's V of a flagged attribute. Where both have two equally frequent values, V = 0.2 means
        that the attribute alone guesses the target right in 60 % of the images: the guess is right in (1 + V) / 2.
        Cohen calls 0.1 small, 0.3 medium and 0.5 large.
    alpha : float, default=0.05
        The accepted rate of false discoveries: an association that may be chance is not flagged.
    max_values : int, default=50
        An attribute of more values, such as the name of a person or an exact age, is not compared: each value has too
        few images. Group the values first. A target of more is refused.
    rare : int, default=25
        Cells with fewer images are listed; ``fairlearn-bridge run`` sets aside as many of each for validation.

    Returns
    -------
    DataFrame
        A row an attribute other than the target, the closest first, indexed by ``attribute``:

        - ``cramers_v``: from 0 (independent) to 1 (one determines the other), with Bergsma's correction, without which
          chance makes it larger the more values there are; NaN if not compared;
        - ``normalized_mutual_information``: mutual information over the mean of the two entropies, 0 to 1. It is small
          for rare attributes, however strongly they are associated;
        - ``p_value``: of the chi-squared test, adjusted for the number of attributes by Benjamini and Hochberg;
        - ``flagged``: whether V is at least `threshold` and the p-value at most `alpha`;
        - ``images`` that have a value, ``missing`` ones (of attribute or target), number of ``values``;
        - ``smallest_cell``: images in the smallest cell of class and value, and ``rare_cells``: those with fewer than
          `rare`, as text;
        - ``note``: why an attribute was not compared, or a remark on its values.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or the target has one class only.

    See Also
    --------
    cell_counts : The images of each cell behind these numbers.
    fairlearn_bridge.plotting.plot_confounders : Draws them.

    References
    ----------
    Bergsma, "A bias-correction for Cramer's V and Tschuprow's T", Journal of the Korean Statistical Society 42, 2013.

    Examples
    --------
    >>> male, beard, smile = [True] * 80 + [False] * 80, [True] * 50 + [False] * 110, [True, False] * 80
    >>> found = find_confounders(pd.DataFrame({"smile": smile, "beard": beard}), male)
    >>> found[["cramers_v", "flagged", "smallest_cell"]].round(2)
               cramers_v  flagged  smallest_cell
    attribute
    beard           0.67     True              0
    smile           0.00    False             40
    >>> found.loc["beard", "rare_cells"]
    'not target, beard: 0'
    """
    others, labels = _split_target(attributes, target)
    for name, value, high in (("threshold", threshold, 1), ("alpha", alpha, 1), ("rare", rare, math.inf)):
        if not 0 <= value <= high:
            raise ValueError(f"{name} must lie in 0 to {high}, got {value}")
    check_count("max_values", max_values, 2)
    if (count := labels.nunique()) > max_values:
        raise ValueError(f"target must take at most {max_values} values, it takes {count}: group them first")
    found = pd.DataFrame(
        [_compare(values, labels, max_values, rare) for _, values in others.items()],
        index=pd.Index(others.columns, name="attribute"),
    )
    tested = found["p_value"].notna()
    found.loc[tested, "p_value"] = false_discovery_control(found.loc[tested, "p_value"])
    found.insert(3, "flagged", (found["cramers_v"] >= threshold) & (found["p_value"] <= alpha))
    found.insert(5, "missing", len(attributes) - found["images"])
    return found.sort_values("cramers_v", ascending=False, kind="stable")


def cell_counts(attributes: pd.DataFrame, target: str | ArrayLike) -> pd.DataFrame:
    """Count the images of each cell, a class of the target and a value of an attribute.

    Parameters
    ----------
    attributes, target
        As in `find_confounders`; each attribute has at most as many rows here as values times classes.

    Returns
    -------
    DataFrame
        Columns ``attribute``, ``target``, ``value``, ``images``, ``share`` (of the class's images, those without a
        value left out), ``expected`` (images, were the two independent) and ``residual``, Pearson's: images less the
        expected, over the root of the expected. The lowest is the most underrepresented cell.

    Raises
    ------
    TypeError, ValueError
        As in `find_confounders`, and if no attribute has a value.

    See Also
    --------
    find_confounders : How strongly each attribute is associated with the target.
    fairlearn_bridge.plotting.plot_cells : Draws the shares.

    Examples
    --------
    >>> cell_counts(pd.DataFrame({"blond": [True, True, False, False]}), ["w", "w", "w", "m"]).round(2)
      attribute target  value  images  share  expected  residual
    0     blond      m  False       1   1.00       0.5      0.71
    1     blond      w  False       1   0.33       1.5     -0.41
    2     blond      m   True       0   0.00       0.5     -0.71
    3     blond      w   True       2   0.67       1.5      0.41
    """
    others, labels = _split_target(attributes, target)
    cells = [_cells(values, labels) for _, values in others.items() if values.notna().any()]
    if not cells:
        raise ValueError(f"attributes must have values, there are none of {', '.join(map(str, others))}")
    return pd.concat(cells, ignore_index=True)


def name_of(attribute: Any, value: Any) -> str:
    """Return what an attribute's value is called: ``Male``, ``not Male``, ``race=White``."""
    if isinstance(value, bool | np.bool_):
        return str(attribute) if value else f"not {attribute}"
    return f"{attribute}={value}"


def _split_target(attributes: pd.DataFrame, target: str | ArrayLike) -> tuple[pd.DataFrame, pd.Series]:
    """Return the other attributes and the target, of the rows that have a target."""
    if not isinstance(attributes, pd.DataFrame):
        raise TypeError(f"attributes must be a pandas DataFrame, got {type(attributes).__name__}")
    if attributes.columns.has_duplicates:
        twice = attributes.columns[attributes.columns.duplicated()][0]
        raise ValueError(f"attributes must have a column once only, {twice!r} is there again")
    if isinstance(target, str):
        if target not in attributes:
            raise ValueError(f"target must be one of {', '.join(map(str, attributes))}, got {target!r}")
        others, labels = attributes.drop(columns=target), attributes[target]
    else:
        others, labels = attributes, pd.Series(target, name=getattr(target, "name", None) or "target")
        if len(labels) != len(attributes):
            raise ValueError(f"target must have a value for each of the {len(attributes)} rows, got {len(labels)}")
    if others.empty:
        raise ValueError("attributes must hold a row and a column besides the target's")
    if labels.nunique() < 2:
        raise ValueError(f"target must take at least two values, it takes {labels.dropna().unique().tolist()}")
    known = labels.notna().to_numpy()
    return others[known].reset_index(drop=True), labels[known].reset_index(drop=True)


def _crosstab(values: pd.Series, labels: pd.Series) -> pd.DataFrame:
    """Return the images by class (rows) and value (columns), without the classes and values that no image has."""
    counts = pd.crosstab(labels, values, rownames=["target"], colnames=["value"])
    return counts.loc[counts.any(axis=1), counts.any()]


def _compare(values: pd.Series, labels: pd.Series, max_values: int, rare: int) -> dict[str, Any]:
    """Return what there is to say of one attribute."""
    count, number = int(values.count()), int(values.nunique())
    row: dict[str, Any] = dict.fromkeys(("cramers_v", "normalized_mutual_information", "p_value"), math.nan)
    row |= {"images": count, "values": number, "smallest_cell": 0, "rare_cells": "", "note": ""}
    if number > max_values:
        return row | {"note": f"not compared: {number} values are more than {max_values}, group them first"}
    counts = _crosstab(values, labels)
    if min(counts.shape) < 2:
        note = "no value" if not number else "one value only" if number == 1 else "known of one class only"
        return row | {"cramers_v": 0.0, "normalized_mutual_information": 0.0, "note": note}
    test = chi2_contingency(counts, correction=False)
    known = values.notna()
    codes = [pd.factorize(column[known])[0] for column in (labels, values)]
    rare_cells = [
        f"{name_of(labels.name, label)}, {name_of(values.name, value)}: {images}"
        for value, of_value in counts.items()
        for label, images in of_value[of_value < rare].items()
    ]
    return row | {
        "cramers_v": _corrected_cramers_v(test.statistic / count, count, counts.shape),
        "normalized_mutual_information": normalized_mutual_info_score(*codes),
        "p_value": test.pvalue,
        "smallest_cell": int(counts.to_numpy().min()),
        "rare_cells": "; ".join(rare_cells),
        "note": "each value goes with one class only" if ((counts > 0).sum() == 1).all() else "",
    }


def _corrected_cramers_v(phi2: float, count: int, shape: tuple[int, int]) -> float:
    """Return Cramer's V of a table with the mean square contingency `phi2`, corrected as Bergsma (2013) does."""
    rows, columns = shape
    phi2 -= (rows - 1) * (columns - 1) / (count - 1)
    least = min(side - (side - 1) ** 2 / (count - 1) for side in shape)
    # Where each image has a value of its own, nothing is left to measure.
    return 0.0 if phi2 <= 0 or least <= 1 else min(1.0, math.sqrt(phi2 / (least - 1)))


def _cells(values: pd.Series, labels: pd.Series) -> pd.DataFrame:
    counts = _crosstab(values, labels)
    cells = counts.melt(ignore_index=False, value_name="images").reset_index()
    cells["share"] = counts.div(counts.sum(axis=1), axis=0).to_numpy().T.ravel()
    cells["expected"] = expected_freq(counts).T.ravel()
    cells["residual"] = (cells["images"] - cells["expected"]) / np.sqrt(cells["expected"])
    attribute: Any = values.name  # as to pandas' stubs a column's name is no value
    cells.insert(0, "attribute", attribute)
    return cells
