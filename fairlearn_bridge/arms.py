"""The arms of an experiment: references, controls, published mitigators, and the schemes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import fairlearn_bridge
from fairlearn_bridge.catalogue import OTHERS
from fairlearn_bridge.regions import number_of
from fairlearn_bridge.schemes import CONTROLS, is_automatic, scheme_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fairlearn_bridge.experiment.configuration import ExperimentConfig


class Arm(NamedTuple):
    """What is trained and compared.

    Attributes
    ----------
    estimator : estimator
    kind : {"reference", "control", "mitigator", "scheme"}
    description : str
        A sentence or two for the report.
    on_original : bool
        Whether it leaves the training of the network as it is, and gets the fitted ERM baseline as its estimator.
    """

    estimator: Any
    kind: str
    description: str
    on_original: bool = False


def build_arms(config: ExperimentConfig, classifier: Any, quantiles: Sequence[float] | None = None) -> dict[str, Arm]:
    """Return the arms by name.

    With `quantiles` there is each scheme at each of them, named by both, as ``"general_noise 0.7"``; without, each at
    the configuration's, with the first scheme's controls before.
    """
    base = fairlearn_bridge.ImageClassifier(
        max_epochs=config.epochs, batch_size=config.batch_size, lr=config.lr, device=config.device
    )
    base.set_params(**config.network)
    names: Any = getattr(classifier, "class_names", None) or ()
    value = number_of(config.confounder, names)
    arms = {
        "original": Arm(base, "reference", "The ERM baseline: trained on the biased set without mitigation."),
        "balanced": Arm(base, "reference", "Trained on a balanced set of equal size: the data without the bias."),
        "threshold shifted": Arm(
            fairlearn_bridge.ThresholdShift(base),
            "control",
            "The ERM baseline with its threshold moved until both classes of the balanced validation set are "
            "recognised equally well.",
            on_original=True,
        ),
    }
    for name in config.others:
        other = OTHERS[name]
        made = other.make(base, classifier, value)
        # Of several groups, the one that it goes by.
        shown = names[value] if "value" in made.get_params(deep=False) and len(names) > 2 else config.confounder
        sentence = other.sentence.format(target=config.target, confounder=shown)
        arms[name] = Arm(made, "mitigator", sentence, other.on_original)
    schemes = config.schemes
    if quantiles is None and "@" not in schemes[0] and not is_automatic(schemes[0]):
        first, plus, rest = schemes[0].partition("+")
        schemes = (*(f"{first}@{control}{plus}{rest}" for control in CONTROLS), *schemes)
    for scheme in schemes:
        parameters, within = scheme_parameters(scheme), OTHERS.get(scheme.partition("+")[2])
        trained = within.make(base) if within else base
        also = within.sentence.format(target=config.target, confounder=config.confounder) if within else ""
        of_scheme = [parameters["quantile"]] if is_automatic(scheme) else quantiles or [config.quantile]
        for quantile in of_scheme:
            mitigator = fairlearn_bridge.AttributionNoiseMitigator(
                trained, region_classifier=classifier, noise_std=config.noise_std
            )
            mitigator.set_params(**{"quantile": quantile} | parameters)
            arms[f"{scheme} {quantile:g}" if quantiles and not is_automatic(scheme) else scheme] = Arm(
                mitigator,
                "control" if "control" in parameters else "scheme",
                " ".join([_describe(parameters, quantile, config.confounder), also]).rstrip(),
            )
    return arms


def _describe(parameters: Mapping[str, Any], quantile: float | str, confounder: str) -> str:
    best = "the best bias-conflicting AUC, as estimated from held-out training images"
    if parameters["scheme"] == "auto":
        return f"The perturbation and the share of pixels with {best}."
    chosen = f"pixels, as many as gave {best},"
    share = chosen if isinstance(quantile, str) else f"{100 * (1 - quantile):.0f} % of pixels"
    reach, kind = parameters["scheme"].split("_")
    done = {
        "mask": "greyed out in training",
        "noise": "overlaid with noise in training",
        "transplant": "replaced by those of another image, the donor, in half of the training images, so that "
        f"{confounder} is equally frequent in every class",
    }[kind]
    over = "on average over the images" if reach == "general" else "in each image"
    if (reach, kind) == ("specific", "transplant"):
        over = "in each image or in its donor"
    which = f"The {share} that tell most about {confounder} {over}"
    if "control" in parameters:
        which = {"elsewhere": f"{which}, moved elsewhere,", "random": f"As many pixels anywhere ({share})"}[
            parameters["control"]
        ]
    return f"{which} are {done}{' and in prediction' if 'apply_at_predict' in parameters else ''}."
