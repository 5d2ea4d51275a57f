"""A teacher as training steps ask it: batch norms folded, weights in the number format it computes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kd.networks.folding import resting
from kd.types import Batch, Outputs

Asked = Callable[[Batch], Outputs]


def quickened(teacher: Any, precision: torch.dtype, channels_last: bool, compiled: bool) -> Asked:
    """The same answers up to rounding, sooner; of a copy, so that evaluation goes on with the weights as they are.

    ``precision`` is the type that autocast computes in. Convolutions and products hold their weights in it: autocast would
    convert those of a frozen network again in every step. ``compiled``: by ``torch.compile``.
    """
    twin = resting(teacher, channels_last)
    half = precision != torch.float32
    if half:
        for module in twin.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.to(precision)
    if compiled:
        twin.look = torch.compile(twin.look)  # of the image alone: the names in a batch would be compiled in

    def ask(batch: Batch) -> Outputs:
        with torch.autocast(batch.image.device.type, precision, enabled=half):
            found: Outputs = twin(batch)
        return found

    return ask
