"""train_codec: a short training of a CompressAI model on the user's images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from captum_region.batches import as_floats, take
from captum_region.io.snapshot import Snapshots, random_states, set_random_states
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed, seeded
from captum_region.validation import check_count
from fairlearn_bridge.audit.codecs.base import calibration_images
from fairlearn_bridge.audit.codecs.model import pad_edges
from fairlearn_bridge.validation import check_number

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from captum_region.batches import ImageData, ImageSource

# The trade-off changes by at most so much, as a factor, in a step that misses the rate by its whole size.
_ADAPTATION = 0.05
_START = 0.01
_CLIP = 1.0
_PARTS = ("model", "optimizer", "auxiliary")


def train_codec(
    model: nn.Module,
    images: ImageSource,
    rate: float | None = None,
    *,
    lmbda: float | None = None,
    steps: int = 2000,
    batch_size: int = 16,
    lr: float = 1e-3,
    random_state: RandomState = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    show_progress: bool = False,
) -> pd.DataFrame:
    """Train a model of CompressAI, in place, for a rate or a trade-off between rate and distortion.

    The loss is CompressAI's, ``lmbda * 255**2 * MSE + bits per pixel``. With `rate`, ``lmbda`` is adapted step by step
    until the estimated rate is that: it grows where there are bits to spare. The learning rate falls to a tenth for the
    last fifth of the steps. A model that has not been updated is wanted; `ModelCodec` updates its own copy.

    Parameters
    ----------
    model : nn.Module
        ``model(images)`` returns ``{"x_hat": images, "likelihoods": {name: Tensor}}``. If it has ``aux_loss()``, its
        parameters whose names end in ``quantiles`` are trained with that.
    images : ndarray or Tensor, shape (N, C, height, width)
        uint8, or float in [0, 1]; or `AttributeImages`, or a data set.
    rate : float, optional
        Bits per pixel, estimated from the likelihoods; of real files it is a few percent more.
    lmbda : float, optional
        The trade-off, if there is no `rate`: 0.0018 to 0.0483 in CompressAI's own models.
    steps : int, default=2000
    batch_size : int, default=16
    lr : float, default=1e-3
        Of Adam; CompressAI's 1e-4 is for hundreds of thousands of steps.
    random_state : int, NumPy generator or None
        Decides order and quantisation noise.
    checkpoint_dir : path, optional
        A folder for the state of the training, from which it resumes when it is called again with the same arguments
        and initial weights, and ends with the same weights; a complete one is read. Needs a `random_state`.
    device : str or torch.device, optional
        Where to train; the model is moved there. By default where it is.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    DataFrame
        A row a step: ``loss``, ``rate`` in bits per pixel, ``psnr`` in dB, ``lmbda``.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    FloatingPointError
        If the loss is no longer finite; lower `lr`.

    See Also
    --------
    ModelCodec : The trained model as a codec.

    References
    ----------
    J. Ballé, D. Minnen, S. Singh, S. J. Hwang, N. Johnston, "Variational image compression with a scale hyperprior",
    ICLR 2018.
    """
    if (rate is None) == (lmbda is None):
        raise ValueError(f"rate or lmbda must be given, and not both; got rate={rate}, lmbda={lmbda}")
    for name, value in (("rate", rate), ("lmbda", lmbda), ("lr", lr)):
        if value is not None:
            check_number(name, value, 0, inside=True)
    for name, count in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, count)
    checked = calibration_images(images)
    if device is not None:
        model.to(device)
    seed = draw_seed(random_state)
    with seeded(seed):
        training = _Training(model, checked, rate, _START if lmbda is None else lmbda, steps, batch_size, lr)

        def key() -> Any:
            settings = rate, lmbda, steps, batch_size, lr, seed
            return "codec", type(model), model.state_dict(), checked, settings

        training.run(Snapshots(checkpoint_dir, random_state, key), show_progress=show_progress)
    return pd.DataFrame(training.history)


@dataclass
class _Training:
    """A training and its state."""

    model: Any
    images: ImageData
    rate: float | None
    lmbda: float
    steps: int
    batch_size: int
    lr: float

    def __post_init__(self) -> None:
        named = dict(self.model.named_parameters())
        quantiles = [value for name, value in named.items() if name.endswith("quantiles")]
        weights = [value for name, value in named.items() if not name.endswith("quantiles")]
        if not weights:
            raise ValueError(f"model must have parameters to train, got {type(self.model).__name__} without any")
        self.optimizer = torch.optim.Adam(weights, lr=self.lr)
        # An optimizer without parameters is refused: a model without quantiles has none of its own.
        self.auxiliary = torch.optim.Adam(quantiles or [torch.zeros(1, requires_grad=True)], lr=1e-3)
        self.padding = int(getattr(self.model, "downsampling_factor", 64))
        self.device = weights[0].device
        self.order: NDArray[np.intp] = np.empty(0, np.intp)
        self.history: list[dict[str, float]] = []

    def run(self, snapshots: Snapshots, *, show_progress: bool) -> None:
        """Train to the end, from the state kept last."""
        with progress_bar(total=self.steps, desc="codec", unit="step", disable=not show_progress) as bar:
            if (kept := snapshots.load()) is not None:
                with snapshots.restoring():
                    self.load_state_dict(kept)
                    bar.update(len(self.history))
            is_new = len(self.history) < self.steps
            self.model.train()
            while len(self.history) < self.steps:
                self._step()
                bar.update()
                snapshots.save_sometimes(self.state_dict)
            self.model.eval()
            if is_new:
                snapshots.save(self.state_dict)

    def _step(self) -> None:
        if not len(self.order):
            self.order = torch.randperm(len(self.images)).numpy()
        index, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        originals = as_floats(take(self.images, index).to(self.device))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * (0.1 if len(self.history) >= 0.8 * self.steps else 1)
        self.optimizer.zero_grad()
        rate, error = self._rate_and_error(originals)
        loss = self.lmbda * 255**2 * error + rate
        row = {"loss": loss.item(), "rate": rate.item(), "psnr": -10 * math.log10(max(error.item(), 1e-12))}
        if not math.isfinite(row["loss"]):
            raise FloatingPointError(f"the loss became {row['loss']} in step {len(self.history)}; try a lower lr")
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        if hasattr(self.model, "aux_loss"):
            self.auxiliary.zero_grad()
            self.model.aux_loss().backward()
            self.auxiliary.step()
        self.history.append(row | {"lmbda": self.lmbda})
        if self.rate is not None:
            missed = max(-1.0, min(1.0, (self.rate - row["rate"]) / self.rate))
            self.lmbda *= math.exp(_ADAPTATION * missed)

    def _rate_and_error(self, originals: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimated bits per pixel and the mean squared error of a batch; padding is not counted."""
        count, _, height, width = originals.shape
        output = self.model(pad_edges(originals, self.padding))
        bits = torch.stack([-likelihood.log2().sum() for likelihood in output["likelihoods"].values()]).sum()
        error = (output["x_hat"][..., :height, :width] - originals).square().mean()
        return bits / (count * height * width), error

    def state_dict(self) -> dict[str, Any]:
        """Return what the training resumes from."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return parts | {"history": self.history, "now": (self.order, self.lmbda), "random": random_states()}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(kept[name])
        self.history = [{**row} for row in kept["history"]]
        order, self.lmbda = kept["now"]
        self.order = np.asarray(order, dtype=np.intp)
        set_random_states(kept["random"])
