"""Every recipe is valid and runs: resolved, and four steps of it on procedural images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kd.config import ConfigError
from kd.data.build import open_split
from kd.recipe import describe, fingerprint, load
from students.run import train
from teachers.load import load_teacher

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml") if path.parent.name not in ("_parts", "sweeps"))
PARTS = sorted((ROOT / "recipes" / "_parts").rglob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes").with_suffix(""))


def distinct(paths: list[Path]) -> list[Path]:
    """One recipe of those that only differ in what a smoke run replaces (data set, schedule's length) or in numbers."""
    found: dict[str, Path] = {}
    for path in paths:
        recipe, _ = load(path, smoke=True)
        kind, terms = recipe.schedule.optimizer.kind, sorted(recipe.weights)
        same = f"{fingerprint(recipe, ['student', 'teacher', 'labels', 'loss', 'method'])} {kind} {terms}"
        found.setdefault(same, path)
    return list(found.values())


@pytest.mark.parametrize("path", distinct(RECIPES), ids=name)
def test_smoke(path: Path, tmp_path: Path) -> None:
    recipe, origins = load(path, ["run.device=cpu"], smoke=True)
    data = open_split(recipe.data, "train")
    teacher = load_teacher(recipe.teacher, data.classes) if recipe.teacher is not None else None
    result = train(recipe, origins, tmp_path, teacher, data, torch.device("cpu"))
    assert result["student_steps"] == 4
    assert (tmp_path / "previews" / "final.png").stat().st_size > 1000


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_resolves_and_names_itself(path: Path, tmp_path: Path) -> None:
    recipe, origins = load(path)
    text = describe(recipe, origins)
    assert f"# recipes/{name(path)}.yaml" in text or "extends" in path.read_text()
    (tmp_path / "again.yaml").write_text(text)
    assert load(tmp_path / "again.yaml")[0] == recipe
    assert f"python tools/train.py recipes/{name(path)}.yaml" in path.read_text()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_students_teacher_is_the_run_of_a_recipe(path: Path) -> None:
    recipe, _ = load(path)
    if recipe.teacher is not None:
        _, folder, stem, seed = Path(recipe.teacher.path).parts
        assert (ROOT / "recipes" / folder / f"{stem}.yaml").exists()
        assert seed == "seed0"


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_parts_are_short_and_used(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= 12
    part = str(path.relative_to(ROOT / "recipes").with_suffix(""))
    optional = path.parent.name in ("augmentation", "method", "schedule", "student", "teacher")
    assert optional or any(part in user.read_text() for user in RECIPES)


@pytest.mark.parametrize("path", [part for part in PARTS if part.parent.name == "method"], ids=lambda path: path.stem)
def test_every_preset_of_a_method_trains(path: Path, tmp_path: Path) -> None:
    (tmp_path / "_parts").symlink_to(ROOT / "recipes" / "_parts")
    task = [] if path.stem == "jml_kd" else ["loss/ce"]  # it is a whole objective
    parts = ["data/shapes", "student/shapes_tiny", "schedule/shapes", "teacher/shapes_r10", *task, f"method/{path.stem}"]
    (tmp_path / "r.yaml").write_text(f"extends: [{', '.join(f'_parts/{part}' for part in parts)}]")
    recipe, origins = load(tmp_path / "r.yaml", ["run.device=cpu", "run.previews=0"], smoke=True)
    data = open_split(recipe.data, "train")
    teacher = load_teacher(recipe.teacher, data.classes)
    result = train(recipe, origins, tmp_path / "run", teacher, data, torch.device("cpu"))
    assert result["status"] == "finished"


@pytest.mark.parametrize("preset", ["jml", "cirkd"])
def test_augmentation_presets(preset: str, tmp_path: Path) -> None:
    (tmp_path / "_parts").symlink_to(ROOT / "recipes" / "_parts")
    recipe = tmp_path / "r.yaml"
    parts = "_parts/data/shapes, _parts/student/shapes_tiny, _parts/loss/ce"
    recipe.write_text(f"extends: [{parts}, _parts/augmentation/{preset}]")
    found = load(recipe)[0].augmentation
    expected = {"jml": (0.0, "centre"), "cirkd": (0.1, "corner")}
    assert (found.scale_step, found.pad) == expected[preset]
    assert found.scale == (0.5, 2.0)


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/train.py"), str(ROOT / "recipes/shapes/tiny_ce.yaml")]
    dry = subprocess.run([*command, "--dry-run", "seed=3"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert dry.returncode == 0
    assert "seed: 3" in dry.stdout
    assert "# command line" in dry.stdout
    assert not list(tmp_path.iterdir())
    bad = subprocess.run([*command, "schedule.stepps=3"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: schedule.stepps: there is no such key; did you mean 'steps'?")
    assert "Traceback" not in bad.stderr


def test_a_missing_data_root_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KD_DATA", raising=False)
    recipe, _ = load(ROOT / "recipes/camvid/r18_ce.yaml", [f"data.root={tmp_path / 'nowhere'}"])
    with pytest.raises(ConfigError, match=r"data\.root: .*nowhere.* is no directory; point data\.root at"):
        open_split(recipe.data, "train")
