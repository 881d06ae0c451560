"""Pruning: how many and which weights, batch statistics, and the original left alone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from captum_region.datasets import make_faces
from fairlearn_bridge import ImageClassifier, Reweighing
from fairlearn_bridge.audit import Pruning, audit
from fairlearn_bridge.audit.prediction import network_of

WEIGHTED = nn.Conv2d, nn.Linear


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2), nn.Dropout())


def weights(network):
    return torch.cat([part.weight.detach().flatten() for part in network.modules() if isinstance(part, WEIGHTED)])


def test_the_smallest_weights_of_the_whole_network_become_zero(network):
    before = weights(network).clone()
    pruned = Pruning([0.75], reestimate_on=None).changed(network, 0.75)
    after = weights(pruned)
    count = round(0.75 * len(before))
    assert (after == 0).sum() == count
    assert set(torch.where(after == 0)[0].tolist()) == set(before.abs().argsort()[:count].tolist())
    assert torch.equal(after[after != 0], before[after != 0])
    assert torch.equal(weights(network), before)
    assert not prune.is_pruned(pruned)
    assert "weight" in dict(pruned[0].named_parameters())
    assert torch.equal(pruned[0].bias, network[0].bias)


def test_no_pruning_changes_nothing(network):
    images = make_faces(80, 16, random_state=0).images[..., ::2, ::2]
    with pytest.warns(UserWarning, match="fewer than 200"):
        found = audit(
            Pruning([0.0, 0.9], reestimate_on=None),
            network,
            images,
            np.arange(80) % 2,
            target=np.arange(80) // 2 % 2,
            classes=[0, 1],
            n_bootstrap=50,
            n_permutations=50,
        )
    groups = found.to_frame()
    assert (groups.loc["pruning 0", ["drop", "loss_increase", "flips"]] == 0).all(axis=None)
    flips = (found.outcomes["pruning 0.9"].predicted != found.original.predicted)[1::2].mean()
    assert groups.loc[("pruning 0.9", 1), "flips"] == flips > 0


def test_batch_statistics_are_estimated_anew_if_wished(network):
    images = torch.rand(600, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network.train()
    kept = Pruning([0.5], reestimate_on=None).changed(network, 0.5)
    anew = Pruning([0.5], reestimate_on=images)
    pruned = anew.changed(network, 0.5)
    assert torch.equal(kept[1].running_mean, network[1].running_mean)
    with torch.no_grad():
        features = pruned[0](images)
    torch.testing.assert_close(pruned[1].running_mean, features.mean((0, 2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(pruned[1].running_var, features.var((0, 2, 3)), atol=1e-3, rtol=0)
    assert pruned[1].momentum == network[1].momentum
    assert pruned.training
    assert anew.name == "pruning, batch statistics anew"
    with pytest.raises(ValueError, match="reestimate_on must be None for a classifier without batch normalisation"):
        anew.changed(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 0.5)


def test_estimators_and_mitigators_are_pruned_inside():
    faces = make_faces(60, 16, random_state=0)
    target, group = faces.labels("Smiling"), faces.labels("Male")
    classifier = ImageClassifier(max_epochs=1, random_state=0).fit(faces.images, target)
    mitigator = Reweighing(classifier).fit(faces.images, target, sensitive_features=group)
    for estimator in (classifier, mitigator):
        before = weights(network_of(estimator)).clone()
        pruned = Pruning([0.9], reestimate_on=faces).changed(estimator, 0.9)
        assert (weights(network_of(pruned)) == 0).float().mean() == pytest.approx(0.9, abs=1e-3)
        assert torch.equal(weights(network_of(estimator)), before)
        assert not np.allclose(pruned.predict_proba(faces.images), estimator.predict_proba(faces.images))


def test_what_cannot_be_pruned_is_named(network):
    pruning = Pruning([0.5], reestimate_on=None)
    with pytest.raises(TypeError, match=r"classifier must be an nn\.Module or have one, .*; got function"):
        pruning.changed(weights, 0.5)
    with pytest.raises(ValueError, match="must have a convolution or linear layer to prune"):
        pruning.changed(nn.Flatten(), 0.5)
    prune.l1_unstructured(network[0], "weight", 0.5)
    with pytest.raises(ValueError, match="must not carry pruning masks"):
        pruning.changed(network, 0.5)
    for severities in ([1.5], [1], []):
        with pytest.raises(ValueError, match="severities must"):
            Pruning(severities, reestimate_on=None)
