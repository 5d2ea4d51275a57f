"""What compares new runs of `kd sweep regression` with the rows that were committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from check_regression import chance, main, moved, page, table
from helpers_results import write_run
from scipy import stats
from tiny import tiny

from kd.recipe.schema import Recipe, fingerprint
from kd.sweep.points import expand
from kd.sweep.schema import read_sweep

FILE = Path(__file__).parent.parent / "recipes" / "shapes" / "results" / "regression.json"


def row(miou: float, std: float | None = 0.5, n: int = 5, name: str = "kd") -> dict[str, Any]:
    return {"row": name, "miou": miou, "miou_std": std, "n": n}


@pytest.mark.parametrize(("old", "new"), [(row(50), row(51)), (row(50, 0.2), row(50.4, 1.1, 3)), (row(50, 0.0), row(52, 1.0))])
def test_the_chance_is_welchs(old: dict[str, Any], new: dict[str, Any]) -> None:
    """To the whole degrees of freedom below Welch's."""
    facts = [(one["miou"], one["miou_std"], one["n"]) for one in (old, new)]
    expected = stats.ttest_ind_from_stats(*facts[0], *facts[1], equal_var=False).pvalue
    assert chance(old, new) == pytest.approx(expected, rel=0.25)
    assert chance(old, new) >= expected - 1e-9


def test_the_same_numbers_are_the_same() -> None:
    assert chance(row(50), row(50)) == 1
    assert chance(row(50, 0.0), row(50, 0.0)) == 1
    assert chance(row(50, 0.0), row(50.1, 0.0)) == 0


def test_what_has_moved_is_told() -> None:
    old = [row(50, name="ce"), row(55, name="kd"), row(60, name="cwd")]
    new = [row(50.2, name="ce"), row(52, name="kd"), row(61, name="dist")]
    lines = moved(old, new)
    assert lines[0].startswith("kd: 52.00 ± 0.50 (5 seeds), was 55.00 ± 0.50 (5 seeds); p = ")
    assert lines[1:] == ["cwd: missing among the new runs", "dist: new, 61.00 ± 0.50 (5 seeds); --update takes it in"]
    assert moved(old, old) == []


def test_runs_are_compared_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, gain in (("old", 4.0), ("new", 1.0)):
        for seed in range(3):
            write_run(tmp_path / folder / f"ce{seed}", tiny(seed=seed), 50.0 + seed / 10)
            write_run(tmp_path / folder / f"kd{seed}", tiny("kd", seed=seed), 50.0 + gain + seed / 10)
    for seed in range(3):
        write_run(tmp_path / "old" / f"jml{seed}", tiny("jml_kd", seed=seed), 53.0 + seed / 10)
    file = tmp_path / "results" / "table.json"
    assert main(str(tmp_path / "old"), str(file)) == 1
    assert "--update writes the first rows" in capsys.readouterr().out
    assert main(str(tmp_path / "old"), str(file), "--update") == 0
    assert "| kd | 54.10 ± 0.10 | 3 | +4.00 ⇑ |" in capsys.readouterr().out
    assert main(str(tmp_path / "old"), str(file)) == 0
    assert "3 rows: none has moved" in capsys.readouterr().out
    assert main(str(tmp_path / "new"), str(file)) == 1
    assert capsys.readouterr().out.startswith("kd: 51.10 ± 0.10 (3 seeds), was 54.10")
    assert main(str(tmp_path / "new"), str(file), "--update") == 0
    told = capsys.readouterr().out
    assert "| kd | 51.10 ± 0.10 | 3 | +1.00 ⇑ |" in told
    assert "| jml_kd | 53.10 ± 0.10 | 3 |" in told
    assert [one["row"] for one in json.loads(file.read_text())] == ["ce", "kd", "jml_kd"]


# ------------------------------------------------------------------------------------------- the committed rows


def committed() -> dict[str, dict[str, Any]]:
    return {one["row"]: one for one in json.loads(FILE.read_text(encoding="utf-8"))}


def test_the_committed_rows_are_of_todays_sweep(tmp_path: Path) -> None:
    """Else a recipe changes and leaves rows behind with which nothing can be compared any more."""
    recipes: dict[str, list[Recipe]] = {}
    for point in expand(read_sweep("regression"), tmp_path):
        if point.role == "student":
            recipes.setdefault(point.choices["method"], []).append(point.recipe)
    assert set(committed()) == set(recipes), "each method has a row"
    for name, row in committed().items():
        parts = {part: fingerprint(recipes[name][0], [part]) for part in row["parts"]}
        assert parts == row["parts"], f"{name} is another recipe now: train it and the baseline, then --update"
        assert row["seeds"] == [recipe.seed for recipe in recipes[name]]
        assert not {"incomplete", "other seeds"} & set(row["flags"])


def test_the_committed_page_shows_the_committed_rows() -> None:
    rows = list(committed().values())
    assert FILE.with_suffix(".md").read_text(encoding="utf-8") == page(rows)


def test_marks_are_corrected_for_all_rows_whenever_they_were_trained() -> None:
    found: dict[str, Any] = {"delta": 2.0, "delta_low": 1.0, "delta_high": 3.0, "delta_sign": 1, "flags": []}
    rows = [row(50, name=name) | found | {"delta_p": p} for name, p in (("kd", 0.03), ("cwd", 0.04), ("at", 0.001))]
    assert [line.count("⇑") for line in table(rows[:1]).splitlines()[2:]] == [1]
    assert [line.count("⇑") for line in table(rows).splitlines()[2:]] == [0, 0, 1]
