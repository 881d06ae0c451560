"""One run in several processes, through accelerate: what they share, sum up, and normalise together."""

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

# A process that dies closes its connections, which ends the others at once. This is for one that hangs; others wait as
# long while the main process decodes a data set for the first time.
_TIMEOUT = timedelta(hours=1)


@contextmanager
def launched(device: str | None) -> Iterator[Accelerator | None]:
    """Yield the accelerator of a process that ``accelerate launch`` or ``torchrun`` has started, else None.

    Parameters
    ----------
    device : str or None
        What the user asked for. With several processes ``"cuda"`` is a GPU for each; by default they compute where the
        launcher says: on GPUs where there are any.

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
        raise ValueError(
            f"accelerate must be installed for {world_size} processes: pip install 'captum-region[distributed]'"
        ) from error
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=_TIMEOUT)])
    Processes(accelerator)  # raises where it cannot join them
    wanted = accelerator.device if device is None else torch.device(device)
    if wanted.type != accelerator.device.type or wanted.index not in (None, accelerator.device.index):
        raise ValueError(f"--device must be that of the launch, {accelerator.device}, or left out; got {device}")
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
        If the accelerator has not joined the processes that were launched: each would take itself for the main one.

    Attributes
    ----------
    count, rank : int
        How many there are, and which this one is; 0 is the main process, which alone writes and shows progress.
    share : slice
        Of what is divided among them: every `count`-th from `rank` on.
    """

    def __init__(self, accelerator: Accelerator | None) -> None:
        self.accelerator = accelerator
        self.count: int = 1 if accelerator is None else accelerator.num_processes
        self.rank: int = 0 if accelerator is None else accelerator.process_index
        self.share = slice(self.rank, None, self.count)
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if accelerator is not None and self.count != world_size:
            raise ValueError(
                f"accelerator must have joined the {world_size} processes that were launched, got {self.count} on "
                f"{accelerator.device}; on CPUs Accelerator(cpu=True) joins them, or --device cpu"
            )

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of the processes' tensors, in each of them."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        summed: Tensor = reduce(tensor, "sum")
        return summed

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
        result: T = made[0]
        return result

    def share_weights(self, module: nn.Module) -> None:
        """Copy the main process's weights and buffers into the others' `module`."""
        if self.count > 1:
            from accelerate.utils import broadcast

            broadcast(list(module.state_dict().values()))  # in place

    def sum_gradients(self, module: nn.Module) -> None:
        """Sum the gradients of `module` over the processes.

        DistributedDataParallel would leave a wrapper on the user's module, and stumble over weights that go unused.
        """
        if self.count > 1:
            gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
            summed = self.sum(nn.utils.parameters_to_vector(gradients))
            nn.utils.vector_to_parameters(summed, gradients)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def main_first(self) -> AbstractContextManager[None]:
        """Let the first process of each machine go through a block before the others, to fill a cache."""
        context: AbstractContextManager[None] = (
            nullcontext() if self.accelerator is None else self.accelerator.local_main_process_first()
        )
        return context


def check_mixed_precision(mixed_precision: str, accelerator: Accelerator | None) -> str:
    """Return the accelerator's mixed precision where it has one, else the one given.

    Raises
    ------
    ValueError
        If it is neither "no" nor "bf16".
    """
    if accelerator is not None and accelerator.mixed_precision != "no":
        mixed_precision = accelerator.mixed_precision
    if mixed_precision not in ("no", "bf16"):
        raise ValueError(f"mixed_precision must be 'no' or 'bf16', got {mixed_precision!r}")
    return mixed_precision


def autocast(device: torch.device, mixed_precision: str) -> AbstractContextManager[Any]:
    """Return a context to compute in: torch's for "bf16", none for "no", which leaves a user's own in place."""
    return nullcontext() if mixed_precision == "no" else torch.autocast(device.type, torch.bfloat16)


class _Sum(torch.autograd.Function):
    """The sum over the processes; what it is derived by is summed too."""

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

    Then a step is that of one process with the whole batch, running statistics included. torch's SyncBatchNorm does it
    on GPUs alone, and would replace the user's modules.
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
    # The last batch may leave a process without any images: it still takes part in the sums.
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
    joint: Tensor = normalised.to(features.dtype)
    return joint
