"""Stages of a method and the precision of a device: small pure functions of the recipe."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch

from kd.config import ConfigError
from kd.types import Stage


class Span(NamedTuple):
    """A stage and its steps, ``first`` to ``end`` exclusive."""

    stage: Stage
    first: int
    end: int


def spans(stages: tuple[Stage, ...], steps: int) -> list[Span]:
    """The stages one after the other. ``steps`` counts those that train the student, so that every method trains it equally
    long; other stages come on top, in proportion to their share."""
    total = sum(stage.share for stage in stages if stage.trains_student)
    ends = [round(steps * passed / total) for passed in accumulate(stage.share for stage in stages)]
    return [Span(stage, first, end) for stage, first, end in zip(stages, [0, *ends], ends, strict=False)]


def span_at(found: list[Span], step: int) -> Span:
    """The stage that a step belongs to."""
    return next(span for span in found if step < span.end)


def precision(choice: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in. ``auto``: bf16 on GPUs that have it, fp16 on others, fp32 on the CPU.

    Raises:
        ConfigError: fp16 on the CPU, which has no use for it.
    """
    if choice == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if choice == "fp16" and device.type == "cpu":
        raise ConfigError("schedule.precision: fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]
