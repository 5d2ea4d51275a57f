"""What a sweep file's ``settings`` and the command line change in a recipe: what means something to it.

The weight of a term goes to the points that compute it, so that ``weights.kl=2`` leaves baseline and teacher alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kd.config import ConfigError
from kd.recipe.loading import Draft
from kd.sweep.axes import Choice
from kd.sweep.schema import Sweep

S = TypeVar("S", bound=Any)
"""A student: it has ``choices``."""


def apply_settings(sweep: Sweep, written: Draft) -> None:
    """The settings for all students; weights last, when all terms are there."""
    settings = sweep.file.settings
    for key in sorted(settings, key=lambda key: key.startswith("weights.")):
        if not written.lacks(key):
            written.apply({key: settings[key]}, f"sweep {sweep.name}")


def apply_command_line(sweep: Sweep, written: Draft) -> None:
    """The changes for every recipe, teachers included."""
    for change in sorted(sweep.changes, key=lambda change: "weights" in change):
        ((key, value),) = change.items()
        kept = value
        if isinstance(value, dict):
            kept = {name: inner for name, inner in value.items() if not written.lacks(f"{key}.{name}")}
        if kept or not value:
            written.merge({key: kept})


def meant(choices: Mapping[str, Choice], written: Draft) -> dict[str, Choice]:
    """The choices without those that set nothing that the recipe has, as a knob of the method beside the baseline."""
    return {
        axis: choice
        for axis, choice in choices.items()
        if not choice.settings or not all(written.lacks(key) for key in choice.settings)
    }


def distinct(sweep: Sweep, made: Sequence[tuple[Mapping[str, Choice], S]]) -> list[S]:
    """The students of all choices; one for which an axis means nothing, once.

    Raises:
        ConfigError: an axis means nothing to any student.
    """
    found: list[S] = []
    reduced: set[tuple[tuple[str, str], ...]] = set()
    for given, student in made:
        mark = tuple((axis, choice.label) for axis, choice in student.choices.items())
        if mark not in reduced:
            found.append(student)
        if len(student.choices) < len(given):
            reduced.add(mark)
    meaning = {axis for student in found for axis in student.choices}
    for axis in (axis for given, _ in made for axis in given):
        if axis not in meaning:
            raise ConfigError(f"{sweep.path}: axes.{axis}: no point has that key; correct it, or drop the axis")
    return found


def check_keys(sweep: Sweep, students: Sequence[Draft]) -> None:
    """A weight, or a knob of the method, that is left out where it means nothing must mean something somewhere.

    Raises:
        ConfigError: it does not.
    """
    asked = [key for key in sweep.file.settings if key.partition(".")[0] in PARTS]
    for change in sweep.changes:
        ((part, value),) = change.items()
        asked += [f"{part}.{name}" for name in value] if part in PARTS and isinstance(value, dict) else []
    for key in asked:
        if students and all(student.lacks(key) for student in students):
            part, _, name = key.partition(".")
            terms = {term for student in students for term in student.tree.get("weights") or {}}
            why = f"no point computes '{name}' (terms: {', '.join(sorted(terms))})" if part == "weights" else PARTS[part]
            raise ConfigError(f"{sweep.path}: {key}: {why}; correct or drop it")


PARTS = {"weights": "", "method": "no point's method has that knob"}
"""Parts of a recipe whose keys are left out where they mean nothing."""
