"""fit_segmentation: train a segmentation network until its validation Dice no longer rises."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from captum_region.io.digest import digest, is_the_users
from captum_region.io.snapshot import Snapshots, random_states, set_random_states
from captum_region.precision import check_mixed_precision
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.segmentation.scores import check_classes_of, mean_dice, run, segmentation_scores
from captum_region.stacks.windows import RandomPatches, SliceWindows, as_windows
from captum_region.validation import check_count


@dataclass(frozen=True)
class SegmentationTraining:
    """The result of `fit_segmentation`.

    Attributes
    ----------
    history : DataFrame
        One row for each evaluation: ``step`` (steps so far), ``loss`` (the mean since the last evaluation), ``lr``,
        ``valid_dice`` (see `captum_region.segmentation.scores.mean_dice`).
    best_step : int
        The step of the weights that were kept.
    converged : bool
        Whether the validation Dice had stopped rising; otherwise the training ended with its last step.
    git : str or None
        The commit of this package that did the training; None if the package is not a git checkout.
    """

    history: pd.DataFrame
    best_step: int
    converged: bool
    git: str | None = None


def fit_segmentation(
    model: nn.Module,
    train: SliceWindows | Sequence[SliceWindows],
    validation: SliceWindows | Sequence[SliceWindows],
    *,
    steps: int = 4000,
    evaluate_every: int = 100,
    patience: int = 8,
    batch_size: int = 8,
    patch_size: int = 128,
    augment: bool = True,
    flip_z: bool = False,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    random_state: RandomState = None,
    device: str | torch.device | None = None,
    mixed_precision: str = "no",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> SegmentationTraining:
    """Train `model`, in place, to segment the centre slice of a window, and keep the weights of the best evaluation.

    The loss is that of `segmentation_loss`, the optimizer AdamW. Its rate is halved where the validation Dice has not
    risen for half of `patience`, and the training ends where it has not risen for `patience` evaluations.

    Parameters
    ----------
    model : nn.Module
        As `segmentation_network` makes one, or any that takes N x W x height x width, floats in [0, 1], and returns
        logits, N x 1 x height x width for two classes, or N x classes x height x width.
    train : SliceWindows, or a sequence of them
        With labels. A step takes `batch_size` patches of them, see `RandomPatches`.
    validation : SliceWindows, or a sequence of them
        With labels; its slices are segmented as a whole at each evaluation.
    steps : int, default=4000
        The most steps.
    evaluate_every : int, default=100
        Steps from one evaluation to the next.
    patience : int, default=8
        Evaluations.
    batch_size, patch_size : int
        Patches in a step, and their side in pixels.
    augment, flip_z : bool
        As in `RandomPatches`.
    lr, weight_decay : float
        Of AdamW.
    random_state : int, NumPy generator or None
        Decides the patches, and dropout. With the same initial weights and seed, two trainings are equal on a CPU;
        GPUs add in no fixed order. Two models trained with one seed see the same patches.
    device : str or torch.device, optional
        Where to train; the model is moved there. By default its own device.
    mixed_precision : {"no", "bf16"}, default="no"
        "bf16" runs the network in bfloat16, and keeps weights and loss in float32.
    checkpoint_dir : path, optional
        A folder for the state of the training, which is saved so often that it takes at most 5 % of the time. A
        training that was stopped resumes when it is called again with the same arguments and initial weights, and ends
        with the same weights; a complete one is read. Each has a file of four times the size of the weights; reading it
        executes no code. Needs a `random_state`.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    SegmentationTraining
        The model is left in eval mode.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; the message names it.
    FloatingPointError
        If the loss is no longer finite; lower `lr`.

    See Also
    --------
    segmentation_scores : Scores of the trained model.

    Examples
    --------
    >>> from captum_region.segmentation import SmallUNet
    >>> from captum_region.stacks import SliceWindows, make_stack
    >>> stack = make_stack("previous", slices=10, size=32, random_state=0)
    >>> sizes = {"steps": 4, "evaluate_every": 2, "batch_size": 2, "patch_size": 32}
    >>> training = fit_segmentation(
    ...     SmallUNet(width=4), SliceWindows(stack[:7]), SliceWindows(stack[7:]), **sizes, random_state=0
    ... )
    >>> training.history["step"].tolist()
    [2, 4]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch module, got {type(model).__name__}")
    valid = as_windows(validation, name="validation")
    counts: Any = {"steps": steps, "evaluate_every": evaluate_every, "patience": patience, "batch_size": batch_size}
    for name, value in counts.items():
        check_count(name, value)
    if not (lr > 0 and weight_decay >= 0):
        raise ValueError(f"lr must be above 0 and weight_decay at least 0, got {lr} and {weight_decay}")
    if not any(each.stack.label(centre).any() for each in valid for centre in each.centres):
        raise ValueError("validation must have labels other than 0, of which the Dice is taken; got none")
    seed = draw_seed(random_state)
    patches = RandomPatches(train, patch_size, augment=augment, flip_z=flip_z, random_state=seed)
    if (wide := {each.window for each in (*patches.windows, *valid)}) and len(wide) > 1:
        raise ValueError(f"validation must have the window of train, got {sorted(wide)}")
    mixed_precision = check_mixed_precision(mixed_precision, None)
    if device is not None:
        model.to(device)
    rest: Any = {"lr": lr, "weight_decay": weight_decay, "mixed_precision": mixed_precision}
    snapshots = Snapshots(
        checkpoint_dir,
        random_state,
        lambda: (
            identity_of(model),
            (counts, rest, patch_size, augment, flip_z, seed),
            [each.digest() for each in patches.windows],
            [each.digest() for each in valid],
        ),
    )
    training = _Training(model, patches, valid, **counts, **rest)
    with seeded(seed):
        training.run(snapshots, show_progress=show_progress)
    history = pd.DataFrame(training.history)
    return SegmentationTraining(history, training.best_step, training.misses >= patience, snapshots.git)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy plus one minus the soft Dice coefficient.

    The coefficient is taken over all pixels of the batch, with 1 added to numerator and denominator; it is the mean
    over the classes, or that of class 1 for a single logit, whose cross-entropy is the binary one.

    Parameters
    ----------
    logits : Tensor, shape (N, classes, height, width)
    labels : int64 Tensor, shape (N, height, width)

    Returns
    -------
    Tensor of shape ()

    References
    ----------
    Milletari, Navab, Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    3DV 2016, for the soft Dice coefficient.

    Examples
    --------
    >>> labels = torch.tensor([[[0, 1]]])
    >>> round(float(segmentation_loss(torch.zeros(1, 1, 1, 2), labels)), 4)  # log 2 + 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    1.0265
    """
    if logits.shape[1] == 1:
        truth = labels[:, None].to(logits.dtype)
        entropy, probability = F.binary_cross_entropy_with_logits(logits, truth), logits.sigmoid()
    else:
        entropy, probability = F.cross_entropy(logits, labels), logits.softmax(1)
        truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    over = (0, 2, 3)
    dice = (2 * (probability * truth).sum(over) + 1) / (probability.sum(over) + truth.sum(over) + 1)
    return entropy + 1 - dice.mean()


@dataclass
class _Training:
    """A training: its steps, and the state from which it resumes."""

    model: nn.Module
    patches: RandomPatches
    valid: list[SliceWindows]
    steps: int
    evaluate_every: int
    patience: int
    batch_size: int
    lr: float
    weight_decay: float
    mixed_precision: str

    def __post_init__(self) -> None:
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "max", factor=0.5, patience=self.patience // 2, threshold=0, eps=0
        )
        self.step = 0
        self.losses: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.best_dice, self.best_step, self.misses = -math.inf, 0, 0
        self.best: dict[str, Tensor] = {}

    def run(self, snapshots: Snapshots, *, show_progress: bool) -> None:
        """Train to the end, from the state kept last."""
        with progress_bar(total=self.steps, desc="segmentation", disable=not show_progress) as bar:
            if (kept := snapshots.load()) is not None:
                with snapshots.restoring():
                    self.load_state_dict(kept)
                    bar.update(self.step)
            is_new = not self.is_done
            self.model.train()
            while not self.is_done:
                self._step()
                bar.update()
                if self.step % self.evaluate_every == 0 or self.step == self.steps:
                    self._evaluate()
                    bar.set_postfix(valid_dice=f"{self.history[-1]['valid_dice']:.3f}", refresh=False)
                snapshots.save_sometimes(self.state_dict)
            if is_new:
                snapshots.save(self.state_dict)
        self.model.load_state_dict(self.best)
        self.model.eval()

    @property
    def is_done(self) -> bool:
        """Whether the last step has been taken, or the Dice no longer rises."""
        return self.step >= self.steps or self.misses >= self.patience

    def _step(self) -> None:
        first = self.step * self.batch_size
        images, labels = default_collate([self.patches[first + number] for number in range(self.batch_size)])
        self.optimizer.zero_grad()
        logits, labels = run(self.model, images, labels, self.mixed_precision)
        if self.step == 0:
            for windows in (*self.patches.windows, *self.valid):
                check_classes_of(logits, windows)
        loss = segmentation_loss(logits, labels)
        loss.backward()
        if not math.isfinite(value := loss.item()):
            raise FloatingPointError(f"the loss became {value} in step {self.step}; try a lower lr than {self.lr}")
        self.optimizer.step()
        self.losses.append(value)
        self.step += 1

    def _evaluate(self) -> None:
        dice = mean_dice(segmentation_scores(self.model, self.valid, mixed_precision=self.mixed_precision))
        row = {
            "step": self.step,
            "loss": sum(self.losses) / len(self.losses),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self.history.append({**row, "valid_dice": dice})
        self.losses = []
        self.misses += 1
        if dice > self.best_dice or not self.best:
            self.best_dice, self.best_step, self.misses = dice, self.step, 0
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        self.schedule.step(dice)

    def state_dict(self) -> dict[str, Any]:
        """Return what the training resumes from; the patches follow from the step."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        found = self.step, self.losses, self.history, self.best_dice, self.best_step, self.misses
        return {**parts, "found": found, "best": self.best, "random": random_states()}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(kept[name])
        self.step, self.losses, self.history, self.best_dice, self.best_step, self.misses = kept["found"]
        self.best = dict(kept["best"])
        set_random_states(kept["random"])


def identity_of(model: nn.Module) -> Any:
    """Return what a model is: its structure, weights, which of them are trained, and the code of the user's classes.

    Not the model itself, as one with parametrizations does not pickle.
    """
    code = {type(module) for module in model.modules() if is_the_users(type(module).__module__)}
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    return repr(model), dict(model.state_dict()), trained, sorted(map(digest, code))
