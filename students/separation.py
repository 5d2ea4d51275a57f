"""Where the labels of a batch speak, and where the teacher alone does."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kd.recipe.unlabelled import Unlabelled
from kd.types import IGNORE, UNLABELLED, Batch, Outputs, full_precision
from kd.types import Unlabelled as Pixels


def separated(batch: Batch, teacher: Outputs | None, config: Unlabelled) -> tuple[Batch, Outputs | None]:
    """The batch with labels or ``IGNORE`` alone, and the teacher's outputs with what it is to be heeded for beyond labels."""
    pixels = batch.target == UNLABELLED
    batch = replace(batch, target=batch.target.masked_fill(pixels, IGNORE))
    if teacher is None:
        return batch, None
    free = pixels.flatten(1).any(1).view(-1, 1, 1)
    logits = _sharpened(teacher.logits, free, config.temperature)
    aux = None if teacher.aux_logits is None else _sharpened(teacher.aux_logits, free, config.temperature)
    doubted = free & (confidence(logits) < config.confidence) if config.confidence else None
    return batch, replace(teacher, logits=logits, aux_logits=aux, unlabelled=Pixels(pixels, doubted))


def _sharpened(logits: Tensor, images: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else torch.where(images.unsqueeze(1), logits / temperature, logits)


def confidence(logits: Tensor) -> Tensor:
    """The probability of the first class, ``B K h w`` to ``B h w``."""
    values = full_precision(logits)
    return (values.amax(1) - values.logsumexp(1)).exp()
