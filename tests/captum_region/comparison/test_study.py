"""The study on synthetic faces, small: every method is measured in every way."""

import pytest

from captum_region.comparison.study import study_attribute


@pytest.mark.slow
def test_every_method_is_measured_in_every_way():
    small = {"size": 16, "train": 60, "test": 24, "epochs": 1, "region_epochs": 1}
    study = study_attribute("Blond_Hair", seed=1, retrain=True, **small)
    names = set(study.comparison.maps)
    assert {"LayerGradCam", "RegionAttribution", "random"} <= names
    assert set(study.model.index) == names
    assert ((study.model >= 0) & (study.model <= 1)).all(axis=None)
    assert set(study.left.index) == names | {"nothing masked"}
    assert study.left["information_left"].between(0, 1).all()
    assert study.truth.shape == study.faces.images[:, 0].shape
    assert study.faces.binary("Blond_Hair").all()
    assert 0 <= study.accuracy <= 1
    again = study_attribute("Blond_Hair", seed=1, retrain=False, **small)
    assert again.left.empty
    assert again.comparison.scores.equals(study.comparison.scores)
