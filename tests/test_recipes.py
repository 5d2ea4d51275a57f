"""Every recipe is valid and runs: resolved, and four steps of it on procedural images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from helpers_tools import call
from test_method_runs import PRESETS

from kd.config import ConfigError
from kd.data.build import open_split
from kd.recipe.library import comment, method_files, recipe_names
from kd.recipe.loading import describe, load
from kd.recipe.schema import plain
from kd.results.names import dataset_label, student_label
from kd.results.published import load_published
from students.run import train
from teachers.load import load_teacher

ROOT = Path(__file__).parent.parent
TEACHERS = [name for name in recipe_names() if name.endswith("_teacher")]
PAIRS = [name for name in recipe_names() if name not in TEACHERS]
METHODS = list(method_files())
WHOLE = [name for name, file in method_files().items() if "extends:" not in file.read_text()]
"""Without those that only are another's shorter name."""
PARTS = sorted((ROOT / "recipes" / "_parts").rglob("*.yaml"))


Spelled = tuple[str, ...]
"""A recipe and, for a pair, its method."""


def distinct() -> list[Spelled]:
    """One of those that only differ in what a smoke run replaces (data set, schedule's length), in numbers, or in depth."""
    found: dict[str, Spelled] = {}
    shallow_first = sorted(TEACHERS, key=lambda name: "r101" in name)
    for spelled in [(name,) for name in shallow_first] + [
        (pair, method) for pair in PAIRS for method in ("ce", "kd", "jml_kd")
    ]:
        recipe, _ = load(spelled[0], spelled[1:], smoke=True)
        values = {part: plain(recipe)[part] for part in ("student", "teacher", "labels", "loss", "method")}
        same = f"{values} {recipe.schedule.optimizer.kind} {sorted(recipe.weights)}"
        found.setdefault(re.sub(r"resnet\d+", "resnet", same), spelled)
    return list(found.values())


@pytest.mark.parametrize("spelled", distinct(), ids=" ".join)
def test_smoke(spelled: Spelled, tmp_path: Path) -> None:
    recipe, origins = load(spelled[0], [*spelled[1:], "run.device=cpu"], smoke=True)
    data = open_split(recipe.data, "train")
    teacher = load_teacher(recipe.teacher, data.classes) if recipe.teacher is not None else None
    result = train(recipe, origins, tmp_path, teacher, data, torch.device("cpu"))
    assert result["student_steps"] == 4
    assert (tmp_path / "previews" / "final.png").stat().st_size > 1000


@pytest.mark.parametrize("pair", PAIRS)
def test_every_method_is_there_for_every_pair(pair: str, tmp_path: Path) -> None:
    for method in METHODS:
        recipe, origins = load(pair, [method])
        assert (recipe.teacher is None) == (recipe.method is None)
        assert set(recipe.loss or {}) <= set(recipe.weights)
    (tmp_path / "again.yaml").write_text(describe(recipe, origins))
    assert load(tmp_path / "again.yaml")[0] == recipe


@pytest.mark.parametrize("name", [*PAIRS, *TEACHERS])
def test_says_how_it_is_trained(name: str) -> None:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    assert f"kd train {name}" in text
    for command in re.findall(r"^#\s+kd train (.*)$", text, re.MULTILINE):
        words = [word for word in command.split() if "=" not in word and not word.endswith("]'")]
        load(words[0], words[1:])


def test_there_are_few_files() -> None:
    files = [path for path in (ROOT / "recipes").rglob("*.yaml") if not {"_parts", "results"} & set(path.parts)]
    assert len(files) <= 45


def test_words_are_unique() -> None:
    assert not {path.stem for path in PARTS if path.parent.name == "loss"} & {
        path.stem for path in PARTS if path.parent.name == "method"
    }


@pytest.mark.parametrize("pair", PAIRS)
def test_the_published_numbers_that_it_quotes_are_published(pair: str) -> None:
    recipe, _ = load(pair, ["kd"])
    text = comment(ROOT / "recipes" / f"{pair}.yaml")
    if "Published mIoU" not in text:
        assert pair.partition("/")[0] not in ("cityscapes", "cityscapes_cirkd", "voc", "voc_cirkd")
        return
    quoted = dict(re.findall(r"([a-z_@]+) (\d\d\.\d\d)", text.partition("Published mIoU")[2]))
    values = plain(recipe)
    where = dataset_label(values), student_label(values)
    known = [one for one in load_published().numbers if (one.dataset, one.student) == where and one.split == "val"]
    assert quoted
    for word, value in quoted.items():
        method = None if word == "ce" else word.partition("@")[0]
        assert float(value) in [one.miou for one in known if one.method == method], (word, value)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_students_teacher_is_the_run_of_a_recipe(pair: str) -> None:
    recipe, _ = load(pair, ["kd"])
    _, folder, stem, seed = Path(recipe.teacher.path).parts
    assert f"{folder}/{stem}" in TEACHERS
    assert seed == "seed0"


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.stem)
def test_parts_are_short_and_used(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= (17 if path.parent.name == "family" else 13)
    part = str(path.relative_to(ROOT / "recipes").with_suffix(""))
    optional = path.parent.name in ("family", "loss", "method", "schedule", "student", "teacher")
    assert optional or any(part in (ROOT / "recipes" / f"{user}.yaml").read_text() for user in [*PAIRS, *TEACHERS])


@pytest.mark.parametrize("method", [name for name in WHOLE if name not in PRESETS])
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    """Those that test_method_runs does not train."""
    recipe, origins = load("shapes/tiny", [method, "run.device=cpu", "run.previews=0"], smoke=True)
    data = open_split(recipe.data, "train")
    teacher = load_teacher(recipe.teacher, data.classes) if recipe.teacher is not None else None
    result = train(recipe, origins, tmp_path / "run", teacher, data, torch.device("cpu"))
    assert result["status"] == "finished"


def test_the_command(tmp_path: Path) -> None:
    dry = call("train", "shapes/tiny", "ce", "--dry-run", "seed=3", folder=tmp_path)
    assert dry.returncode == 0
    assert "seed: 3" in dry.stdout
    assert "# command line" in dry.stdout
    assert not list(tmp_path.iterdir())
    bad = call("train", "shapes/tiny", "ce", "schedule.stepps=3", folder=tmp_path)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: schedule.stepps: there is no such key; did you mean 'steps'?")
    assert "Traceback" not in bad.stderr


def test_a_missing_data_root_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KD_DATA", raising=False)
    recipe, _ = load("camvid/r18", ["ce", f"data.root={tmp_path / 'nowhere'}"])
    with pytest.raises(ConfigError, match=r"data\.root: .*nowhere.* is no directory; point data\.root at"):
        open_split(recipe.data, "train")
