"""AcceleratedImageClassifier: `ImageClassifier` in several processes, by skorch's mixin for accelerate."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from skorch.hf import AccelerateMixin
from torch import Tensor, nn

from captum_region.parallel import Processes, joint_batch_norm
from captum_region.randomness import draw_seed, seeded, set_seed
from fairlearn_bridge.classifier import ImageClassifier


class AcceleratedImageClassifier(AccelerateMixin, ImageClassifier):  # type: ignore[misc]
    """`ImageClassifier` trained through Hugging Face's accelerate: on several devices, or in mixed precision.

    Each process makes one with the same parameters and calls the same methods with the same data, `predict` too; each
    step divides its images among them. With as many images a step it learns what one process does, but for dropout and
    rounding: batch normalisation takes its statistics over the whole step, and the losses in `history_` are means over
    the processes, so that callbacks decide the same in each.

    Parameters
    ----------
    module, **kwargs
        As of `ImageClassifier`, but for `device`, which the accelerator decides. An epoch's last step is filled up with
        images of its first, and a `loss_reduction` sees the images of its process. With a `checkpoint_dir`, which all
        processes must see, as many processes as before resume a training, and end with its results.
    accelerator : accelerate.Accelerator
        With ``dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)`` the
        `batch_size` is that of all processes together, and they see the images in the order that one does; by default
        it is that of each process. End a script of several processes with its ``free_memory()``, which lets go of the
        network that was shared, and ``end_training()``: a process that ends while it still holds one may abort.
    unwrap_after_train : bool, default=True
        See ``skorch.hf.AccelerateMixin``.

    See Also
    --------
    ImageClassifier : In one process.
    """

    _criteria: list[str]
    callbacks__print_log__sink: Any

    def _initialize_accelerator(self) -> Any:
        # accelerate would wrap a criterion in DistributedDataParallel too, which refuses one that has no weights.
        every = self._criteria
        losses = {name: getattr(self, f"{name}_") for name in every}
        weightless = [name for name, loss in losses.items() if isinstance(loss, nn.Module) and not [*loss.parameters()]]
        for name in weightless:
            losses[name].to(self.accelerator.device)
        self._criteria = [name for name in every if name not in weightless]
        try:
            return super()._initialize_accelerator()
        finally:
            self._criteria = every

    initialize = ImageClassifier.initialize  # seeded, which the mixin's is not

    def _initialize(self) -> Any:
        return AccelerateMixin.initialize(self)

    def _initialize_callbacks(self) -> Any:
        if self.callbacks__print_log__sink == "auto" and not self.verbose:
            self.callbacks__print_log__sink = print  # into any other skorch prints, whatever `verbose` says
        return super()._initialize_callbacks()

    @property
    def processes(self) -> Processes:
        """Those of the accelerator."""
        return Processes(self.accelerator)

    def fit_loop(self, X: Any, y: Any = None, epochs: int | None = None, **fit_params: Any) -> Any:
        """Train with batch normalisation over all processes."""
        self.generator_ = torch.Generator(self.accelerator.device)
        with joint_batch_norm(self.module_, self.processes):
            return super().fit_loop(X, y, epochs, **fit_params)

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        """Return accelerate's iterator, which takes the order of the images from torch's seed."""
        with seeded(self._seed) if training else nullcontext():
            return super().get_iterator(dataset, training=training)

    def run_single_epoch(self, iterator: Any, training: bool, *args: Any, **kwargs: Any) -> None:
        """Train for an epoch, or validate; all random numbers of an epoch follow from the seed and its number.

        A training that resumes has them without the states of all processes: one order of the images, and dropout and
        perturbations of its own in each process.
        """
        if training:
            epoch = self._seed, len(self.history_)
            iterator.iteration = len(self.history_)  # decides the order with a seedable sampler
            if (order := getattr(iterator, "synchronized_generator", None)) is not None:  # and this without one
                order.manual_seed(draw_seed(np.random.default_rng(epoch)))
            own = draw_seed(np.random.default_rng((*epoch, self.processes.rank)))
            set_seed(own)
            self.generator_.manual_seed(own)
        super().run_single_epoch(iterator, training, *args, **kwargs)

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Take skorch's step; the loss that it reports is the mean over the processes."""
        return self._with_mean_loss(super().train_step_single(batch, **fit_params))

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, Tensor]:
        """Take skorch's step; the loss that it reports is the mean over the processes."""
        return self._with_mean_loss(super().validation_step(batch, **fit_params))

    def _with_mean_loss(self, step: dict[str, Tensor]) -> dict[str, Tensor]:
        return step | {"loss": self.accelerator.reduce(step["loss"].detach(), "mean")}
