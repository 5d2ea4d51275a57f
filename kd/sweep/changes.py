"""What a sweep file's ``settings`` and the command line change in a recipe: what means something to it.

The weight of a term goes to the points that compute it, so that ``weights.kl=2`` leaves baseline and teacher alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from kd.config import ConfigError
from kd.recipe.loading import Draft
from kd.recipe.schema import Recipe
from kd.sweep.schema import Sweep


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
        meant = value
        if isinstance(value, dict):
            meant = {name: inner for name, inner in value.items() if not written.lacks(f"{key}.{name}")}
        if meant or not value:
            written.merge({key: meant})


def check_weights(sweep: Sweep, students: Sequence[Recipe]) -> None:
    """A weight that is left out where there is no such term must find one somewhere.

    Raises:
        ConfigError: it does not.
    """
    asked = [key.partition(".")[2] for key in sweep.file.settings if key.startswith("weights.")]
    for change in sweep.changes:
        asked += change["weights"] if isinstance(change.get("weights"), dict) else []
    terms = {term for recipe in students for term in (*recipe.weights, *(recipe.loss or {}))}
    for term in asked:
        if term not in terms:
            there = ", ".join(sorted(terms))
            raise ConfigError(f"{sweep.path}: weights.{term}: no point computes '{term}' (terms: {there}); drop it")
