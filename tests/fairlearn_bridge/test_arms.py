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


def test_descriptions_say_where_pixels_change():
    config = ExperimentConfig(
        "Male", "Hat", schemes=("specific_transplant", "specific_transplant@elsewhere", "general_mask"), quantile=0.5
    )
    described = {name: arm.description for name, arm in build_arms(config, None).items()}
    assert described["specific_transplant"].startswith(
        "The 50 % of pixels that tell most about Hat in each image or in its donor are replaced by those of"
    )
    assert " in its donor, moved elsewhere, are replaced" in described["specific_transplant@elsewhere"]
    assert "Hat on average over the images are greyed out in training" in described["general_mask"]
