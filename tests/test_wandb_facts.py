"""Where a run stands in W&B follows from its recipe; a sweep knows more; the speed is that of the last steps."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny
from tiny_sweep import write, write_recipes

from kd.recipe.loading import load
from kd.recipe.schema import plain
from kd.results.names import pair_label
from kd.sweep.points import Point, expand
from kd.sweep.schema import read_sweep
from students.examining.previews import write_samples
from students.recorder import Recorder
from students.tracking.wandb_facts import about, final_panels, numbers, outcome

IDENTITY = {"id": "0123456789ab-s3-fedcba", "fingerprint": "0123456789ab", "seed": 3}


def taught(path: str, **changes: Any) -> dict[str, Any]:
    return plain(tiny("kd", teacher={"name": "run", "path": path}, seed=3, **changes))


def test_what_the_recipe_leaves_open_is_made_of_its_content() -> None:
    recipe = taught("runs/shapes/r34_teacher/seed0", run={"wandb": {"tags": ["mine", "kd", "x" * 70]}})
    found = about(recipe, IDENTITY)
    assert (found.id, found.name) == ("0123456789ab-s3-fedcba", "kd-DL3-test_resnet-s3")
    assert (found.group, found.job_type, found.select) == ("shapes/r34_teacher->DL3-test_resnet", "train", "val")
    assert found.tags == ("kd", "shapes", "DL3-test_resnet", "01234567", "mine", "x" * 64)
    assert found.config == recipe
    own = about(plain(tiny(run={"wandb": {"group": "g" * 200, "job_type": "debug"}})), IDENTITY)
    assert (own.group, own.job_type, own.name) == ("g" * 128, "debug", "ce-DL3-test_resnet-s0")


@pytest.mark.parametrize(
    ("teacher", "group"),
    [
        ({"name": "run", "path": "runs/sweeps/x/teacher-0123456789ab-s0"}, "shapes/teacher->DL3-test_resnet"),
        ({"name": "smp", "path": "~/weights/r34.pth"}, "shapes/r34.pth->DL3-test_resnet"),
        ({"name": "hf", "model": "nvidia/segformer-b0"}, "shapes/segformer-b0->DL3-test_resnet"),
        ({"name": "my.module:Strange"}, "shapes/Strange->DL3-test_resnet"),
        (None, "shapes/DL3-test_resnet"),
    ],
)
def test_a_group_is_data_set_and_pair(teacher: dict[str, str] | None, group: str) -> None:
    assert pair_label({**plain(tiny()), "teacher": teacher}) == group


def test_only_numbers_are_sent() -> None:
    values = {"val": {"mIoU": 1.5, "iou": {"a b": 2.0, "c": None}, "reliability": [1, 2]}, "split": "val", "n": torch.tensor(3)}
    assert numbers(values) == {"val/mIoU": 1.5, "val/iou/a b": 2.0, "n": 3}


def test_the_outcome_is_that_of_the_reported_split() -> None:
    last = {"val": {"mIoU": 1.0}, "test": {"mIoU": 2.0}}
    best = {"step": 7, "mIoU": 9.0, "val": {"mIoU": 9.0}, "test": {"mIoU": 8.0}}
    result = {"reported_on": "test", "last": last, "best": best, "cost": {"train_seconds": 5.0}, "status": "finished"}
    final = {"final/mIoU": 2.0, "cost/train_seconds": 5.0}
    assert numbers(outcome(result)) == {**final, "best/step": 7, "best/mIoU": 8.0}
    assert numbers(outcome({**result, "best": None})) == final


def test_final_pictures_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert final_panels(tmp_path) == []
    image = np.full((8, 12, 3), 100, np.uint8)
    masks = {name: np.full((8, 12), value, np.uint8) for name, value in (("target", 255), ("teacher", 1), ("student", 0))}
    write_samples([(f"val/{i:02d} x", image, masks) for i in range(12)], ((1, 2, 3), (4, 5, 6)), tmp_path / "previews/final")
    panels = final_panels(tmp_path)
    assert [caption for caption, *_ in panels] == [f"val_{i:02d}_x" for i in range(12)]
    assert list(panels[0][2]) == ["target", "teacher", "student"]
    assert all((panels[11][2][name] == mask).all() for name, mask in masks.items())
    assert np.abs(panels[0][1].astype(int) - 100).max() < 4


# ------------------------------------------------------------------------------------------------------------ sweeps


def points(folder: Path, *overrides: str, **keys: Any) -> list[Point]:
    write_recipes(folder) if not (folder / "recipes").exists() else None
    return expand(read_sweep(write(folder, **keys), overrides), Path("runs/sweeps/x"))


def placed(found: list[Point]) -> list[tuple[str, str, str]]:
    """Label, group and job type as W&B will show them."""
    shown = [(point.label, about(plain(point.recipe), IDENTITY)) for point in found]
    return [(label, one.group, one.job_type) for label, one in shown]


def test_the_baseline_of_a_sweep_joins_the_students_of_its_teacher(tmp_path: Path) -> None:
    found = points(tmp_path, axes={"method": ["ce", "kd", "maskd"], "seed": 0}, tokens="shared")
    pair = "shapes/teacher->DL3-test_resnet"
    assert placed(found) == [
        ("teacher", "shapes/DL3-test_resnet", "teacher"),
        ("tokens-a_maskd", pair, "tokens"),
        ("a_ce", pair, "train"),
        ("a_kd", pair, "train"),
        ("a_maskd", pair, "train"),
    ]
    assert re.search(r"group: \S*shapes/teacher->DL3-test_resnet\S* +# sweep x", found[2].text)


def test_a_baseline_beside_several_teachers_stays_by_itself(tmp_path: Path) -> None:
    grids = [{"method": "ce"}, {"method": "kd", "teacher.path": ["runs/tiny/teacher/seed0", "other/place"]}]
    found = points(tmp_path, axes=grids)
    assert {label: group for label, group, _ in placed(found)}["a_ce"] == "shapes/DL3-test_resnet"
    narrow = [{"method": "ce", "student.backbone": "resnet10t"}, {"method": "kd"}]
    assert placed(points(tmp_path, axes=narrow))[1][1] == "shapes/DL3-R10"


def test_what_the_user_sets_stays_and_no_name_changes(tmp_path: Path) -> None:
    found, own = points(tmp_path), points(tmp_path, "run.wandb.group=mine", "run.wandb.job_type=debug")
    assert {(group, job) for _, group, job in placed(own)} == {("mine", "debug")}
    assert [point.name for point in found] == [point.name for point in own]
    assert all(load_again(point, tmp_path) == point.recipe for point in (*found, *own))


def load_again(point: Point, folder: Path) -> Any:
    (folder / "point.yaml").write_text(point.text)
    return load(folder / "point.yaml")[0]


# ------------------------------------------------------------------------------------------------------------- speed


def test_the_speed_is_that_of_the_steps_since_the_last_record() -> None:
    records: list[dict[str, Any]] = []
    tracker = SimpleNamespace(log=lambda record, step: records.append({"step": step, **record["perf"]}))
    progress = SimpleNamespace(update=lambda *values, **more: None)
    recipe = tiny(run={"log_every": 2}, evaluation={"every": 0}, schedule={"batch": 6, "steps": 20})
    recorder = Recorder(recipe, tracker, progress, None, None)  # type: ignore[arg-type]
    for step, seconds in ((11, 50.0), (12, 51.0), (13, 53.0), (14, 55.0)):  # resumed at 10; the first step warms up
        trainer = SimpleNamespace(step=step, total=20, seconds=seconds, rates={"student": 0.1}, device=torch.device("cpu"))
        trainer.gradient_norm, trainer.stage, trainer.waited = torch.tensor(1.0), None, 0.0
        recorder.after(trainer, {"ce": 1.0, "ce_aux": 1.0})  # type: ignore[arg-type]
    assert [(record["step"], record["images_per_second"]) for record in records] == [(12, 6.0), (14, 3.0)]
