"""Recipes used to be one file for each pair and method: every one of them resolves to the same content in its new spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kd.recipe.loading import load
from kd.recipe.schema import Machine, fingerprint

ROOT = Path(__file__).parent.parent
TABLE = yaml.safe_load((ROOT / "tests" / "golden" / "old_recipes.yaml").read_text())


def test_none_is_forgotten() -> None:
    assert len(TABLE) == 133


@pytest.mark.parametrize("old", TABLE)
def test_resolves_to_the_same(old: str) -> None:
    new, mark = TABLE[old]
    name, *method = new.split()
    recipe, _ = load(name, method)
    assert fingerprint(recipe) == mark
    assert (recipe.seed, recipe.run) == (0, Machine())
