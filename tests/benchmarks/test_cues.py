"""Two cues for one attribute."""

import pytest
from cues import CUES, study_cues


@pytest.mark.slow
def test_the_table_has_a_column_for_each_cue():
    study = study_cues(size=16, images=40, epochs=1, region_epochs=1)
    assert list(study.table.columns) == ["map", *CUES, "accuracy"]
    assert study.table[list(CUES)].stack().between(0, 1).all()
    assert study.table["accuracy"].notna().sum() == 4
    for cue in CUES:
        assert study.faces.binary(cue).all()
        assert study.truth[cue].shape == study.maps["RegionAttribution"].shape
