"""One run in several processes, through accelerate: they share weights, sums and batch statistics."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from accelerate import Accelerator

T = TypeVar("T")

# For a process that hangs (one that dies ends the others at once). They may wait so long for the main process to decode
# a data set.
_TIMEOUT = timedelta(hours=1)


@contextmanager
def launched(device: str | None) -> Iterator[Accelerator | None]:
    """Yield the accelerator of a process that ``accelerate launch`` or ``torchrun`` has started, else None.

    Parameters
    ----------
    device : str or None
        The user's choice. With several processes ``"cuda"`` is one GPU for each. By default the launcher decides: GPUs
        if there are any.

    Raises
    ------
    ValueError
        If accelerate is missing, or the processes cannot compute on `device`.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 and "ACCELERATE_MIXED_PRECISION" not in os.environ:
        yield None
        return
    try:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs
    except ImportError as error:
        raise ValueError(f"{world_size} processes need pip install 'captum-region[distributed]'") from error
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)])
    Processes(accelerator)  # raises if it has not joined them
    wanted = accelerator.device if device is None else torch.device(device)
    if wanted.type != accelerator.device.type or wanted.index not in (None, accelerator.device.index):
        raise ValueError(f"--device must be left out or be that of the launch, {accelerator.device}; got {device}")
    yield accelerator
    accelerator.end_training()


class Processes:
    """The processes of an accelerator, or this one alone.

    Parameters
    ----------
    accelerator : accelerate.Accelerator or None

    Raises
    ------
    ValueError
        If the accelerator has not joined the processes that were launched: each would act as the main one.

    Attributes
    ----------
    count, rank : int
        The number of processes, and the number of this one.
    is_main : bool
        Whether this is process 0, the one that writes files and shows progress.
    share : slice
        This process's part of a sequence that they divide: every `count`-th element, from `rank` on.
    """

    def __init__(self, accelerator: Accelerator | None) -> None:
        self.accelerator = accelerator
        self.count: int = 1 if accelerator is None else accelerator.num_processes
        self.rank: int = 0 if accelerator is None else accelerator.process_index
        self.is_main = self.rank == 0
        self.share = slice(self.rank, None, self.count)
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if accelerator is not None and self.count != world_size:
            wanted = f"the {world_size} processes that were launched, got {self.count} on {accelerator.device}"
            hint = "on CPUs Accelerator(cpu=True) joins them, or --device cpu"
            raise ValueError(f"accelerator must have joined {wanted}; {hint}")

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, in each of them."""
        return tensor if self.accelerator is None else self.accelerator.reduce(tensor, "sum")

    def of_each(self, value: T) -> list[T]:
        """Return what each process has given, in order, in each of them."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def from_main(self, make: Callable[[], T]) -> T:
        """Return in each process what `make` returns, or raise what it raises, in the main one."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        made: list[Any] = [None, None]
        if self.is_main:
            try:
                made[0] = make()
            except Exception as error:
                made[1] = error
        broadcast_object_list(made)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def share_weights(self, module: nn.Module) -> None:
        """Copy the main process's weights and buffers into the others' `module`."""
        if self.count > 1:
            from accelerate.utils import broadcast

            broadcast(list(module.state_dict().values()))  # in place

    def sum_gradients(self, module: nn.Module) -> None:
        """Sum the gradients of `module` over the processes.

        DistributedDataParallel would wrap the user's module, and fails on weights that are not used.
        """
        if self.count > 1:
            gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
            summed = self.sum(nn.utils.parameters_to_vector(gradients))
            nn.utils.vector_to_parameters(summed, gradients)

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def main_first(self) -> AbstractContextManager[None]:
        """Let the first process of each machine run a block before the others, to fill a cache."""
        return nullcontext() if self.accelerator is None else self.accelerator.local_main_process_first()


class _Sum(torch.autograd.Function):
    """The sum over the processes, whose gradient is summed too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.sum(gradient), None


@contextmanager
def joint_batch_norm(module: nn.Module, processes: Processes) -> Iterator[None]:
    """Let the batch normalisations in `module` take mean and variance over the batches of all processes.

    A step, and the running statistics, are then those of one process with the whole batch. torch's SyncBatchNorm works
    on GPUs only, and would replace the user's modules.
    """
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm) and processes.count > 1]
    for norm in norms:
        norm.forward = partial(_batch_norm, norm, processes)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _batch_norm(norm: _BatchNorm, processes: Processes, features: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, features)
    axes = [0, *range(2, features.ndim)]
    shape = [1, -1] + [1] * (features.ndim - 2)
    wide = features.to(torch.promote_types(features.dtype, torch.float32))  # autocast may have left it in bfloat16
    size = wide.new_tensor([features.numel() / features.shape[1]])
    # Of the last batch a process may have no image: it takes part in the sums all the same.
    total, count = _Sum.apply(torch.cat([wide.sum(axes), size]), processes).split([features.shape[1], 1])
    mean = total / count
    centred = wide - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes), processes) / count
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, momentum)
            norm.running_var.lerp_(variance * count / (count - 1), momentum)
    normalised = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    return normalised.to(features.dtype)
