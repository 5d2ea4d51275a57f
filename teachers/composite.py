"""Teachers made of teachers: nested configurations that are checked with the recipe, and means of probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, field_validator
from torch import Tensor

from kd.config import ConfigError
from kd.lookup import lookup, named
from teachers.foreign import ClassesError
from teachers.teacher import Teacher


def _a_part(value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("floor"):  # 0 stands in a resolved recipe
        raise ConfigError("has a floor, but only the whole is measured; set the floor of the outer teacher")
    if isinstance(value, Mapping) and value.get("precision", "step") != "step":
        raise ConfigError("has a precision, but the whole computes in one; set the precision of the outer teacher")
    if isinstance(value, Mapping) and value.get("cache"):
        raise ConfigError("has a cache, but only the whole is asked in training; cache the outer teacher")
    return value


class Whole(Teacher.Config):
    """Keys of a teacher made of teachers. Its parts answer in the data set's classes: ``classes`` is theirs to say."""

    @field_validator("classes")
    @classmethod
    def _is_of_the_parts(cls, classes: Any) -> None:
        if classes is not None:
            raise ValueError("is of the teachers inside, which answer in the data set's classes; set it there")


Member: Any = Annotated[named("teachers", "Teacher"), BeforeValidator(_a_part)]
"""A field written like ``teacher`` itself; its ``name`` chooses the class that checks the rest."""


def build_member(config: Any, classes: tuple[str, ...], where: str, asked: str = "logits") -> Teacher:
    """The teacher of a nested configuration; its errors begin with ``where`` instead of ``teacher``.

    Raises:
        ConfigError: as the member's own; it gives no ``asked`` (logits or features).
    """
    try:
        member = _built(config, classes, asked)
    except ConfigError as error:
        keys = "|".join(type(config).model_fields)
        text = re.sub(rf"(?<![\w./-])teacher(?=: |\.(?:{keys})\b)", where, str(error))
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None
    there = {"logits": member.knows_classes, "features": bool(member.sizes.fields & {"embedding", "pyramid"})}
    if not there[asked]:
        lacking = "knows no classes" if asked == "logits" else "gives no embedding and no pyramid"
        raise ConfigError(f"{where}: {member.source} {lacking}, so it has no {asked} to give; choose another teacher here")
    return member


def _built(config: Any, classes: tuple[str, ...], asked: str) -> Teacher:
    cls = lookup("teachers", config.name, "Teacher")
    try:
        member: Teacher = cls(config, classes)
    except ClassesError:
        if asked != "features":
            raise
        member = cls(config, ())  # what it calls them is of no matter
    return member


def taken(members: Iterable[Any]) -> int | None:
    """The channels of the images that all take; None where they differ, or one is shown some of them only."""
    found = {member.takes if member.shown is None else None for member in members}
    return found.pop() if len(found) == 1 else None


def log_mean(parts: Iterable[tuple[float, Tensor]]) -> Tensor:
    """``log(sum_i w_i softmax(z_i))`` over the channels of weighted logits, ``w`` summing to one; safe where a softmax is 0."""
    total: Tensor | None = None
    for weight, logits in parts:
        part = logits.log_softmax(1) + math.log(weight)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total
