"""Logits in a byte each: how far a class lies below the best one, in steps of 1/16 down to 16, where its share is 1e-7."""

from __future__ import annotations

import torch
from torch import Tensor

DEPTH = 16.0
"""What lies further below the best class is stored as lying so far below it."""


def encode(logits: Tensor) -> Tensor:
    """uint8 of logits, classes in dimension 1: ``255 + 255 / DEPTH * (z - max z)``, rounded, never below 0."""
    logits = logits.float()
    below = logits - logits.amax(1, keepdim=True)
    return (below * (255 / DEPTH) + 255).clamp_(min=0).round_().to(torch.uint8)


def decode(codes: Tensor) -> Tensor:
    """float32 logits, at most 0; the softmax knows no difference."""
    return (codes.float() - 255) * (DEPTH / 255)


def divergence(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean over the pixels of ``KL(softmax(z) || softmax(decoded))`` in nats: what storing them has cost. ``B``."""
    told, kept = logits.double().log_softmax(1), decode(codes).double().log_softmax(1)
    return (told.exp() * (told - kept)).sum(1).flatten(1).mean(1)
