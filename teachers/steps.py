"""A teacher as training steps ask it: batch norms folded, weights in the number format it computes in."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from kd.networks.folding import fold
from kd.types import Batch, Outputs

Asked = Callable[[Batch], Outputs]


def quickened(teacher: nn.Module, precision: torch.dtype, channels_last: bool) -> Asked:
    """The same answers up to rounding, sooner; of a copy, so that evaluation goes on with the weights as they are.

    ``precision`` is the type that autocast computes in. Convolutions and products hold their weights in it: autocast would
    convert those of a frozen network again in every step.
    """
    twin = copy.deepcopy(teacher).train(False)
    fold(twin)
    if channels_last:
        twin.to(memory_format=torch.channels_last)
    half = precision != torch.float32
    if half:
        for module in twin.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.to(precision)

    def ask(batch: Batch) -> Outputs:
        with torch.autocast(batch.image.device.type, precision, enabled=half):
            return twin(batch)

    return ask
