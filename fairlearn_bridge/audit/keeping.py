"""The outcomes of degradations, each kept in a file, from which a stopped audit resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from captum_region.io.snapshot import Snapshots
from fairlearn_bridge.audit.prediction import network_of
from fairlearn_bridge.audit.result import Outcome

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from captum_region.randomness import RandomState
    from fairlearn_bridge.audit.degradations import Case
    from fairlearn_bridge.audit.inputs import Training

# Parameters of a classifier that do not decide what it learns.
_BESIDES = ("checkpoint_dir", "verbose")


def kept_outcome(
    folder: str | os.PathLike[str] | None,
    random_state: RandomState,
    shared: Callable[[], str],
    case: Case,
    compute: Callable[[], Outcome],
) -> tuple[Outcome, bool]:
    """Return the outcome of a degradation and whether it was read from a folder; what is computed is kept in it.

    Parameters
    ----------
    folder : path or None
        None keeps nothing.
    random_state : int, NumPy generator or None
        The user's.
    shared : callable
        Returns a digest of what decides all outcomes, besides the degradation.
    case : Case
    compute : callable

    Raises
    ------
    ValueError
        If there is a folder and no `random_state`, a degradation does not pickle, or a file is damaged.
    """
    snapshots = Snapshots(
        folder, random_state, lambda: (shared(), case.name, case.degradation, case.severity, case.what)
    )
    state = snapshots.load()
    if state is not None:
        with snapshots.restoring():
            arrays: dict[str, Any] = {
                name: value.numpy() if isinstance(value, Tensor) else value for name, value in state.items()
            }
            return Outcome(**arrays), True
    found = compute()
    snapshots.save(lambda: vars(found))
    return found, False


def weights_of(classifier: Any) -> Any:
    """Return the weights of the network inside a classifier, or None: its predictions identify it then."""
    try:
        return network_of(classifier).state_dict()
    except TypeError:
        return None


def retraining_of(classifier: Any, fresh: Training | None) -> Any:
    """Return what decides the training of a classifier anew."""
    if fresh is None:
        return None
    given = (
        classifier.get_params(deep=False) if hasattr(classifier, "get_params") else getattr(classifier, "__dict__", {})
    )
    parameters = {name: value for name, value in given.items() if name not in _BESIDES}
    return type(classifier), parameters, fresh.images, fresh.target, fresh.confounder
