"""Which classes have pixels at all: a network cannot learn, and nothing can measure, what no label shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from kd.config import ConfigError
from kd.data.dataset import Dataset
from kd.seeds import generator
from kd.types import IGNORE

Shower = Callable[[Any, str], Iterable[Any]]
"""Wraps a sized iterable, and a title, with a progress bar."""


class Seen(NamedTuple):
    """What a look at labels has found: the numbers of classes, and whether some pixels have no label."""

    classes: frozenset[int]
    ignored: bool


def look(data: Dataset, enough: int, show: Shower | None = None) -> Seen:
    """Read labels, in an order of chance that is always the same, until ``enough`` classes have been seen, or all images."""
    order = torch.randperm(len(data), generator=generator(0, "presence")).tolist()
    seen: set[int] = set()
    for index in order if show is None else show(order, "looking for classes"):
        seen |= set(data.read(index)[1].unique().tolist())
        if len(seen - {IGNORE}) >= enough:
            break
    return Seen(frozenset(seen - {IGNORE}), IGNORE in seen)


def check_training(data: Dataset, show: Shower | None = None) -> None:
    """Refuse training images in which a class has no pixel. Stops at the first image that shows the last class.

    Raises:
        ConfigError: naming the classes.
    """
    seen = look(data, len(data.classes), show)
    if absent := [name for number, name in enumerate(data.classes) if number not in seen.classes]:
        raise ConfigError(
            f"data: no pixel of the {len(data)} training images is {', '.join(absent)}, which therefore cannot be learned; "
            f"{advice(data.classes, seen)}, or train all the same with run.absent_classes=allow"
        )


def advice(classes: Sequence[str], seen: Seen) -> str:
    """What to look at where a class has no pixel."""
    if len(classes) == 2 and seen.classes == {0} and seen.ignored:
        first, second = classes
        return (
            f"all other pixels are ignored, as the value 255 is by default: where 255 means {second}, say "
            f"'data.classes={{0: {first}, 255: {second}}}'"
        )
    return "check the class list and what is ignored (kd check-data counts both), or add images"


def is_unlabelled(data: Dataset, show: Shower | None = None) -> bool:
    """Whether no pixel of a split has a label, so that nothing can be measured on it."""
    return not look(data, 1, show).classes
