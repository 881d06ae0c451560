"""The arms of a run: what each trains."""

import pytest

from fairlearn_bridge import AttributionNoiseMitigator, GroupDRO, ImageClassifier
from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.experiment.configuration import ExperimentConfig


def test_a_scheme_can_train_another_mitigator():
    config = ExperimentConfig("Male", "Blond_Hair", schemes=("specific_transplant+group_dro",), others=(), epochs=3)
    arms = build_arms(config, None)
    composed = [f"specific_transplant{at}+group_dro" for at in ("@elsewhere", "@random", "")]
    assert list(arms) == ["original", "balanced", "threshold shifted", *composed]
    for name, control in zip(composed, ("elsewhere", "random", None), strict=True):
        mitigator = arms[name].estimator
        assert isinstance(mitigator, AttributionNoiseMitigator)
        assert (mitigator.scheme, mitigator.control) == ("specific_transplant", control)
        assert isinstance(mitigator.estimator, GroupDRO)
        assert isinstance(mitigator.estimator.estimator, ImageClassifier)
        assert mitigator.estimator.estimator.max_epochs == 3
        assert arms[name].description.endswith("Minimises the loss of the worst group (GroupDRO).")


def test_what_cannot_be_trained_with_a_scheme_is_named():
    with pytest.raises(ValueError, match=r"\+reweighing, .*, got 'general_noise\+masktune'"):
        ExperimentConfig("Male", "Blond_Hair", schemes=("general_noise+masktune",))
