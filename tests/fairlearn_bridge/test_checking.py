import json
from dataclasses import asdict, replace

import pytest

from captum_region.datasets import make_faces
from fairlearn_bridge.checking import nearly_equal, settings_and_images
from fairlearn_bridge.experiment import ExperimentConfig
from fairlearn_bridge.samples import fingerprints


def test_settings_are_compared_exactly_and_images_by_their_content():
    config, faces = ExperimentConfig("Male", "Blond_Hair"), make_faces(6, 16, random_state=0)
    results = {"config": json.loads(json.dumps(asdict(config))), "data": fingerprints({"train": faces, "test": faces})}
    now = replace(config, quantile=config.quantile + 1e-4, lr=1.0001 * config.lr, device="cuda", n_jobs=2)
    changed = replace(faces, images=faces.images ^ 1)
    rows = settings_and_images(now, {"train": faces, "test": changed}, results)
    assert {row["what"] for row in rows if not row["equal"]} == {"setting lr", "setting quantile", "test images"}
    assert {"setting target", "train images"} <= {row["what"] for row in rows}
    assert not {"setting device", "setting n_jobs"} & {row["what"] for row in rows}


@pytest.mark.parametrize(("now", "equal"), [(0.5004, True), (0.501, False)])
def test_losses_are_compared_as_far_as_rounding_goes(now, equal):
    assert nearly_equal("loss", 0.5, now) == {"what": "loss", "then": 0.5, "now": now, "equal": equal}
