"""Scalars whose gradient is formed beside them, so that no graph of intermediate maps is kept, and backward is one product.

What is summed is written once, as a function of detached tensors that returns the scalar and its gradients; the plain
expression stands in the tests and in ``kd benchmark methods``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]
"""Of each input, None where none is asked for."""


class _Formed(torch.autograd.Function):
    """A scalar with its gradients, which backward scales."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Gradients, *inputs: Tensor) -> Tensor:  # noqa: ARG004
        """The scalar."""
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, weighted."""
        refuse_second()
        return None, None, *(None if found is None else found * weights[0].to(found.dtype) for found in ctx.saved_tensors)


def refuse_second() -> None:
    """To be called in backward.

    Raises:
        RuntimeError: a graph of it is asked for.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "this term forms its gradient in one pass and has no second derivative: call backward() without create_graph, or "
            "write the term with torch's own operations"
        )


def saved(values: Tensor | None) -> Tensor | None:
    """What can be saved for backward; tensors of inference mode cannot."""
    return values.clone() if values is not None and values.is_inference() else values


def formed(make: Callable[..., tuple[Tensor, Gradients]], *inputs: Tensor) -> Tensor:
    """The scalar that ``make`` computes of the ``inputs``, differentiable once in each.

    Args:
        make: takes a flag for each input and gives the scalar and as many gradients, None where the flag is down. It runs
            without a graph and outside autocast.
    """
    wanted = [torch.is_grad_enabled() and values.requires_grad for values in inputs]
    with torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        value, gradients = make(*wanted)
    found: Tensor = _Formed.apply(value, gradients, *inputs) if any(wanted) else value
    return found
