"""ModelCard: what a saved model was trained on, how it was measured, and where it fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

# The latter is what MetricFrame calls scikit-learn's.
_ACCURACY = ("accuracy", "accuracy_score")


@dataclass(frozen=True, eq=False)
class ModelCard:
    """What the reader of a saved model must know and the model itself does not hold.

    Parameters
    ----------
    title : str, default="Image classifier"
    trained_on : str, optional
        The training images, in words.
    cells : DataFrame or Series, optional
        Numbers of training images, such as ``pd.crosstab(y, confounder)``.
    measured_on : str, optional
        The test images, in words.
    measurements : DataFrame or Series, optional
        A row a group, such as a cell of class and spurious attribute, and a column a measure, as in ``by_group`` of
        fairlearn's MetricFrame; a Series is a column of its name. A column ``accuracy``, or ``accuracy_score``, names
        the group that the model fails most; intervals are columns of their own.
    limits : sequence of str, default=()
        Sentences on where else the model fails.

    Raises
    ------
    TypeError
        If a parameter is of another kind.
    ValueError
        If `measurements` is a Series without a name, or has an accuracy that is not one column of numbers.

    See Also
    --------
    save_mitigator : Writes it beside the model, as ``model_card.md``.

    References
    ----------
    Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"accuracy": [0.91, 0.62], "images": [400, 40]}, index=["blond women", "blond men"])
    >>> print(ModelCard(measured_on="Photographs of 2024.", measurements=table).failures()[0])
    The lowest accuracy of a group is 0.62, for blond men; the highest is 0.91, for blond women.
    """

    title: str = "Image classifier"
    trained_on: str | None = None
    cells: pd.DataFrame | pd.Series | None = None
    measured_on: str | None = None
    measurements: pd.DataFrame | pd.Series | None = None
    limits: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("title", "trained_on", "measured_on"):
            value = getattr(self, name)
            if not isinstance(value, str | None) or (value is None and name == "title"):
                raise TypeError(f"{name} must be text, got {type(value).__name__}")
        # Text is a sequence too, of letters.
        is_list = isinstance(self.limits, Sequence) and not isinstance(self.limits, str)
        if not is_list or not all(isinstance(line, str) for line in self.limits):
            raise TypeError(f"limits must be a list of sentences, got {self.limits!r}")
        for name in ("cells", "measurements"):
            if not isinstance(table := getattr(self, name), pd.DataFrame | pd.Series | None):
                raise TypeError(f"{name} must be a DataFrame or a Series, got {type(table).__name__}")
        _accuracy_of(self.measurements)

    def failures(self) -> list[str]:
        """Return sentences on where the model fails, or that nobody has looked."""
        found, accuracy = [], _accuracy_of(self.measurements)
        if self.measurements is None:
            found.append("Nothing was measured: how well it does, and for whom, is not known.")
        elif accuracy is not None and len(accuracy) > 1:
            low, high = accuracy.idxmin(), accuracy.idxmax()
            found.append(
                f"The lowest accuracy of a group is {accuracy.min():.2f}, for {_group(low)}; the highest is "
                f"{accuracy.max():.2f}, for {_group(high)}."
            )
        return [*found, *self.limits]

    def markdown(self, description: Mapping[str, Any]) -> str:
        """Return the card of a model as Markdown.

        Parameters
        ----------
        description : mapping
            What ``mitigator.json`` holds.
        """
        channels, height, width = description["image_shape"]
        counts = description["class_counts"]
        classes = [_text(label) for label in description["classes"]]
        # Of resampled images those drawn, some of them repeatedly.
        kind = "drawn images" if description.get("resampled") else "images"
        trained = f"on {sum(counts):,} {kind}" if counts else "on an unknown number of images"
        lines = [
            f"# {_text(self.title)}",
            f"Method: {description['method']}, network: {_text(description['network'])}, trained {trained}. "
            f"Classes: {', '.join(classes)}. {_decision(description)}",
            f"Images have {height} x {width} pixels and {channels} channel{'s' * (channels > 1)}, as uint8 or floats "
            "in [0, 1]; the network normalises them itself.",
            "## Training",
            self.trained_on and _text(self.trained_on),
            _table(pd.DataFrame({"class": classes, f"training {kind}": counts}).set_index("class")) if counts else None,
            None if self.cells is None else _table(self.cells),
            "## Measurements",
            self.measured_on and _text(self.measured_on),
            "None." if self.measurements is None else _table(self.measurements),
            "## Where it fails",
            "\n".join(f"- {_text(line)}" for line in [*self.failures(), *_always(height, width)]),
            "## Use",
            "```python\nfrom fairlearn_bridge import load_mitigator\n\n"
            'model = load_mitigator("FOLDER"' + (", module=MyNetwork" if description["needs_module"] else "") + ")\n"
            "model.predict(images)\n```",
            "## Versions",
            ", ".join(f"{name} {version}" for name, version in description["versions"].items()),
            f"Saved {description['created']}" + (f", commit {description['git']}." if description["git"] else "."),
        ]
        return "\n\n".join(line for line in lines if line) + "\n"


def _decision(description: Mapping[str, Any]) -> str:
    if description["threshold"] is None:
        return "It predicts the likeliest class."
    return (
        f"It predicts {_text(description['positive_class'])} from a probability of {description['threshold']:.4g} on."
    )


def _always(height: int, width: int) -> list[str]:
    return [
        f"Images are resized to {height} x {width} as a whole; what shows only in finer detail is lost.",
        "It may do worse on images of another kind than those of the training: camera, crop, population.",
    ]


def _accuracy_of(measurements: pd.DataFrame | pd.Series | None) -> pd.Series | None:
    """Return the accuracies that are known, by group; None where there is no column of them."""
    if measurements is None:
        return None
    if isinstance(measurements, pd.Series) and measurements.name is None:
        raise ValueError('measurements must be a DataFrame, or a Series with a name, such as rename("accuracy")')
    table = _frame(measurements)
    for name in _ACCURACY:
        if name in table:
            found: Any = table[name]  # a frame where columns have levels, or two have the name
            if isinstance(found, pd.DataFrame) or not pd.api.types.is_numeric_dtype(found):
                columns = {str(column): str(dtype) for column, dtype in table.dtypes.items()}
                raise ValueError(f"measurements must have the {name} in one column of numbers, got {columns}")
            accuracy: pd.Series = found.dropna()
            return accuracy
    return None


def _frame(table: pd.DataFrame | pd.Series) -> pd.DataFrame:
    """Return a table, of a Series one with a column of its name; without one they are counts."""
    if isinstance(table, pd.DataFrame):
        return table
    return table.to_frame("images") if table.name is None else table.to_frame()


def _group(name: Any) -> str:
    return ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _text(value: Any) -> str:
    """Return text that Markdown shows as it is."""
    text = str(value)
    for letter in "\\`*_|<>[]#":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def _table(table: pd.DataFrame | pd.Series) -> str:
    """Return a table in Markdown; numbers to three places."""
    table = _frame(table)
    names = [_group(name) for name in table.columns]
    above = [name for name in (*table.index.names, *table.columns.names) if name not in (None, "row_0", "col_0")]
    head = [" / ".join(map(str, above)), *names]
    rows = [[_group(at), *map(_number, row)] for at, row in zip(table.index, table.to_numpy(dtype=object), strict=True)]
    lines = [head, ["---"] + ["---:"] * len(names), *rows]
    escaped = (line if at == 1 else map(_text, line) for at, line in enumerate(lines))
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return ""
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)
