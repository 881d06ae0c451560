"""fit_region_classifier: train a region classifier on random regions, plainly or within the classes of a target."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor
from torch.nn import functional as F

from captum_region.batches import batches, check_images, check_weights, take
from captum_region.checkpoint import classifier_digest
from captum_region.classifiers import Recipe, RegionClassifier
from captum_region.datasets.conversion import from_dataset, is_dataset
from captum_region.datasets.images import AttributeImages
from captum_region.distributed import Processes, autocast, check_mixed_precision, joint_batch_norm
from captum_region.html import plot_tag
from captum_region.labels import check_classes
from captum_region.plotting import plot_history
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.snapshot import Snapshots, random_states, set_random_states

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from accelerate import Accelerator
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData, ImageSource


@dataclass(frozen=True)
class RegionTraining:
    """What `fit_region_classifier` did.

    Attributes
    ----------
    history : DataFrame
        One row an epoch: ``epoch``, ``loss`` (mean cross-entropy in nats, with label smoothing), ``lr`` and, with
        validation data, ``valid_accuracy``: balanced accuracy on random regions, in [0, 1].
    region_accuracy : ndarray of shape (rows, cols), or None without validation data
        Balanced accuracy of each region on the validation images after the last epoch, in [0, 1].
    git : str or None
        The commit of this package that did it, with ``-dirty`` behind it where files differed from it; also where a
        training that was kept has been read. None where the package is installed and no checkout.
    """

    history: pd.DataFrame
    region_accuracy: NDArray[np.float64] | None
    git: str | None = None

    def _repr_html_(self) -> str:
        last = self.history.iloc[-1].drop("lr")
        words = ", ".join(f"{name} {value:.4g}" for name, value in last.items()).replace("_", " ")
        count = 1 if self.region_accuracy is None else 2
        return plot_tag(lambda axes: plot_history(self.history, axes=axes, title=words), words, count=count)


def within_class_weights(labels: ArrayLike, within: ArrayLike) -> NDArray[np.float64]:
    """Return sample weights that make `labels` independent of `within`, as far as the images allow.

    Only the classes of `within` in which `labels` takes several values count; there, each pair of class and value
    gets the same total weight. Where all classes count, `labels` then tells nothing of `within`; where one counts
    (only women are ever blond), it tells nothing because `within` is constant. Images of other classes weigh 0.

    Parameters
    ----------
    labels : array-like of shape (N,)
        The confounder.
    within : array-like of shape (N,)
        The target's labels.

    Returns
    -------
    ndarray of shape (N,)
        Weights of mean 1 over the images that count.

    Raises
    ------
    ValueError
        If in no class `labels` takes several values.

    Examples
    --------
    >>> within_class_weights(labels=[0, 0, 0, 1, 1], within=["man", "man", "woman", "woman", "woman"])
    array([0.  , 0.  , 1.5 , 0.75, 0.75])
    """
    pairs = pd.DataFrame({"label": np.asarray(labels), "within": np.asarray(within)})
    counts = (pairs.groupby("within")["label"].transform("nunique") > 1).to_numpy()
    if not counts.any():
        raise ValueError("within must have a class in which labels take several values; in each they take just one")
    weights = np.zeros(len(pairs))
    weights[counts] = compute_sample_weight("balanced", pairs[counts].groupby(["within", "label"]).ngroup())
    return weights


def fit_region_classifier(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike | None = None,
    *,
    within: ArrayLike | None = None,
    validation: tuple[ImageSource, ArrayLike | None] | None = None,
    sample_weight: str | ArrayLike | None = "balanced",
    epochs: int | None = None,
    batch_size: int | None = None,
    positions_per_image: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    label_smoothing: float = 0.1,
    random_state: RandomState = None,
    device: str | torch.device | None = None,
    mixed_precision: str = "no",
    accelerator: Accelerator | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> RegionTraining:
    """Train `classifier`, in place, to predict the label of an image from one of its regions.

    In each step `positions_per_image` random regions are cut out of each image of a batch, on the device; the images
    stay uint8 until then. What is None comes from ``classifier.recipe``: the paper's recipe (De Coninck et al. 2024,
    section 3.1) for `PatchRegionClassifier`, a fast one for `DenseRegionClassifier`. AdamW is the optimizer. The
    classifier is left in eval mode, its ``class_names`` set to the sorted labels.

    Parameters
    ----------
    classifier : RegionClassifier
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1]; a memory map is read batch by batch. Or with their labels: `AttributeImages`, or what
        `captum_region.datasets.from_dataset` reads (a torch Dataset or DataLoader, a Hugging Face dataset), which is
        then read into memory, resized to the classifier's image size.
    labels : array-like of shape (N,), or str
        As many different values as the classifier has classes; of any kind that sorts. Where the images have labels
        with them, the name of those to take, as in `AttributeImages.labels`; it may be left out where there is one.
    within : array-like of shape (N,), or str, optional
        A target's labels, or their name. The classifier is then trained within the target's classes, see
        `within_class_weights`, so that the map shows the attribute and not a target it goes along with.
    validation : (images, labels), optional
        As `images` and `labels`. Adds the validation accuracy, by epoch and by region. The latter takes a whole map of
        each image.
    sample_weight : "balanced", array-like of shape (N,) or None, default="balanced"
        How often an image is drawn: so that the classes are equal, in proportion to the weight given, or each once
        an epoch. `within` asks for "balanced".
    epochs, batch_size, positions_per_image : int, optional
        Passes over the images, images a step, regions an image and step.
    lr, weight_decay : float, optional
        Of AdamW.
    label_smoothing : float, default=0.1
        In [0, 1).
    random_state : int, NumPy generator or None
        Decides the draws of images and regions, and dropout. With the same initial weights, two runs are equal, in
        threads too: trainings in threads of one process take turns, those in processes run side by side.
    device : str or torch.device, optional
        Where to train; the classifier is moved there. By default where it is, or where the accelerator computes.
    mixed_precision : {"no", "bf16"}, default="no"
        "bf16" runs the network in bfloat16, and keeps weights and loss in float32.
    accelerator : accelerate.Accelerator, optional
        Of several processes, each of which calls this with the same arguments: they divide each batch, so that
        `batch_size` is that of all of them, and what they learn is what one process would, to rounding. Batch
        normalisation takes its statistics over the whole batch. Its mixed precision counts where it has one.
    checkpoint_dir : path, optional
        A folder to keep the state of the training in, every so many steps that it takes no more than 5 % of the time.
        A training that was stopped, by whatever, goes on from there when it is called again with the same arguments
        and initial weights, and ends with the same weights, bit for bit on one machine and with as many processes; one
        that was complete is read. With other versions of the packages, or other code of your own modules, it is another
        training. Each has its own file, three times the size of the weights, which runs nothing when it is read; only
        the main process needs it. Asks for a `random_state`.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    RegionTraining

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, named in the message.
    FloatingPointError
        If the loss stops being finite; lower `lr`.
    """
    if not isinstance(classifier, RegionClassifier):
        raise TypeError(f"classifier must be a RegionClassifier, got {type(classifier).__name__}")
    images, labels, within = _with_labels(classifier, images, labels, within, name="images")
    names, target = _encode(classifier, labels, len(images))
    probability = _draw_probability(labels, within, sample_weight, len(images))
    if validation is not None:
        valid_images, valid_target = _check_validation(classifier, validation, names)
    recipe = _with_overrides(classifier.recipe, batch_size, positions_per_image, lr, weight_decay)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
    mixed_precision = check_mixed_precision(mixed_precision, accelerator)
    processes = Processes(accelerator)
    if accelerator is not None:
        if device is not None:
            raise ValueError(f"device must be left out where accelerator is given, which has its own; got {device}")
        device = accelerator.device
    drawn = int((probability > 0).sum())
    steps_per_epoch = math.ceil(drawn / recipe.batch_size)
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / steps_per_epoch)) if epochs is None else epochs
    if not isinstance(epochs, int | np.integer):
        raise TypeError(f"epochs must be a whole number, got {epochs!r}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")

    classifier.class_names = [str(name) for name in names]
    own_seed = draw_seed(random_state)
    seed = processes.from_main(lambda: own_seed)
    classifier.to(device or classifier.device)
    processes.share_weights(classifier)
    snapshots = Snapshots(
        checkpoint_dir if processes.is_main else None,
        random_state,
        lambda: (
            (classifier_digest(classifier), _settings(classifier)),
            (asdict(recipe), epochs, label_smoothing, mixed_precision, seed),
            (images, target, probability),
            None if validation is None else (valid_images, valid_target),
        ),
    )
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = _schedule(optimizer, recipe, epochs, steps_per_epoch)
    generator = torch.Generator().manual_seed(seed)
    state = _State(classifier, optimizer, schedule, generator)
    steps = epochs * steps_per_epoch
    with (
        seeded(seed),
        joint_batch_norm(classifier, processes),
        progress_bar(total=steps, desc="region classifier", disable=not (show_progress and processes.is_main)) as bar,
    ):
        if (kept := processes.from_main(snapshots.load)) is not None:
            with snapshots.restoring():
                state.load_state_dict(kept)
                bar.update(len(state.history) * steps_per_epoch + math.ceil(state.done / recipe.batch_size))
        is_new = len(state.history) < epochs
        while len(state.history) < epochs:
            classifier.train()
            if not state.row:
                state.order, state.done = _draw_order(probability, generator), 0
                state.row = {"epoch": len(state.history) + 1, "loss": 0.0, "lr": schedule.get_last_lr()[0]}
            row = state.row
            for first in range(state.done, len(state.order), recipe.batch_size):
                index = state.order[first : first + recipe.batch_size]
                patches, region, expected = _random_patches(
                    classifier, images, target, index, recipe, generator, processes.share
                )
                if not processes.is_main:  # dropout of its own, and the same where a training goes on
                    torch.manual_seed(
                        draw_seed(np.random.default_rng((seed, processes.rank, row["epoch"], state.done)))
                    )
                optimizer.zero_grad()
                value = _backward(
                    classifier,
                    (patches, region, expected),
                    weight=len(index[processes.share]) / len(index),
                    label_smoothing=label_smoothing,
                    mixed_precision=mixed_precision,
                    processes=processes,
                )
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss became {value} in epoch {row['epoch']}; try a lower lr")
                optimizer.step()
                schedule.step()
                state.done += len(index)
                row["loss"] += value * len(index) / drawn
                bar.update()
                snapshots.save_sometimes(state.state_dict)
            classifier.eval()
            if validation is not None:
                with autocast(classifier.device, mixed_precision):
                    row["valid_accuracy"] = _random_region_accuracy(
                        classifier, valid_images, valid_target, recipe, generator, processes
                    )
            state.history.append(row)
            shown = {name: f"{value:.3g}" for name, value in row.items() if name != "epoch"}
            bar.set_postfix(shown, refresh=False)  # drawn with the next step: an epoch may be one
            state.row, state.done = {}, 0
        classifier.eval()
        if is_new:
            snapshots.save(state.state_dict)
        with autocast(classifier.device, mixed_precision):
            accuracy = (
                None
                if validation is None
                else region_accuracy(classifier, valid_images, valid_target, accelerator=accelerator)
            )
    return RegionTraining(pd.DataFrame(state.history), accuracy, snapshots.git)


def region_accuracy(
    classifier: RegionClassifier,
    images: ImageData,
    target: ArrayLike,
    *,
    batch_size: int = 16,
    accelerator: Accelerator | None = None,
) -> NDArray[np.float64]:
    """Return each region's balanced accuracy: the mean over the classes present of the share classified right.

    Parameters
    ----------
    classifier : RegionClassifier
    images : ndarray or Tensor, shape (N, C, height, width)
    target : array-like of int, shape (N,)
        Class numbers, as the logits are ordered.
    batch_size : int, default=16
        Images at a time.
    accelerator : accelerate.Accelerator, optional
        Of several processes, which divide the batches; each returns the accuracy on all images.

    Returns
    -------
    ndarray of shape (rows, cols)
        In [0, 1].
    """
    target, processes = np.asarray(target), Processes(accelerator)
    counts = torch.zeros(classifier.num_classes, *classifier.grid.shape, dtype=torch.long)
    with torch.inference_mode():
        for number, batch in islice(enumerate(batches(images, batch_size)), processes.rank, None, processes.count):
            expected = torch.as_tensor(target[number * batch_size :][: len(batch)])
            predicted = classifier.forward_grid(batch.to(classifier.device)).argmax(1).cpu()
            counts.index_add_(0, expected, (predicted == expected[:, None, None]).long())
        right = processes.sum(counts.to(classifier.device)).cpu().numpy()
    present = np.bincount(target, minlength=classifier.num_classes)
    accuracy: NDArray[np.float64] = (right[present > 0] / present[present > 0, None, None]).mean(0)
    return accuracy


@dataclass
class _State:
    """What a training that was stopped goes on from: the state of all that has one, and where it was."""

    classifier: RegionClassifier
    optimizer: torch.optim.Optimizer
    schedule: Any
    generator: torch.Generator
    history: list[dict[str, Any]] = field(default_factory=list)
    # Of the epoch under way: the images in their order, how many of them are done, the row of the history.
    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    done: int = 0
    row: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return {
            "classifier": self.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": (self.generator.get_state(), random_states()),
            "history": self.history,
            "epoch": (self.order, self.done, self.row),
        }

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        self.classifier.load_state_dict(kept["classifier"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.schedule.load_state_dict(kept["schedule"])
        self.generator.set_state(kept["random"][0])
        set_random_states(kept["random"][1])
        self.history, (self.order, self.done, self.row) = kept["history"], kept["epoch"]
        if not (isinstance(self.history, list) and isinstance(self.row, dict)):
            raise TypeError("its history is none")


def _settings(classifier: RegionClassifier) -> Any:
    """Return what decides a training besides `classifier_digest`: such as dropout, and what is frozen."""
    own = {name: value for name, value in vars(classifier).items() if not name.startswith("_")}
    return type(classifier), own, dict(classifier.named_children())


def _with_labels(
    classifier: RegionClassifier,
    images: ImageSource,
    labels: ArrayLike | None,
    within: ArrayLike | None,
    *,
    name: str,
) -> tuple[ImageData, Any, Any]:
    """Return the images, and the labels that are with them where these are given by name or left out."""
    size = classifier.grid.image_size
    if is_dataset(images):
        images = from_dataset(images, size=size)
    if isinstance(images, AttributeImages):
        if labels is None and images.attributes.shape[1] != 1:
            raise ValueError(f"labels must name one of the attributes of {name}, {[*images.attributes]}, got None")
        labels = images.labels(images.attributes.columns[0]) if labels is None else labels
        labels, within = (images.labels(value) if isinstance(value, str) else value for value in (labels, within))
    elif labels is None:
        raise ValueError(f"labels must be given, for {name} have none with them; got None")
    return check_images(images, name=name, image_size=size, channels=classifier.in_channels), labels, within


def _encode(classifier: RegionClassifier, labels: ArrayLike, count: int) -> tuple[NDArray[Any], Tensor]:
    names, target = np.unique(check_classes(labels, count, name="labels"), return_inverse=True)
    if len(names) != classifier.num_classes:
        raise ValueError(
            f"labels must take {classifier.num_classes} values, the classifier's classes, got {list(names)}"
        )
    return names, torch.from_numpy(target)


def _check_validation(
    classifier: RegionClassifier, validation: tuple[ImageSource, ArrayLike | None], names: NDArray[Any]
) -> tuple[ImageData, NDArray[np.intp]]:
    """Return the images and their class numbers."""
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be (images, labels), got {type(validation).__name__}")
    images, labels = validation
    images, labels, _ = _with_labels(classifier, images, labels, None, name="validation images")
    values = np.asarray(labels)
    unknown = set(values.tolist()) - set(names.tolist())
    if unknown or len(values) != len(images):
        raise ValueError(f"validation must have a known label an image; unknown labels: {sorted(unknown)}")
    return images, np.searchsorted(names, values)


def _draw_probability(
    labels: ArrayLike, within: ArrayLike | None, weight: str | ArrayLike | None, count: int
) -> Tensor:
    if within is not None:
        if not isinstance(weight, str):
            raise ValueError("sample_weight must be 'balanced' where within is given")
        return torch.from_numpy(within_class_weights(labels, check_classes(within, count, name="within")))
    if isinstance(weight, str):
        if weight != "balanced":
            raise ValueError(f"sample_weight must be 'balanced', an array or None, got {weight!r}")
        return torch.from_numpy(compute_sample_weight("balanced", np.asarray(labels)))
    return torch.from_numpy(check_weights(weight, count))


def _with_overrides(
    recipe: Recipe, batch_size: int | None, positions: int | None, lr: float | None, weight_decay: float | None
) -> Recipe:
    given = {"batch_size": batch_size, "positions_per_image": positions, "lr": lr, "weight_decay": weight_decay}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        least = {"lr": 0.0, "weight_decay": 0.0}.get(name, 1)
        if least == 1 and not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
        if value < least or (name == "lr" and value == 0):
            raise ValueError(f"{name} must be {'above 0' if name == 'lr' else f'at least {least}'}, got {value}")
    return replace(recipe, **chosen)  # type: ignore[arg-type]


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, steps_per_epoch: int) -> Any:
    if recipe.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=epochs * steps_per_epoch + 1)
    # 40 of the paper's 90 epochs; a shorter training keeps the proportions.
    return torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(epochs * steps_per_epoch * 4 / 9)), gamma=0.1)


def _draw_order(probability: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images of one epoch: each once where all weigh the same, else as many draws with replacement."""
    drawn = probability.nonzero().squeeze(1)
    if probability[drawn].unique().numel() == 1:
        return drawn[torch.randperm(len(drawn), generator=generator)]
    return torch.multinomial(probability, len(drawn), replacement=True, generator=generator)


def _random_patches(
    classifier: RegionClassifier,
    images: ImageData,
    target: Tensor,
    index: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    share: slice,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches (N * P) x C x k x k, their regions and their classes, on the classifier's device.

    They are those of a `share` of the images. The draws are those for all, so that each process draws the same.
    """
    grid, positions = classifier.grid, recipe.positions_per_image
    # Two at least: batch normalisation cannot train on one value a channel.
    positions = max(positions, 2) if len(index) == 1 else positions
    region = torch.randint(grid.num_regions, (len(index), positions), generator=generator)
    index, region = index[share], region[share].to(classifier.device)
    patches = grid.extract(take(images, index.numpy()).to(classifier.device), region).flatten(0, 1)
    expected = target[index].repeat_interleave(positions).to(classifier.device)
    return patches, region.flatten(), expected


def _backward(
    classifier: RegionClassifier,
    batch: tuple[Tensor, Tensor, Tensor],
    *,
    weight: float,
    label_smoothing: float,
    mixed_precision: str,
    processes: Processes,
) -> float:
    """Add the gradients of the loss over all processes' patches, of which these count by `weight`, and return it."""
    patches, region, expected = batch
    with autocast(classifier.device, mixed_precision):
        logits = classifier(patches, region)
        # The last batch may have no image for this process, which takes part with a loss of 0.
        mean = F.cross_entropy(logits, expected, label_smoothing=label_smoothing) if len(logits) else logits.sum()
        loss = mean * weight
    loss.backward()
    processes.sum_gradients(classifier)
    return processes.sum(loss.detach()).item()


def _random_region_accuracy(
    classifier: RegionClassifier,
    images: ImageData,
    target: NDArray[np.intp],
    recipe: Recipe,
    generator: torch.Generator,
    processes: Processes,
) -> float:
    """Return the balanced accuracy on the recipe's number of random regions of each image."""
    counts = torch.zeros(2, classifier.num_classes, dtype=torch.long, device=classifier.device)  # right, and seen
    with torch.inference_mode():
        for index in torch.arange(len(images)).split(recipe.batch_size):
            patches, region, expected = _random_patches(
                classifier, images, torch.from_numpy(target), index, recipe, generator, processes.share
            )
            hit = (classifier(patches, region).argmax(1) == expected).long()
            counts.index_add_(1, expected, torch.stack([hit, torch.ones_like(hit)]))
        right, seen = processes.sum(counts).cpu().numpy()
    return float((right[seen > 0] / seen[seen > 0]).mean())
