"""compare_first_layers: the same training from several first layers, and how each network treats its slices."""

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from captum.attr import Saliency
from joblib import Parallel, delayed

from captum_region.evaluation import device_of
from captum_region.first_layer import channel_normalization
from captum_region.io.digest import digest
from captum_region.io.files import remove_states
from captum_region.io.provenance import joined
from captum_region.io.snapshot import Snapshots, table_of
from captum_region.progress import progress_bar
from captum_region.randomness import draw_seed
from captum_region.segmentation import fit_segmentation, segmentation_scores
from captum_region.segmentation.training import identity_of
from captum_region.slices.arms import Arm, Change, Network, arms_of, check_arms, network_of
from captum_region.slices.measures import Example, How, Method, attention, example, windows_of
from captum_region.slices.results import FirstLayerComparison
from captum_region.stacks import SliceWindows, Stack
from captum_region.validation import check_count


def compare_first_layers(
    train: Stack | Sequence[Stack],
    validation: Stack | Sequence[Stack],
    test: Stack | Sequence[Stack],
    *,
    network: Network,
    arms: Sequence[str] | Mapping[str, str | Change] = ("pretrained", "swapped", "random", "uniform", "reflect"),
    seeds: int | Sequence[int] = 3,
    window: int = 3,
    border: str = "drop",
    attribution: Method = Saliency,
    class_index: int = 1,
    region: str = "prediction",
    steps: int = 4000,
    evaluate_every: int = 100,
    patience: int = 8,
    batch_size: int = 8,
    patch_size: int = 128,
    lr: float = 1e-3,
    n_jobs: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    mixed_precision: str = "no",
    show_progress: bool = False,
) -> FirstLayerComparison:
    """Train a segmentation network from several first layers, and measure how each treats its slices.

    Parameters
    ----------
    train, validation, test : Stack, or a sequence of them
        Parts of stacks with labels, such as ``stack[:18]``, ``stack[19:24]`` and ``stack[25:]``. Windows are made
        within each part, so that parts share no slice. All measures but the history are those of `test`.
    network : nn.Module, or callable seed -> nn.Module
        What all arms start from: a pretrained network, which is copied, or what makes one, such as
        ``lambda seed: segmentation_network(weights="efficientnet-lite0", random_state=seed)``, so that the seed also
        decides the decoder. Its first layer takes three slices, or as many as `window`; if it has another width it is
        widened, see `captum_region.first_layer.neutralize_first_layer`. A callable must pickle if `n_jobs` is above 1.
    arms : sequence of names, or mapping of name to name or callable, default=("pretrained", "swapped", ...)
        The first is what the others are compared with. `captum_region.slices.arms.ARMS` describes the names:

        - "pretrained": the network as it is given; "swapped": R and B swapped, the control that shows whether an
          asymmetry is due to the weights (its sign turns) or to the data (it stays);
        - "random", "uniform", "reflect", "green", "luma": as in `neutralize_first_layer`;
        - "uniform tied", "reflect tied": the symmetry is also kept in training;
        - "flipped": as "pretrained", with the slices of half of the training patches in reverse order;
        - "unchanged": the network as given, if its weights are random. Arms of colours, such as "pretrained", are then
          refused.

        A callable gets a copy of the network, and returns one for `window` slices.
    seeds : int or sequence of int, default=3
        How many, from 0 on, or which. A seed decides the patches and, through `network`, the weights that are not
        pretrained, and is the same in all arms: differences are paired.
    window : int, default=3
        Slices in a window, odd and at least 3.
    border : {"drop", "reflect"}, default="drop"
        As in `captum_region.stacks.SliceWindows`. Mirrored windows are symmetric, which hides an asymmetry.
    attribution : callable, default=captum.attr.Saliency
        Evidence (see `captum_region.channels.segmentation_evidence`) -> Captum attribution, with values by channel.
    class_index : int, default=1
        The class whose evidence is attributed.
    region : {"prediction", "label"}, default="prediction"
        Where, after training; before it, always over the pixels of the label. Windows without such pixels are left
        out; if that is all, the shares are NaN.
    steps, evaluate_every, patience, batch_size, patch_size, lr, mixed_precision
        Of the training, see `captum_region.segmentation.fit_segmentation`.
    n_jobs : int, optional
        Trainings at a time, in processes of joblib; the results are the same.
    checkpoint_dir : path, optional
        A folder for results and the states of unfinished trainings. A comparison that was stopped resumes when it is
        called again with the same arguments. More seeds or arms cost only what is new.
    device : str or torch.device, optional
        Where to compute; by default where the network is.
    show_progress : bool, default=False
        Progress bars on stderr.

    Returns
    -------
    FirstLayerComparison

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.
    FloatingPointError
        If a training diverges.
    ChildProcessError
        If the process of a training was killed.

    Warns
    -----
    UserWarning
        If the network normalises its input differently by channel: a second source of asymmetry, in all arms.

    See Also
    --------
    inspect_slices : For a trained network.

    References
    ----------
    Molnar, Szabo, Horvath, "Unintended Bias in 2D+ Image Segmentation and Its Effect on Attention Asymmetry", arXiv
    2505.14105.

    Examples
    --------
    >>> from captum_region.segmentation import SmallUNet
    >>> from captum_region.stacks import make_stack
    >>> stack = make_stack("previous", slices=12, size=16, random_state=0)
    >>> found = compare_first_layers(
    ...     stack[:6], stack[6:9], stack[9:], network=SmallUNet(width=2, depth=1), arms=["uniform", "uniform tied"],
    ...     seeds=2, steps=2, batch_size=2, patch_size=16,
    ... )
    >>> found.runs[["arm", "seed"]].to_numpy().tolist()
    [['uniform', 0], ['uniform tied', 0], ['uniform', 1], ['uniform tied', 1]]
    """
    chosen, drawn = arms_of(arms), _seeds(seeds)
    check_window(window)
    window = int(window)
    if region not in ("prediction", "label"):
        raise ValueError(f'region must be "prediction" or "label", got {region!r}')
    parts = {"train": train, "validation": validation, "test": test}
    data = {name: windows_of(stacks, window, border, name) for name, stacks in parts.items()}
    check_arms(chosen, network, drawn[0], window, patch_size)
    normalization = channel_normalization(network_of(network, drawn[0]))
    if normalization:
        constants = ", ".join(f"{name} = {values}" for name, values in normalization.items())
        text = f"network normalises its input differently by channel, which makes all arms asymmetric: {constants}"
        warnings.warn(text, UserWarning, stacklevel=2)
    training = {
        **{"steps": steps, "evaluate_every": evaluate_every, "patience": patience, "batch_size": batch_size},
        **{"patch_size": patch_size, "lr": lr, "mixed_precision": mixed_precision},
    }
    how = How(attribution, class_index, region)
    options = {"window": window, "device": device, "training": training, "how": how, "folder": checkpoint_dir}
    alone = n_jobs in (None, 1)
    jobs = [
        delayed(_run)(name, arm, seed, network, data, show_progress=show_progress and alone, **options)
        for seed in drawn
        for name, arm in chosen.items()
    ]
    done = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    bar: dict[str, Any] = {"total": len(jobs), "desc": "first layers", "unit": "training", "disable": not show_progress}
    try:
        found = list(progress_bar(done, **bar))
    except BrokenProcessPool as error:
        raise ChildProcessError(f"the process of a training was killed, perhaps for lack of memory: {error}") from error
    settings = {
        **{"window": window, "border": border, "seeds": drawn, "class": class_index, "region": region},
        **{"attribution": getattr(attribution, "__name__", type(attribution).__name__), **training},
        **{name: {each.stack.name: len(each.stack) for each in windows} for name, windows in data.items()},
        "normalization": {name: list(values) for name, values in normalization.items()},
    }
    return _collected(found, chosen, settings)


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        return list(range(check_count("seeds", seeds)))
    is_several = isinstance(seeds, Sequence | np.ndarray) and not isinstance(seeds, str)
    found = [draw_seed(seed) for seed in seeds] if is_several else []
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be a number, or integers, each once, got {seeds!r}")
    return found


def check_window(window: int) -> None:
    """Raise ValueError if a window has no slice in its middle, or no slice beside it."""
    if isinstance(window, bool) or not isinstance(window, int | np.integer) or window < 3 or window % 2 == 0:
        raise ValueError(f"window must be an odd integer of at least 3, got {window!r}")


def _run(
    name: str,
    arm: Arm,
    seed: int,
    network: Network,
    data: Mapping[str, list[SliceWindows]],
    *,
    window: int,
    device: str | torch.device | None,
    training: dict[str, Any],
    how: How,
    folder: str | os.PathLike[str] | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Train and measure one arm with one seed, or read what was kept of it."""
    model = arm.applied(network_of(network, seed), window, seed)
    kept = Snapshots(
        folder, seed, lambda: (identity_of(model), arm.flip_z, seed, training, digest(how), _digests(data))
    )
    states = None if kept.path is None else kept.path.with_suffix("")
    found = kept.load()
    if found is None:
        model.to(device_of(model) if device is None else device)
        before = attention(model, data["test"], replace(how, region="label"))  # it cannot predict yet
        picked = {"random_state": seed, "flip_z": arm.flip_z, "checkpoint_dir": states, **training}
        result = fit_segmentation(model, data["train"], data["validation"], show_progress=show_progress, **picked)
        found = {
            "before": before,
            "after": attention(model, data["test"], how),
            "scores": segmentation_scores(
                model, data["test"], batch_size=how.batch_size, mixed_precision=training["mixed_precision"]
            ),
            "history": result.history,
            "training": {"best_step": result.best_step, "converged": result.converged},
            "example": vars(example(model, data["test"][0], how)),
        }
        kept.save(lambda: found)
    else:
        with kept.restoring():
            found = found | {part: table_of(found[part]) for part in ("scores", "history")}
            found["example"] = {part: values.numpy() for part, values in found["example"].items()}
    if states is not None:
        remove_states(states)
    return {"arm": name, "seed": seed, "git": kept.git, **found}


def _digests(data: Mapping[str, list[SliceWindows]]) -> dict[str, list[tuple[str, str]]]:
    return {name: [(each.stack.name, each.digest()) for each in windows] for name, windows in data.items()}


def _collected(found: list[dict[str, Any]], arms: Mapping[str, Arm], settings: dict[str, Any]) -> FirstLayerComparison:
    runs = []
    for run in found:
        scores = run["scores"].loc[run["scores"]["class"] > 0, ["dice", "iou", "auc"]].mean()
        row = {"arm": run["arm"], "seed": run["seed"], **scores.to_dict()}
        for stage in ("before", "after"):
            row |= {f"{name}_{stage}": value for name, value in run[stage].items()}
        runs.append(row | {"steps": int(run["history"]["step"].iloc[-1]), **run["training"]})

    def of_all(part: str) -> pd.DataFrame:
        tables = [run[part].assign(arm=run["arm"], seed=run["seed"]) for run in found]
        joint: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return joint[["arm", "seed", *joint.columns.drop(["arm", "seed"])]]

    examples: dict[str, Example] = {}
    for run in found:
        examples.setdefault(run["arm"], Example(**run["example"]))
    return FirstLayerComparison(
        pd.DataFrame(runs),
        of_all("scores"),
        of_all("history"),
        {name: arm.description for name, arm in arms.items()},
        examples,
        settings,
        joined(run["git"] for run in found),
    )
