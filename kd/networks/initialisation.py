"""How JDTLosses' code initialises what stands on the backbone (github.com/zifuwanggg/JDTLosses).

PyTorch draws a convolution's weights from a range narrower by the square root of 6. In front of a batch norm their scale does
not matter to the output, but to how far a step of AdamW, whose length it does not change, turns it.
"""

from __future__ import annotations

from torch import nn


class LastConv(nn.Conv2d):
    """The convolution that gives the logits."""


def initialise(*modules: nn.Module | None) -> None:
    """Kaiming-uniform weights by fan-in for convolutions, Xavier-uniform ones for those that give logits, biases 0.

    Batch norms keep 1 and 0, which is PyTorch's default too.
    """
    for conv in (part for module in modules if module is not None for part in module.modules() if isinstance(part, nn.Conv2d)):
        if isinstance(conv, LastConv):
            nn.init.xavier_uniform_(conv.weight)
        else:
            nn.init.kaiming_uniform_(conv.weight, mode="fan_in", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
