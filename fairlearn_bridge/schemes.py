"""The names of the schemes, and what they stand for; importing this takes no time."""

from __future__ import annotations

from typing import Any

REACHES = ("general", "specific")
PERTURBATIONS = ("mask", "noise", "transplant")
CONTROLS = ("elsewhere", "random")
SCHEMES = tuple(f"{reach}_{perturbation}" for reach in REACHES for perturbation in PERTURBATIONS)
# The other mitigators, by their names in the catalogue, that can train with a scheme's perturbation.
WITHIN = ("reweighing", "resampling", "group_dro", "jtt", "lff")
AT_PREDICT = ("general_mask", "general_noise")  # the schemes that can be applied in prediction also


def check_scheme(scheme: str) -> None:
    """Raise ValueError if there is no such scheme."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")


def scheme_parameters(text: str) -> dict[str, Any]:
    """Return the parameters of `AttributionNoiseMitigator` that a scheme, with what follows its @, stands for.

    After a +, the name of the mitigator to train with the perturbation, of `WITHIN`, which is checked alone.

    Raises
    ------
    ValueError
        If there is no such scheme, or what follows @ or + is unknown or does not go with it.

    Examples
    --------
    >>> scheme_parameters("general_mask@predict")
    {'scheme': 'general_mask', 'apply_at_predict': True}
    >>> scheme_parameters("general_transplant@random")
    {'scheme': 'general_transplant', 'control': 'random'}
    >>> scheme_parameters("general_transplant@auto")
    {'scheme': 'general_transplant', 'quantile': 'auto'}
    >>> scheme_parameters("specific_transplant+group_dro")
    {'scheme': 'specific_transplant'}
    """
    text, plus, other = text.partition("+")
    if plus and other not in WITHIN:
        raise ValueError(f"schemes may end in +{', +'.join(WITHIN)}, got {text + plus + other!r}")
    if text == "auto":
        return {"scheme": "auto", "quantile": "auto"}
    scheme, at, suffix = text.partition("@")
    check_scheme(scheme)
    known: dict[str, dict[str, Any]] = {"": {}, "@auto": {"quantile": "auto"}}
    known |= {f"@{control}": {"control": control} for control in CONTROLS}
    if scheme in AT_PREDICT and other != "jtt":  # it predicts its training images as they are
        known["@predict"] = {"apply_at_predict": True}
    if at + suffix not in known:
        raise ValueError(
            f"schemes may end in @auto, @{', @'.join(CONTROLS)}, and {' and '.join(AT_PREDICT)} in @predict, "
            f"got {text!r}"
        )
    return {"scheme": scheme} | known[at + suffix]


def is_automatic(scheme: str) -> bool:
    """Return whether a scheme's quantile, or both, are chosen in training."""
    return "quantile" in scheme_parameters(scheme)
