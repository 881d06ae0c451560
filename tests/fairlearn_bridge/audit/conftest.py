"""Striped images for audits whose truth is known exactly, and degradations and classifiers of them."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import BaseEstimator

SIDE = 16


def direction(images):
    """The probability of vertical stripes, right on all originals; without stripes, horizontal ones are guessed."""
    values = images.astype(float)
    across, down = (np.abs(np.diff(values, axis=axis)).mean((1, 2, 3)) for axis in (3, 2))
    vertical = np.where(across > down, 0.9, 0.1)
    return np.stack([1 - vertical, vertical], axis=1)


def blocks(images):
    """8 x 8 blocks, N x C x rows x 8 x cols x 8, and the range of each."""
    parts = images.reshape(*images.shape[:2], SIDE // 8, 8, SIDE // 8, 8).astype(int)
    return parts, np.ptp(parts, axis=(3, 5), keepdims=True)


def flattened(images):
    """Blocks of a range below 20 become their mean, the others 5 brighter."""
    parts, ranges = blocks(images)
    mean = parts.mean((3, 5), keepdims=True).astype(int)
    return np.where(ranges < 20, mean, parts + 5).reshape(images.shape).astype(np.uint8)


def transposed(images):
    """Blocks of a range below 20 are transposed: nothing is lost."""
    parts, ranges = blocks(images)
    return np.where(ranges < 20, parts.swapaxes(3, 5), parts).reshape(images.shape).astype(np.uint8)


def pixels(image):
    return image.tobytes()


def pattern(image):
    """Which pixels are brighter than the mean: all that is seen of stripes of any contrast and brightness."""
    return (image > image.mean()).tobytes()


class TableClassifier(BaseEstimator):
    """The share of each label among training images with the same key; of one that it has not seen, among all."""

    def __init__(self, key=pixels):
        self.key = key

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        hits = np.asarray(y)[:, None] == self.classes_
        self.table_ = {}
        for image, hit in zip(X, hits, strict=True):
            self.table_.setdefault(self.key(image), []).append(hit)
        self.unseen_ = hits.mean(0)
        return self

    def predict_proba(self, X):
        return np.array([np.mean(self.table_.get(self.key(image), [self.unseen_]), axis=0) for image in X])


class RawCodec:
    """Stores the bytes of the pixels, after `change`."""

    name = "raw"

    def __init__(self, change=lambda images: images):
        self.change = change

    def encode(self, images):
        return [image.tobytes() for image in self.change(images)]

    def decode(self, data, shape):
        return np.stack([np.frombuffer(one, np.uint8).reshape(shape) for one in data])


def striped(count=400):
    """Images, labels (1 vertical stripes) and groups (by contrast), all balanced."""
    numbers = np.arange(count)
    contrast, label = np.where(numbers % 2, 40, 5), numbers // 2 % 2
    sign = np.where(np.arange(SIDE) % 2, 1, -1)
    shape = 3, SIDE, SIDE
    pictures = [np.broadcast_to(sign if is_vertical else sign[:, None], shape) for is_vertical in label]
    images = (128 + contrast[:, None, None, None] * np.stack(pictures)).astype(np.uint8)
    return images, label, np.where(numbers % 2, "high", "low")


@pytest.fixture
def truth():
    images, label, group = striped()
    return SimpleNamespace(
        images=images,
        label=label,
        group=group,
        data={"target": label, "classes": [0, 1]},
        direction=direction,
        flattened=flattened,
        transposed=transposed,
        table=TableClassifier,
        pattern=pattern,
        raw=RawCodec,
        striped=striped,
    )
