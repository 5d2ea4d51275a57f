"""Where two resolved recipes differ, by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kd.content import PLACES
from kd.recipe.later import came_later

ELSEWHERE = tuple(f"data.{key}" for key in PLACES)


def flat(values: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key; where the data lies is none: it changes no number."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from flat(value, f"{path}.{key}")
    elif path not in ELSEWHERE:
        yield path, values


def differing(one: Mapping[str, Any], other: Mapping[str, Any], parts: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of the parts that differ, with both values (None where a side has no such key).

    A key that came later than one of the recipes does not differ where it says what was done before.
    """
    first, second = (dict(leaf for part in parts for leaf in flat(recipe.get(part), part)) for recipe in (one, other))
    keys = [*first, *(key for key in second if key not in first)]
    found = {key: (first.get(key), second.get(key)) for key in keys if first.get(key) != second.get(key)}
    return {key: values for key, values in found.items() if not _grew(key, first, second)}


def _grew(key: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether one side has no such key yet, and the other says what was done before."""
    return (key in first) != (key in second) and came_later(key, first.get(key, second.get(key)))


def covers(allowed: tuple[str, ...], key: str) -> bool:
    """Whether a dotted key is one of ``allowed`` or lies below one."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)
