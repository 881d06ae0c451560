"""Spuriosity rankings: the order is that of the evidence; the gap and its interval, worked out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from captum_region import RegionAttribution, RegionGrid
from fairlearn_bridge import rank_by_evidence, ranking_gap


def brightness(patches, region):
    bright = 8 * (patches.mean((1, 2, 3)) - 0.5)
    return torch.stack([-bright, bright], 1)


ATTRIBUTION = RegionAttribution(brightness, grid=RegionGrid(8, 4, 4))


def test_images_are_ranked_within_their_classes():
    level = np.random.default_rng(0).permutation(20) / 20
    X = np.broadcast_to(level[:, None, None, None], (20, 3, 8, 8)).astype(np.float32)
    y = np.array(["b", "a"] * 10)
    ranking = rank_by_evidence(ATTRIBUTION, X, within=y)
    for name, of_class in ranking.groupby("class"):
        members = np.flatnonzero(y == name)
        assert of_class["image"].tolist() == members[np.argsort(-level[members])].tolist()
        assert of_class["rank"].tolist() == list(range(10))
    # A region's evidence is 2 p - 1 = tanh(8 (level - 0.5)).
    np.testing.assert_allclose(ranking["evidence"], np.tanh(8 * (level[ranking["image"]] - 0.5)), atol=1e-5)
    other = rank_by_evidence(ATTRIBUTION, X, within=y, target=0)
    assert other.loc[other["class"] == "a", "image"].tolist() == ranking.loc[:9, "image"].tolist()[::-1]


def test_the_gap_is_of_both_ends_with_newcombes_interval():
    # 9 of 10 against 3 of 10: 0.6, from 0.1705 to 0.8090 (Newcombe 1998, method 10).
    ranking = pd.DataFrame({"image": np.arange(20), "class": "a", "rank": np.arange(20)})
    right = np.r_[np.arange(10) < 9, np.arange(10) < 3]
    shuffled = ranking.sample(frac=1, random_state=0)
    np.testing.assert_allclose(ranking_gap(shuffled, right, share=0.5), [0.9, 0.3, 0.6, 0.1705, 0.8090], atol=1e-4)
    # Of each class a quarter at each end: the first 2 of 10 and the last 2.
    classes = ranking.assign(**{"class": np.repeat(["a", "b"], 10), "rank": np.tile(np.arange(10), 2)})
    assert ranking_gap(classes, right)[:3] == (1.0, 0.25, 0.75)


def test_what_does_not_fit_is_named():
    ranking = pd.DataFrame({"image": [0, 1], "class": ["a", "a"], "rank": [0, 1]})
    for options, words in (({"share": 0}, "share must be above 0"), ({"share": 0.6}, r"\[0, 0.5\], got 0.6")):
        with pytest.raises(ValueError, match=words):
            ranking_gap(ranking, [True, False], **options)
    with pytest.raises(ValueError, match="is_right must hold a bool for each image"):
        ranking_gap(ranking, [1, 0])
    with pytest.raises(ValueError, match="two images of a class"):
        ranking_gap(ranking.assign(**{"class": ["a", "b"]}), [True, False])
