"""Networks while they are evaluated, not trained: their mode and their device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def check_evaluating(network: nn.Module | None, name: str = "classifier") -> None:
    """Raise ValueError in train mode, in which batches change the network and results depend on the batch."""
    if network is not None and network.training:
        raise ValueError(f"{name} must be in eval mode, got one in train mode; call its eval() first")


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run a block with a network in eval mode, and put every part back into the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def device_of(network: nn.Module) -> torch.device:
    """Return the device of a network's weights; the CPU if it has none."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))
