"""Whatever stands in a recipe, in a sweep file or on a command line is taken as it is meant, or refused in a short message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_faults import FAULTS
from helpers_fuzz import Tally, as_yaml, edited, examples, places, words
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny

from kd.config import legible
from kd.recipe.library import library
from kd.recipe.loading import describe, load
from kd.recipe.merging import Origins
from kd.recipe.schema import Recipe, fingerprint, plain
from kd.sweep.axes import size
from kd.sweep.points import Point, expand
from kd.sweep.schema import read_sweep

pytestmark = pytest.mark.timeout(3600 if FAULTS else 240)

LIBRARY = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(library().glob("*/*.yaml"))]
PAIRS = (("shapes/tiny", "jml_kd"), ("camvid/r18", "ce"), ("voc/psp_r18", "cirkd@voc+dist"))
WHOLE = [plain(load(pair, [word])[0]) for pair, word in PAIRS]
RECIPES = [*(plain(tiny(kind)) for kind in ("ce", "kd", "jml_kd")), *WHOLE, *(tree for tree in LIBRARY if "extends" in tree)]
METHODS = ("ce", "kd", "jml_kd", "cwd@cirkd+kd", "dist")
FIELDS = tuple(Recipe.model_fields)
LEAVES = sorted(
    {".".join(where) for tree in RECIPES for where in places(tree) if where and all(isinstance(k, str) for k in where)}
)
SMALL = {
    "recipe": "shapes/tiny",
    "axes": {"method": ["ce", "kd"], "seed": [0, 1], "method.temperature": [1, 2]},
    "settings": {"schedule.steps": 8},
    "exclude": [{"method": "kd", "seed": 1}],
    "overrides": [{"when": {"method": "ce"}, "settings": {"schedule.batch": 2}}],
}
SWEEPS = [*(tree for tree in LIBRARY if "axes" in tree), *[SMALL] * 6]
OWN = ["recipe", "budget.steps", "budget.hours", "most", "match", "teachers", "tokens", "axes", "method", "seed"]


def comes_back(recipe: Recipe, origins: Origins, folder: Path) -> None:
    """What is written of a recipe says the same."""
    file = folder / "again.yaml"
    file.write_text(describe(recipe, origins), encoding="utf-8")
    again, _ = load(file)
    assert repr(plain(again)) == repr(plain(recipe))
    assert fingerprint(again) == fingerprint(recipe)


def test_a_recipe_is_taken_as_it_is_meant_or_refused(tmp_path: Path, tally: Tally) -> None:
    file = tmp_path / "mine.yaml"

    @examples(150, 12_000)
    @given(as_yaml(edited(RECIPES)), st.sampled_from(((), *((method,) for method in METHODS))))
    def holds(content: bytes, method: tuple[str, ...]) -> None:
        file.write_bytes(content)
        if (found := tally.outcome(lambda: load(file, method), str(file), *FIELDS)) is not None:
            comes_back(*found, tmp_path)

    holds()


def test_words_beside_a_recipe_are_taken_as_they_are_meant_or_refused(tmp_path: Path, tally: Tally) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(describe(tiny("kd"), {}))
    (run / "run.json").write_text(json.dumps({"seed": 0}))
    names = ("shapes/tiny", "camvid/r18", str(run / "recipe.yaml"))

    @examples(200, 12_000)
    @given(st.sampled_from(names), st.lists(words(LEAVES, RECIPES), max_size=3), st.sampled_from(METHODS), st.booleans())
    def holds(name: str, changes: list[str], method: str, taught: bool) -> None:
        given = [method, *changes] if name in names[:2] else changes
        keys = [legible(change.partition("=")[0])[:20] for change in changes]
        if (found := tally.outcome(lambda: load(name, given, taught=taught), name, *FIELDS, *keys)) is not None:
            comes_back(*found, tmp_path)

    holds()


def test_a_sweep_makes_the_points_that_it_tells_of_or_is_refused(tmp_path: Path, tally: Tally) -> None:
    file = tmp_path / "mine.yaml"
    changed = words([*LEAVES, *OWN * 8], [*SWEEPS, *RECIPES])

    @examples(150, 12_000)
    @given(as_yaml(edited(SWEEPS)), st.just([]) | st.lists(changed, max_size=2))
    def holds(content: bytes, changes: list[str]) -> None:
        file.write_bytes(content)
        sweep = tally.outcome(lambda: read_sweep(file, changes), str(file))
        if sweep is not None and size(sweep.file.recipe, sweep.file.axes) <= 12:
            points = tally.outcome(lambda: expand(sweep, tmp_path / "runs"), str(file))
            if points is not None:
                are_runs(points, size(sweep.file.recipe, sweep.file.axes))

    holds()


def are_runs(points: list[Point], most: int) -> None:
    """Each has a directory of its own and finds what it needs among the others."""
    names: dict[str, Any] = {point.name: point for point in points}
    assert len(names) == len(points)
    assert 0 < sum(point.role == "student" for point in points) <= most
    assert all(name in names for point in points for name in point.needs)
    assert not [name for name in names if "/" in name or len(name) > 255]
