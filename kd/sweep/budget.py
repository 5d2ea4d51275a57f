"""How many steps each student of a sweep gets, so that all cost the same steps, samples or time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd.config import ConfigError
from kd.recipe.schema import Recipe, fingerprint, plain
from kd.sweep.schema import SweepFile

Clock = Mapping[str, Mapping[str, Any]]
"""Measured times by :func:`clock_key`: ``student`` and ``extra`` seconds per student step, the latter for other stages."""


@dataclass(frozen=True)
class Plan:
    """Steps of a student. ``budget`` is what it would get without matching; ``seconds_per_step`` what a step was measured to
    cost, None where nothing is measured; ``pending``: its time is not known yet, so ``steps`` is provisional."""

    steps: int
    budget: int
    seconds_per_step: float | None = None
    pending: bool = False


def clock_key(recipe: Recipe, spelled: bool = False) -> str:
    """The same for recipes that differ in seed and number of steps only."""
    schedule = recipe.schedule.model_copy(update={"steps": 1})
    return fingerprint(recipe.model_copy(update={"schedule": schedule}), spelled=spelled)


def measured_times(recipe: Recipe, clock: Clock) -> Mapping[str, Any] | None:
    """What ``clock`` has of a recipe, also from when weights were known by their path; None if it has nothing."""
    return clock.get(clock_key(recipe)) or clock.get(clock_key(recipe, spelled=True))


def plans(recipes: Sequence[Recipe], file: SweepFile, clock: Clock) -> list[Plan]:
    """The steps of each student, given as its recipe before any budget.

    Raises:
        ConfigError: ``match`` is asked for, but a student has no baseline to match.
    """
    hours = file.budget.hours if file.budget else None
    counts = [_count(recipe, file) for recipe in recipes]
    if not file.match and not hours:
        return [Plan(count, count) for count in counts]
    costs = [_cost(recipe, file, clock) for recipe in recipes]
    found = []
    for recipe, count, cost in zip(recipes, counts, costs, strict=True):
        if hours:
            total: float | None = hours * 3600
        else:
            other = _baseline(recipe, recipes)
            price = costs[other]
            total = None if price is None else price * counts[other]
        known = cost is not None and total is not None
        steps = max(1, math.floor(total / cost + 1e-6)) if cost is not None and total is not None else count
        found.append(Plan(steps, count, cost, pending=not known))
    return found


def _count(recipe: Recipe, file: SweepFile) -> int:
    if file.budget and file.budget.samples:
        return math.ceil(file.budget.samples / recipe.schedule.batch)
    return file.budget.steps if file.budget and file.budget.steps else recipe.schedule.steps


def _cost(recipe: Recipe, file: SweepFile, clock: Clock) -> float | None:
    """Seconds per student step; tokens that others learn cost nothing."""
    times = measured_times(recipe, clock)
    return None if times is None else times["student"] + (times["extra"] if file.tokens == "own" else 0.0)


def _baseline(recipe: Recipe, recipes: Sequence[Recipe]) -> int:
    """The first that has no method, but the same data, student and optimizer."""
    for number, other in enumerate(recipes):
        if other.method is None and _shared(other) == _shared(recipe):
            return number
    raise ConfigError(
        "match: a student has no baseline to match; add a point without method (such as METHOD=ce) with the same data, "
        "augmentation, student and schedule"
    )


def _shared(recipe: Recipe) -> str:
    schedule = {**plain(recipe)["schedule"], "steps": 1}
    return fingerprint(recipe, ["data", "augmentation", "student"]) + repr(schedule)


def total_steps(recipe: Recipe) -> int:
    """Steps of all stages. Only MasKD has one that does not train the student."""
    method = plain(recipe)["method"] or {}
    extra = method["share"] if method.get("name") == "maskd" and method["tokens"] is None else 0
    return recipe.schedule.steps + round(recipe.schedule.steps * extra)
