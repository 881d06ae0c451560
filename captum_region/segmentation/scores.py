"""segmentation_scores: Dice, intersection over union and the area under the ROC curve, over the pixels of volumes."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import default_collate

from captum_region.evaluation import device_of, evaluating
from captum_region.precision import autocast, check_mixed_precision
from captum_region.progress import progress_bar
from captum_region.stacks.windows import SliceWindows, as_windows
from captum_region.validation import check_count

# Of the bits of a float16.
_BINS = 2**16


def segmentation_scores(
    model: nn.Module,
    windows: SliceWindows | Sequence[SliceWindows],
    *,
    batch_size: int = 4,
    device: str | torch.device | None = None,
    mixed_precision: str = "no",
    show_progress: bool = False,
) -> pd.DataFrame:
    """Score the segmentation of whole slices, over all pixels of each volume.

    The model is put in eval mode for that, and back. Nothing but counts is kept of the predictions.

    Parameters
    ----------
    model : nn.Module
        N x W x height x width, floats in [0, 1] -> logits, N x classes x height x width, with one class or at least
        two. It must take whole slices.
    windows : SliceWindows, or a sequence of them
        With labels; one of each volume.
    batch_size : int, default=4
        Windows at a time.
    device : str or torch.device, optional
        Where to compute; the model is moved there. By default its own.
    mixed_precision : {"no", "bf16"}, default="no"
        "bf16" runs the network in bfloat16.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    DataFrame
        One row for each volume and class, in the columns

        - ``volume``: the stack's name; ``class``: for a model of one logit 1 alone, else each from 0 on;
        - ``dice``: 2 TP / (2 TP + FP + FN), of the pixels predicted: those whose logit is above 0, or largest;
        - ``iou``: TP / (TP + FP + FN);
        - ``auc``: the area under the ROC curve of the class's log odds, rounded to float16, as a detector of its
          pixels; 0.5 is a model without information.

        All in [0, 1]. ``dice`` and ``iou`` are NaN where neither labels nor predictions have the class; ``auc`` is NaN
        where the labels have no pixel, or no other pixel, of it.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or the logits have another shape than the labels.

    See Also
    --------
    mean_dice : One number of them.

    Examples
    --------
    >>> from captum_region.stacks import SliceWindows, make_stack
    >>> windows = SliceWindows(make_stack("centre", slices=4, random_state=0))
    >>> bright = nn.Conv2d(3, 1, 1)  # a model of the centre slice's brightness
    >>> with torch.no_grad():
    ...     _ = bright.weight.copy_(torch.tensor([0, 1, 0])[None, :, None, None]), bright.bias.fill_(-0.5)
    >>> segmentation_scores(bright, windows)
       volume  class  dice  iou  auc
    0  centre      1   1.0  1.0  1.0
    """
    found = as_windows(windows, name="windows")
    check_count("batch_size", batch_size)
    mixed_precision = check_mixed_precision(mixed_precision, None)
    if device is not None:
        model.to(device)
    rows: list[dict[str, object]] = []
    total = sum(map(len, found))
    with progress_bar(total=total, desc="scores", unit="slice", disable=not show_progress) as bar:
        for each in found:
            counts = None
            for logits, labels in _predicted(model, each, batch_size, mixed_precision):
                counts = counts if counts is not None else _Counts(logits)
                counts.add(logits, labels)
                bar.update(len(labels))
            rows += [] if counts is None else [{"volume": each.stack.name, **row} for row in counts.rows()]
    return pd.DataFrame(rows)


def mean_dice(scores: pd.DataFrame) -> float:
    """Return the mean Dice coefficient over volumes and classes, class 0 (the background) and NaN left out.

    Examples
    --------
    >>> mean_dice(pd.DataFrame({"class": [0, 1, 1], "dice": [0.9, 0.4, 0.6]}))
    0.5
    """
    return float(scores.loc[scores["class"] > 0, "dice"].mean())


def run(model: nn.Module, images: Tensor, labels: Tensor, mixed_precision: str) -> tuple[Tensor, Tensor]:
    """Return a model's logits, in float32, and the labels, on its device; ValueError if they do not fit together."""
    device = device_of(model)
    images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    with autocast(device, mixed_precision):
        logits = model(images)
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 4 or (len(logits), *logits.shape[2:]) != tuple(labels.shape):
        raise ValueError(
            f"model must return logits N x classes x height x width for labels {tuple(labels.shape)}, got {got}"
        )
    return logits.float(), labels.to(device, non_blocking=True)


def check_classes_of(logits: Tensor, windows: SliceWindows) -> None:
    """Raise ValueError if the labels have classes that a model has no logits for."""
    classes = max(2, logits.shape[1])
    if windows.stack.classes > classes:
        raise ValueError(
            f"labels must be below {classes}, the model's classes; those of {windows.stack.name} reach "
            f"{windows.stack.classes - 1}"
        )


def _predicted(
    model: nn.Module, windows: SliceWindows, batch_size: int, mixed_precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels, batch by batch."""
    for start in range(0, len(windows), batch_size):
        images, labels = default_collate([windows[i] for i in range(start, min(start + batch_size, len(windows)))])
        with torch.inference_mode(), evaluating(model):
            predicted = run(model, images, labels, mixed_precision)
        if start == 0:
            check_classes_of(predicted[0], windows)
        yield predicted


class _Counts:
    """Counts of pixels by class: predicted and true ones, and how the log odds are spread in both."""

    def __init__(self, logits: Tensor) -> None:
        self.classes = [1] if logits.shape[1] == 1 else list(range(logits.shape[1]))
        self.confusion = torch.zeros(len(self.classes), 4, dtype=torch.long, device=logits.device)
        self.spread = torch.zeros(len(self.classes), 2 * _BINS, dtype=torch.long, device=logits.device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        largest = logits.argmax(1) if len(self.classes) > 1 else (logits[:, 0] > 0).long()
        for number, one in enumerate(self.classes):
            true = (labels == one).long()
            self.confusion[number] += torch.bincount((2 * true + (largest == one)).flatten(), minlength=4)
            bins = _bins(_log_odds(logits, number)) + _BINS * true
            self.spread[number] += torch.bincount(bins.flatten(), minlength=2 * _BINS)

    def rows(self) -> Iterator[dict[str, float]]:
        for one, confusion, spread in zip(self.classes, self.confusion.cpu(), self.spread.cpu(), strict=True):
            _, false_positive, false_negative, right = confusion.tolist()
            wrong = false_positive + false_negative
            row: dict[str, float] = {"class": one}
            row["dice"] = 2 * right / (2 * right + wrong) if right + wrong else np.nan
            row["iou"] = right / (right + wrong) if right + wrong else np.nan
            row["auc"] = _auc(spread.view(2, _BINS).numpy())
            yield row


def _log_odds(logits: Tensor, number: int) -> Tensor:
    """Return the log odds of a class, N x height x width."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = [each for each in range(logits.shape[1]) if each != number]
    return logits[:, number] - logits[:, others].logsumexp(1)


def _bins(values: Tensor) -> Tensor:
    """Return numbers in 0 to 2**16 - 1 that are in the order of the values, as float16."""
    bits = values.half().view(torch.int16).long()  # of a float: sign, then magnitude
    return torch.where(bits < 0, -(bits & 0x7FFF), bits) + _BINS // 2


def _auc(spread: NDArray[np.int64]) -> float:
    """Return the area under the ROC curve from the counts of pixels, of the class and others, in each bin."""
    if not spread.any(axis=1).all():
        return np.nan
    truth, score = np.nonzero(spread)
    return float(roc_auc_score(truth, score, sample_weight=spread[truth, score]))
