"""fit_region_classifier: train a region classifier on random regions, plainly or within the classes of a target."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from captum_region.batches import batches, take
from captum_region.classifiers import Recipe, RegionClassifier
from captum_region.io.checkpoint import classifier_digest
from captum_region.io.snapshot import Snapshots, random_states, set_random_states
from captum_region.parallel import Processes, joint_batch_norm
from captum_region.plotting import plot_history, plot_tag
from captum_region.precision import autocast, check_mixed_precision
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed, seeded, set_seed
from captum_region.training_data import TrainingData, draw_order, training_data

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from accelerate import Accelerator
    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData, ImageSource


@dataclass(frozen=True)
class RegionTraining:
    """The result of `fit_region_classifier`.

    Attributes
    ----------
    history : DataFrame
        One row for each epoch: ``epoch``, ``loss`` (mean cross-entropy in nats, with label smoothing), ``lr`` and, with
        validation data, ``valid_accuracy``: balanced accuracy on random regions, in [0, 1]. Where images were kept
        apart to end the training by, also ``apart``: the mean probability of their labels, in [0, 1].
    region_accuracy : ndarray of shape (rows, cols), or None without validation data
        Balanced accuracy of each region on the validation images after the last epoch, in [0, 1].
    git : str or None
        The commit of this package that did the training, with ``-dirty`` appended if files differed from it; of a
        training read from a checkpoint, the commit that made it. None if the package is not a git checkout.

    See Also
    --------
    captum_region.plotting.plot_history : Draw the history.
    """

    history: pd.DataFrame
    region_accuracy: NDArray[np.float64] | None
    git: str | None = None

    def _repr_html_(self) -> str:
        last = self.history.iloc[-1].drop("lr")
        words = ", ".join(f"{name} {value:.4g}" for name, value in last.items()).replace("_", " ")
        count = 1 if self.region_accuracy is None else 2
        return plot_tag(lambda axes: plot_history(self.history, axes=axes, title=words), words, count=count)


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

    In each step `positions_per_image` random regions are cut out of each image of a batch. Arguments that are None come
    from ``classifier.recipe``: the paper's recipe (section 3.1) for `PatchRegionClassifier`, a faster one for
    `DenseRegionClassifier`. The optimizer is AdamW. The classifier is left in eval mode, with the sorted labels as its
    ``class_names``.

    On 300 images or fewer, a `DenseRegionClassifier` ends its training early, unless `epochs` says how long it takes.
    Of each pair of a label and a class of `within`, a fifth of the images is kept apart, and the training ends when the
    last third of its epochs has hardly raised the probability that random regions of these give to their image's label:
    by less than a fifth of what has been learnt before. While that is no better than chance, it takes all the epochs of
    its recipe. Where no class has five images of each label, none are kept apart. A whole training takes longer and
    learns a little more; give `epochs` for that.

    Parameters
    ----------
    classifier : RegionClassifier
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1]; a memory map is read batch by batch. Or images with their labels: `AttributeImages`,
        or a source that `captum_region.datasets.from_dataset` reads (a torch Dataset or DataLoader, a Hugging Face
        dataset) into memory, resized to the classifier's image size.
    labels : array-like of shape (N,), or str
        As many different values as the classifier has classes, of any kind that sorts. If the images come with labels,
        the name of those to use, as in `AttributeImages.labels`; not needed if there is one attribute.
    within : array-like of shape (N,), or str, optional
        Labels of a target, or their name. The classifier is then trained within the target's classes, see
        `within_class_weights`, so that the map shows the attribute and not a target that is associated with it.
    validation : (images, labels), optional
        As `images` and `labels`. Adds the validation accuracy, by epoch and by region.
    sample_weight : "balanced", array-like of shape (N,) or None, default="balanced"
        How often an image is drawn: so that the classes are equally frequent, in proportion to the weights, or each
        once in an epoch. Must be "balanced" if `within` is given.
    epochs : int, optional
        Passes over the images, all of which are then trained on. By default the number of the recipe; of a training
        that ends early as many as help, each of 32 to 64 steps at least.
    batch_size, positions_per_image : int, optional
        Images in a step, regions of an image in a step.
    lr, weight_decay : float, optional
        Of AdamW.
    label_smoothing : float, default=0.1
        In [0, 1).
    random_state : int, NumPy generator or None
        Decides the draws of images and regions, and dropout. With the same initial weights and seed, two trainings are
        equal. Those in threads of one process take turns; those in processes run in parallel.
    device : str or torch.device, optional
        Where to train; the classifier is moved there. By default its own device, or the accelerator's.
    mixed_precision : {"no", "bf16"}, default="no"
        "bf16" runs the network in bfloat16, and keeps weights and loss in float32.
    accelerator : accelerate.Accelerator, optional
        For several processes, each of which calls this with the same arguments. They divide each batch of `batch_size`,
        normalise it together, and learn what one process would, to rounding. Its mixed precision, if set, is used.
    checkpoint_dir : path, optional
        A folder for the state of the training, which is saved so often that it takes at most 5 % of the time. A
        training that was stopped resumes when it is called again with the same arguments and initial weights, and ends
        with the same weights (to the bit on one machine with as many processes); a complete one is read. Other versions
        of the packages, or other code of your own modules, make it another training. Each has a file of three or four
        times the size of the weights, used by the main process only; reading it executes no code. Needs a
        `random_state`.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    RegionTraining

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.
    FloatingPointError
        If the loss is no longer finite; lower `lr`.

    See Also
    --------
    RegionAttribution : Maps of the trained classifier.
    save_classifier : Keep it.

    References
    ----------
    De Coninck, Leroux, Simoens, "Mitigating Bias Using Model-Agnostic Data Attribution", CVPR Workshops 2024.
    """
    if not isinstance(classifier, RegionClassifier):
        raise TypeError(f"classifier must be a RegionClassifier, got {type(classifier).__name__}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
    mixed_precision = check_mixed_precision(mixed_precision, accelerator)
    if accelerator is not None and device is not None:
        raise ValueError(f"device must be left out if accelerator is given, which has its own; got {device}")
    processes = Processes(accelerator)
    own_seed = draw_seed(random_state)
    seed = processes.from_main(lambda: own_seed)
    early = classifier.recipe.early if epochs is None else None
    sources: Any = {"within": within, "validation": validation, "sample_weight": sample_weight}
    data = training_data(classifier, images, labels, **sources, apart_seed=seed if early else None)
    recipe = _decided(
        classifier.recipe if early is None or data.apart is None else early,
        data.drawn,
        epochs=epochs,
        batch_size=batch_size,
        positions_per_image=positions_per_image,
        lr=lr,
        weight_decay=weight_decay,
    )
    classifier.class_names = [str(name) for name in data.names]
    classifier.to(device or (classifier.device if accelerator is None else accelerator.device))
    processes.share_weights(classifier)
    snapshots = Snapshots(
        checkpoint_dir if processes.is_main else None,
        random_state,
        lambda: (
            (classifier_digest(classifier), _settings(classifier)),
            (asdict(recipe), label_smoothing, mixed_precision, seed),
            (data.images, data.target, data.probability, data.validation and (*data.validation, "apart"), data.apart),
        ),
    )
    training = _Training(classifier, data, recipe, label_smoothing, mixed_precision, processes, seed)
    with seeded(seed), joint_batch_norm(classifier, processes):
        training.run(snapshots, show_progress=show_progress and processes.is_main)
        with autocast(classifier.device, mixed_precision):
            accuracy = data.validation and region_accuracy(classifier, *data.validation, accelerator=accelerator)
    return RegionTraining(pd.DataFrame(training.history), accuracy, snapshots.git)


def region_accuracy(
    classifier: RegionClassifier,
    images: ImageData,
    target: ArrayLike,
    *,
    batch_size: int = 16,
    accelerator: Accelerator | None = None,
) -> NDArray[np.float64]:
    """Return the balanced accuracy of each region: the mean recall over the classes that are present.

    Parameters
    ----------
    classifier : RegionClassifier
    images : ndarray or Tensor, shape (N, C, height, width)
    target : array-like of int, shape (N,)
        Class numbers, in the order of the logits.
    batch_size : int, default=16
        Images at a time.
    accelerator : accelerate.Accelerator, optional
        For several processes, which divide the batches; each returns the accuracy on all images.

    Returns
    -------
    ndarray of shape (rows, cols)
        In [0, 1].

    Raises
    ------
    ValueError
        If there is not a class number for each image.
    """
    target, processes = np.asarray(target), Processes(accelerator)
    if target.shape != (len(images),) or target.dtype.kind not in "biu":
        raise ValueError(
            f"target must hold {len(images)} class numbers, one per image, got {target.dtype} of shape {target.shape}"
        )
    target = target.astype(np.int64)
    counts = torch.zeros(classifier.num_classes, *classifier.grid.shape, dtype=torch.long)
    with torch.inference_mode():
        for number, batch in islice(enumerate(batches(images, batch_size)), processes.rank, None, processes.count):
            expected = torch.as_tensor(target[number * batch_size :][: len(batch)])
            predicted = classifier.forward_grid(batch.to(classifier.device)).argmax(1).cpu()
            counts.index_add_(0, expected, (predicted == expected[:, None, None]).long())
        right = processes.sum(counts.to(classifier.device)).cpu().numpy()
    present = np.bincount(target, minlength=classifier.num_classes)
    return (right[present > 0] / present[present > 0, None, None]).mean(0)


# A training that may end early has epochs of at least so many steps, and so many before it may.
_STEPS, _LEAST = 64, 384
# Of the average of the weights, over about 50 steps, of which it takes every fourth, to save time.
_EVERY, _DECAY = 4, 0.98**4
# It ends when it has learnt something, more than this probability above chance (what shows in few regions is learnt
# late), and its last epochs have added less than this share of that.
_SOMETHING, _LITTLE = 0.02, 0.2
# Random patches of the images kept apart, of which there are at least so many.
_PATCHES = 2048


@dataclass
class _Training:
    """A training: its steps, and the state from which it resumes."""

    classifier: RegionClassifier
    data: TrainingData
    recipe: Recipe
    label_smoothing: float
    mixed_precision: str
    processes: Processes
    seed: int

    def __post_init__(self) -> None:
        classifier, recipe = self.classifier, self.recipe
        self.passes = _passes(recipe, self.data.drawn)
        self.steps_per_epoch = math.ceil(self.passes * self.data.drawn / recipe.batch_size)
        # Fused, a step of small weights on a CPU takes half the time; on a GPU torch has fast steps of its own.
        is_fused = True if classifier.device.type == "cpu" else None
        self.optimizer = torch.optim.AdamW(
            classifier.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=is_fused
        )
        self.schedule = _schedule(self.optimizer, recipe, recipe.epochs * self.steps_per_epoch)
        # The attributes that have a state_dict of their own.
        self.parts = {"classifier": classifier, "optimizer": self.optimizer, "schedule": self.schedule}
        self.average = None
        if recipe.schedule == "average":
            averaging = get_ema_multi_avg_fn(_DECAY)
            self.average = AveragedModel(classifier, multi_avg_fn=averaging, use_buffers=True).eval()
            self.parts["average"] = self.average
        self.generator = torch.Generator().manual_seed(self.seed)
        self.history: list[dict[str, Any]] = []
        # The current epoch: its images in order, how many of them are done, its row of the history.
        self.order = torch.empty(0, dtype=torch.long)
        self.done = 0
        self.row: dict[str, Any] = {}

    def run(self, snapshots: Snapshots, *, show_progress: bool) -> None:
        """Train to the end, from the state kept last."""
        epochs = self.recipe.epochs
        total = epochs * self.steps_per_epoch
        with progress_bar(total=total, desc="region classifier", disable=not show_progress) as bar:
            if (kept := self.processes.from_main(snapshots.load)) is not None:
                with snapshots.restoring():
                    self.load_state_dict(kept)
                    bar.update(len(self.history) * self.steps_per_epoch + math.ceil(self.done / self.recipe.batch_size))
            is_new = not self._is_over()
            while not self._is_over():
                for index in self._batches():
                    self._step(index)
                    bar.update()
                    snapshots.save_sometimes(self.state_dict)
                self._end_epoch()
                shown = {name: f"{value:.3g}" for name, value in self.history[-1].items() if name != "epoch"}
                bar.set_postfix(shown, refresh=False)  # drawn with the next step: an epoch may be one
            bar.total = bar.n  # it may have ended early
            bar.refresh()
            if is_new:
                snapshots.save(self.state_dict)
        if self.average is not None:
            self.classifier.load_state_dict(self.average.module.state_dict())
        self.classifier.eval()

    def _is_over(self) -> bool:
        """Return whether all epochs are done, or the last of them have brought no improvement."""
        done, least = len(self.history), max(3, math.ceil(_LEAST / self.steps_per_epoch))
        if done >= self.recipe.epochs or self.data.apart is None or done < least:
            return done >= self.recipe.epochs
        found = [row["apart"] for row in self.history]
        recent = math.ceil(self.recipe.patience * done)
        before = max(found[:-recent])
        learnt = before - 1 / self.classifier.num_classes
        return bool(learnt > _SOMETHING and max(found[-recent:]) < before + _LITTLE * learnt)

    def _batches(self) -> Iterator[Tensor]:
        """Yield the remaining batches of the current epoch, or those of a new one."""
        self.classifier.train()
        if not self.row:
            passes = [draw_order(self.data.probability, self.generator) for _ in range(self.passes)]
            self.order, self.done = torch.cat(passes), 0
            self.row = {"epoch": len(self.history) + 1, "loss": 0.0, "lr": self.schedule.get_last_lr()[0]}
        for start in range(self.done, len(self.order), self.recipe.batch_size):
            yield self.order[start : start + self.recipe.batch_size]

    def _step(self, index: Tensor) -> None:
        # At least two patches: batch normalisation cannot train on one value for each channel.
        positions = max(self.recipe.positions_per_image, 2 if len(index) == 1 else 1)
        patches, region, expected = self._patches(self.data.images, self.data.target, index, positions)
        if not self.processes.is_main:  # its own dropout, and the same if the training resumes
            own = (self.seed, self.processes.rank, self.row["epoch"], self.done)
            set_seed(draw_seed(np.random.default_rng(own)))
        self.optimizer.zero_grad()
        with autocast(self.classifier.device, self.mixed_precision):
            logits = self.classifier(patches, region)
            loss = logits.sum()  # 0 if the last batch has no image for this process
            if len(logits):
                mean = F.cross_entropy(logits, expected, label_smoothing=self.label_smoothing)
                loss = mean * (len(index[self.processes.share]) / len(index))
        loss.backward()
        self.processes.sum_gradients(self.classifier)
        total = self.processes.sum(loss.detach()).item()
        if not math.isfinite(total):
            raise FloatingPointError(f"the loss became {total} in epoch {self.row['epoch']}; try a lower lr")
        self.optimizer.step()
        self.schedule.step()
        if self.average is not None and self.schedule.last_epoch % _EVERY == 0:
            self.average.update_parameters(self.classifier)
        self.done += len(index)
        self.row["loss"] += total * len(index) / len(self.order)

    def _end_epoch(self) -> None:
        self.classifier.eval()
        with autocast(self.classifier.device, self.mixed_precision):
            if self.data.apart is not None:
                self.row["apart"] = self._probability_apart(self.data.apart)
            if self.data.validation is not None:
                self.row["valid_accuracy"] = self._random_region_accuracy(*self.data.validation)
        self.history.append(self.row)
        self.row, self.done = {}, 0

    def _random_region_accuracy(self, images: ImageData, target: Tensor) -> float:
        """Return the balanced accuracy on random regions, always the same, as many of each image as in a step.

        They are drawn apart from the training's, which goes as it does without validation images.
        """
        generator = torch.Generator().manual_seed(self.seed)
        network = self.classifier if self.average is None else self.average
        counts = torch.zeros(2, self.classifier.num_classes, dtype=torch.long, device=self.classifier.device)
        with torch.inference_mode():
            for index in torch.arange(len(images)).split(self.recipe.batch_size):
                patches, region, expected = self._patches(
                    images, target, index, self.recipe.positions_per_image, generator
                )
                hit = (network(patches, region).argmax(1) == expected).long()
                counts.index_add_(1, expected, torch.stack([hit, torch.ones_like(hit)]))
            right, seen = self.processes.sum(counts).cpu().numpy()
        return float((right[seen > 0] / seen[seen > 0]).mean())

    def _probability_apart(self, weight: Tensor) -> float:
        """Return the mean probability that regions of the images kept apart give to their label, always the same ones.

        It is the accuracy of labels that are drawn as likely as the classifier says. Where few regions tell anything,
        the others' guesses count as much in the share of right answers, and next to nothing here.
        """
        assert self.average is not None
        apart = weight.nonzero().squeeze(1)
        positions = math.ceil(_PATCHES / len(apart))
        generator, total = torch.Generator().manual_seed(self.seed), torch.zeros((), dtype=torch.double)
        with torch.inference_mode():
            for index in apart.split(self.recipe.batch_size):
                patches, region, expected = self._patches(
                    self.data.images, self.data.target, index, positions, generator
                )
                if len(patches):
                    probability = self.average(patches, region).double().softmax(1).gather(1, expected[:, None])
                    means = probability.view(-1, positions).mean(1).cpu()
                    total += (weight[index[self.processes.share]] * means).sum()
        return self.processes.sum(total.to(self.classifier.device)).item()

    def _patches(
        self,
        images: ImageData,
        target: Tensor,
        index: Tensor,
        positions: int,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return random patches of this process's share of some images, their regions and their classes.

        The draws are those for all the images, so that each process draws the same.
        """
        grid, device, share = self.classifier.grid, self.classifier.device, self.processes.share
        drawn = torch.randint(grid.num_regions, (len(index), positions), generator=generator or self.generator)
        region = drawn[share].to(device)
        patches = grid.extract(take(images, index[share].numpy()).to(device), region).flatten(0, 1)
        return patches, region.flatten(), target[index[share]].repeat_interleave(positions).to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return what the training resumes from."""
        random = self.generator.get_state(), random_states()
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {**parts, "random": random, "history": self.history, "epoch": (self.order, self.done, self.row)}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for name, part in self.parts.items():
            part.load_state_dict(kept[name])
        self.generator.set_state(kept["random"][0])
        set_random_states(kept["random"][1])
        self.history, (self.order, self.done, self.row) = kept["history"], kept["epoch"]
        if not (isinstance(self.history, list) and isinstance(self.row, dict)):
            raise TypeError("it has no history")


def _settings(classifier: RegionClassifier) -> Any:
    """Return what a training depends on besides `classifier_digest`, such as dropout and frozen weights."""
    own = {name: value for name, value in vars(classifier).items() if not name.startswith("_")}
    return type(classifier), own, dict(classifier.named_children())


def _decided(recipe: Recipe, drawn: int, **given: Any) -> Recipe:
    """Return the recipe with the user's changes, and its number of epochs for `drawn` images."""
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        is_count = name not in ("lr", "weight_decay")
        if is_count and not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be an integer, got {value!r}")
        if value < is_count or (name == "lr" and value == 0):
            raise ValueError(f"{name} must be {'above 0' if name == 'lr' else f'at least {is_count:d}'}, got {value}")
    recipe = replace(recipe, **given)
    least = math.ceil(recipe.min_steps / math.ceil(drawn / recipe.batch_size))
    passes = max(recipe.epochs, least)
    return recipe if "epochs" in given else replace(recipe, epochs=math.ceil(passes / _passes(recipe, drawn)))


def _passes(recipe: Recipe, drawn: int) -> int:
    """Return how often an epoch passes over the images."""
    return math.ceil(_STEPS / math.ceil(drawn / recipe.batch_size)) if recipe.schedule == "average" else 1


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    if recipe.schedule == "average":
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1 / _STEPS, total_iters=_STEPS)
    if recipe.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps + 1)
    # 40 of the paper's 90 epochs, and the same share of another number.
    return torch.optim.lr_scheduler.StepLR(optimizer, max(1, round(steps * 4 / 9)), gamma=0.1)
