"""A mitigation's trainings: the region classifier, the ERM baseline, the mitigated classifier and others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fairlearn_bridge.arms import build_arms
from fairlearn_bridge.experiment.training import Trained, train_arms
from fairlearn_bridge.mitigation.data import MitigationData, samples_of, twins_of
from fairlearn_bridge.samples import Samples

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from fairlearn_bridge.arms import Arm
    from fairlearn_bridge.mitigation.configuration import MitigationConfig

BASELINE_IS = "The ERM baseline: trained on the same images without mitigation."


def train(
    config: MitigationConfig,
    data: MitigationData,
    model: Path,
    states: Path | None,
    seconds: dict[str, float],
    quiet: bool,
) -> Trained:
    """Train everything and predict the images that were not trained on; `model` gets the mitigated classifier.

    The predictions have a column ``set``: ``validation``, ``test``, or ``twins of`` an attribute, the test images with
    it toggled; ``image`` is the position in the set.

    Raises
    ------
    ValueError
        If the ERM baseline or the mitigated classifier cannot be trained.
    """
    sets = {name: samples_of(config, images) for name, images in data.sets.items()}
    images = sets.pop("train")
    validation = sets["validation"]
    known = np.isin(validation.confounder, np.unique(images.confounder))
    sets |= {f"twins of {name}": samples_of(config, twins) for name, twins in twins_of(config, data.test).items()}

    def arms_of(classifier: Any) -> dict[str, Arm]:
        every = build_arms(config.experiment, classifier)
        arms = {name: every[name] for name in ("original", config.scheme, *config.others)}
        return arms | {"original": arms["original"]._replace(description=BASELINE_IS)}

    trained = train_arms(
        config.experiment,
        images,
        Samples.joined(sets.values()),
        arms_of,
        validation=(validation.X[known], validation.confounder[known]) if known.any() else None,
        states=states,
        seconds=seconds,
        quiet=quiet,
        fit_params={},
        models={config.scheme: model},
    )
    arms = dict(trained.arms)
    for row in trained.trainings.to_dict("records"):
        if row["chosen"]:  # where there was a choice
            arm = arms[row["mitigator"]]
            arms[row["mitigator"]] = arm._replace(description=f"{arm.description} Chosen: {row['chosen']}.")
        if row["mitigator"] in ("original", config.scheme) and row["status"] != "done":
            raise ValueError(f"{row['mitigator']} could not be trained: {row['reason']}")
    sizes = [len(one.X) for one in sets.values()]
    at = trained.predictions["image"]
    position = np.concatenate([np.arange(size) for size in sizes])[at]
    predictions = trained.predictions.assign(set=np.repeat(list(sets), sizes)[at], image=position)
    return replace(trained, arms=arms, predictions=predictions)
