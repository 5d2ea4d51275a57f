"""The axes of a sweep as the choices that make each of its points."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from kd.config import ConfigError, shown
from kd.recipe.schema import Recipe

METHOD = "method"
"""The axis that lists methods instead of values of a key."""
Settings = dict[str, Any]
"""Dotted keys of a recipe to values, e.g. ``{"schedule.steps": 1000}``."""


@dataclass(frozen=True)
class Choice:
    """A value of an axis: how it is called, and the settings that it stands for."""

    label: str
    settings: Settings


def known_key(key: str) -> None:
    """Check that a dotted key begins with a field of a recipe.

    Raises:
        ConfigError: it does not.
    """
    head, fields = str(key).partition(".")[0], list(Recipe.model_fields)
    if head not in fields:
        close = difflib.get_close_matches(head, fields, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"it must begin with one of {', '.join(fields)}"
        raise ConfigError(f"'{key}' is no key of a recipe; {hint}")


def size(recipes: Sequence[str], grids: Iterable[Mapping[str, Any]]) -> int:
    """How many points there will be, exclusions included; axes that are wrong are told later."""
    counts = [[len(given) if isinstance(given, list | tuple | dict) else 1 for given in grid.values()] for grid in grids]
    return len(recipes) * sum(math.prod(count) for count in counts)


def combinations(recipes: Sequence[str], grids: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Choice]]:
    """The choices of every point, exclusions included. ``recipe`` is the first.

    A point that an earlier grid has too comes once: an axis given on the command line is that of all grids, which may then
    overlap.

    Raises:
        ConfigError: an axis is no key of a recipe, or has no value.
    """
    earlier: set[str] = set()
    for grid in grids:
        values = [_choices(axis, given) for axis, given in grid.items()]
        found = [
            {"recipe": Choice(recipe, {}), **dict(zip(grid, combination, strict=True))}
            for recipe, combination in product(recipes, product(*values))
        ]
        marks = [repr(sorted(one.items(), key=lambda item: item[0])) for one in found]
        yield from (one for one, mark in zip(found, marks, strict=True) if mark not in earlier)
        earlier.update(marks)


def _choices(axis: str, given: Any) -> list[Choice]:
    if isinstance(given, Mapping) and axis != METHOD:
        for settings in given.values():
            if not isinstance(settings, Mapping):
                raise ConfigError(f"axes.{axis}: {shown(settings)} is no mapping of dotted keys to values")
            for key in settings:
                known_key(key)
        return [Choice(str(label), dict(settings)) for label, settings in given.items()]
    values = given if isinstance(given, list | tuple) else [given]
    if not values:
        raise ConfigError(f"axes.{axis}: has no value; give at least one, or drop the axis")
    if axis == METHOD:
        return [Choice(_word(value), {}) for value in values]
    known_key(axis)
    return [Choice(label_of(value), {axis: value}) for value in values]


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"axes.method: {shown(value)} is no method; list what `kd train RECIPE METHOD` takes, e.g. [ce, kd, cwd]"
        )
    return value


def label_of(value: Any) -> str:
    """A value as texts and conditions write it."""
    return value if isinstance(value, str) else json.dumps(value)


def labels(wanted: Any) -> list[str]:
    """The labels that a condition wants of an axis: one, or any of a list."""
    return [label_of(value) for value in (wanted if isinstance(wanted, list | tuple) else [wanted])]


def matches(condition: Mapping[str, Any], choices: Mapping[str, Choice]) -> bool:
    """Whether a point's choices satisfy a condition; an axis that the point has not does not."""
    return all(axis in choices and choices[axis].label in labels(wanted) for axis, wanted in condition.items())
