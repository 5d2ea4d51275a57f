"""Teachers made of teachers: nested configurations that are checked with the recipe, and means of probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from torch import Tensor

from kd.config import ConfigError
from kd.lookup import lookup, named
from teachers.teacher import Teacher


def _a_part(value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("floor"):  # 0 stands in a resolved recipe
        raise ConfigError("has a floor, but only the whole is measured; set the floor of the outer teacher")
    if isinstance(value, Mapping) and value.get("precision", "step") != "step":
        raise ConfigError("has a precision, but the whole computes in one; set the precision of the outer teacher")
    if isinstance(value, Mapping) and value.get("cache"):
        raise ConfigError("has a cache, but only the whole is asked in training; cache the outer teacher")
    return value


Member: Any = Annotated[named("teachers", "Teacher"), BeforeValidator(_a_part)]
"""A field written like ``teacher`` itself; its ``name`` chooses the class that checks the rest."""


def build_member(config: Any, classes: tuple[str, ...], where: str) -> Teacher:
    """The teacher of a nested configuration; its errors begin with ``where`` instead of ``teacher``.

    Raises:
        ConfigError: as the member's own.
    """
    try:
        return lookup("teachers", config.name, "Teacher")(config, classes)
    except ConfigError as error:
        text = str(error)
        inner = text.removeprefix("teacher") if text.startswith(("teacher.", "teacher:")) else f": {text}"
        raise ConfigError(f"{where}{inner}") from None


def log_mean(parts: Iterable[tuple[float, Tensor]]) -> Tensor:
    """``log(sum_i w_i softmax(z_i))`` over the channels of weighted logits, ``w`` summing to one; safe where a softmax is 0."""
    total: Tensor | None = None
    for weight, logits in parts:
        part = logits.log_softmax(1) + math.log(weight)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total
