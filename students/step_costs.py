"""What a whole step of JML-KD costs, as it is usually done and as the trainer does it; and the teacher's answer in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kd.benchmark.comparison import Comparison, Ways
from kd.benchmark.losses import WEIGHTS, usual
from kd.benchmark.setting import Setting, random_target
from kd.networks.build import build_network
from kd.recipe.schema import Recipe, build
from kd.types import Batch, Geometry, Outputs
from students.run import build_trainer
from teachers.load import load_teacher
from teachers.soft_labels.cached import CachedTeacher
from teachers.soft_labels.card import NAME, Card, teacher_mark
from teachers.soft_labels.writing import write
from teachers.teacher import Teacher

NETWORK = {"name": "deeplabv3", "pretrained": False, "output_stride": 8}
STUDENT = {**NETWORK, "backbone": "resnet18d", "width": 128}
TEACHER = {**NETWORK, "backbone": "resnet101d", "width": 512}


def _recipe(setting: Setting, precision: str) -> Recipe:
    return build(
        {
            "data": {"name": "shapes"},
            "augmentation": {"crop": list(setting.crop), "views": 1},
            "student": STUDENT,
            "teacher": {"name": "fresh", "network": TEACHER},
            "method": {"name": "jml_kd", "aux": False},
            "weights": WEIGHTS,
            "schedule": {"steps": 10**6, "batch": setting.batch, "precision": precision},
            "run": {"device": setting.device},
        }
    )


def _teacher(setting: Setting) -> Teacher:
    return load_teacher(_recipe(setting, "fp32").teacher, _Classes(setting.classes).classes, setting.device)


def _batch(setting: Setting) -> Batch:
    source = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (setting.batch, 3, *setting.crop), dtype=torch.uint8, generator=source)
    geometry = Geometry(*setting.crop, 0, 0, False, 1.0)
    names = tuple(f"image{number}" for number in range(setting.batch))
    return Batch(image.to(setting.device), random_target(setting), names, (geometry,) * setting.batch)


def usual_step(setting: Setting, teacher: Teacher) -> Callable[[], object]:
    """In float32: the teacher as it was saved, maps enlarged first, one criterion after the other."""
    student = build_network(_recipe(setting, "fp32").student, setting.classes).to(setting.device).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    batch = _batch(setting)

    def step() -> None:
        optimizer.zero_grad()
        usual(student(batch.image), teacher(batch), batch.target).backward()
        optimizer.step()

    return step


def our_step(setting: Setting, teacher: Teacher, precision: str, folder: Path) -> Callable[[], object]:
    """The trainer's."""
    data: Any = _Classes(setting.classes)
    trainer = build_trainer(_recipe(setting, precision), folder, teacher, data, torch.device(setting.device))
    batches = _again(_batch(setting))
    return lambda: trainer.one_step(batches)


class _Classes:
    def __init__(self, number: int) -> None:
        self.classes = tuple(f"class{one}" for one in range(number))


def _again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def cached(setting: Setting, teacher: Teacher, folder: Path) -> Teacher:
    """The teacher with its answers to the one batch on disk."""
    card = Card(
        kind="crops",
        views=1,
        teacher=teacher_mark(teacher),
        data="",
        augmentation={},
        classes=teacher.classes,
        stride=teacher.sizes.stride,
        align_corners=False,
        aux=False,
    )
    (folder / NAME).write_text(card.model_dump_json(), encoding="utf-8")
    batch = _batch(setting)
    one_by_one = (
        Batch(batch.image[row : row + 1], batch.target[row : row + 1], (name,), batch.geometry[:1])
        for row, name in enumerate(batch.ids)
    )
    for _ in write(folder, card, one_by_one, teacher):
        pass
    return CachedTeacher(teacher, folder)


def _steps(setting: Setting) -> Ways:
    folder = TemporaryDirectory()
    path = Path(folder.name)
    teacher = _teacher(setting)
    kept = cached(setting, teacher, path)
    ways = {
        "usual, float32": usual_step(setting, teacher),
        "ours, float32": our_step(setting, teacher, "fp32", path),
        "ours, bf16": our_step(setting, teacher, "bf16", path),
        "ours, bf16, cached teacher": our_step(setting, kept, "bf16", path),
    }
    return {name: partial(_holding, folder, step) for name, step in ways.items()}


def _holding(_: object, step: Callable[[], object]) -> object:
    """The step; the folder lives as long."""
    return step()


def _answers(setting: Setting) -> Ways:
    teacher, batch = _teacher(setting), _batch(setting)

    def ask(look: Callable[[Batch], Outputs]) -> Outputs:
        with torch.no_grad():
            return look(batch)

    return {
        "as saved, float32": partial(ask, teacher),
        "folded, float32": partial(ask, teacher.for_steps(torch.float32)),
        "folded, bf16": partial(ask, teacher.for_steps(torch.bfloat16)),
    }


COMPARISONS = {"step of JML-KD": Comparison(_steps), "teacher's answer": Comparison(_answers)}
