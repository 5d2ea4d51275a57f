"""Stages of a method and the steps that belong to each."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

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
