"""Knobs that fit neither network nor mathematics are refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny

from kd.config import ConfigError
from kd.networks.build import build_network
from students.objective import build_objective


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "cross_entropy", "class_weights": [1, 2]}, r"loss\.ce: class_weights has 2 entries, but .* 8 classes"),
        ({"name": "overlap", "class_weights": [1.0] * 9}, r"loss\.ce: class_weights has 9 entries"),
        ({"name": "overlap", "active_hard": [0, 8]}, r"loss\.ce: active classes \[0, 8\] must be .* 0\.\.7"),
        ({"name": "overlap", "active_soft": [-1]}, r"loss\.ce: active classes \[-1\] must be"),
    ],
)
def test_losses_are_checked_against_the_classes(loss: dict[str, Any], message: str) -> None:
    recipe = tiny("ce", loss={"ce": loss})
    with pytest.raises(ConfigError, match=message):
        build_objective(recipe, build_network(recipe.student, 8), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"optimizer": {"betas": [0.9, 1.0]}}}, r"schedule\.optimizer: betas is \[0\.9, 1\.0\]; both must be"),
        ({"schedule": {"optimizer": {"nesterov": True, "momentum": 0}}}, "nesterov is true, but momentum is 0; give"),
        ({"augmentation": {"fill": [0, 300, 0]}}, r"augmentation: fill is \[0, 300, 0\]; an RGB colour"),
        ({"run": {"threads": 100_000}}, r"run\.threads: is 100000; .* less than or equal to 1024"),
    ],
)
def test_impossible_knobs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny("ce", **changes)


def test_listed_classes_in_range_are_fine() -> None:
    recipe = tiny("ce", loss={"ce": {"name": "overlap", "active_hard": [0, 7], "class_weights": [1.0] * 8}})
    assert build_objective(recipe, build_network(recipe.student, 8), None)
