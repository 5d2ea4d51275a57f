"""Whether a run that is cut and resumed stays the same run: the real trainer, on tiny networks and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd import distributed
from kd.config import InputError
from kd.data.build import open_training
from kd.data.loader import training_batches
from kd.recipe.schema import Recipe, build
from kd.seeds import seed_everything
from kd.types import Batch
from students import checkpoint
from students.contract.subject import Breach, Subject
from students.run import build_trainer
from students.trainer import Trainer
from teachers import Teacher

LoadTeacher = Callable[[Any, tuple[str, ...]], Teacher]
"""From a recipe's ``teacher`` and the classes of its data; the commands know how."""
CPU = torch.device("cpu")
NETWORK = {"name": "deeplabv3", "backbone": "test_resnet", "pretrained": False, "output_stride": 8, "width": 8, "aux": 8}
WIDTHS = {"wider": 12, "narrower": 4, "equally wide": 8}
TASK = {"task": {"name": "cross_entropy"}, "task_aux": {"name": "cross_entropy", "field": "aux_logits"}}
STEPS = 4


def recipe_of(subject: Subject) -> Recipe:
    """Four steps of the method beside cross-entropy, each term with weight 1."""
    terms = [*TASK, *subject.method().terms]
    return build(
        {
            "data": {"name": "shapes", "size": [64, 64], "train": 8, "val": 2, "test": 2},
            "augmentation": {"crop": [64, 64]},
            "student": NETWORK,
            "teacher": {"name": "fresh", "network": {**NETWORK, "width": WIDTHS[subject.pair]}},
            "loss": TASK,
            "method": subject.config.model_dump(mode="json"),
            "weights": dict.fromkeys(terms, 1.0),
            "schedule": {"steps": STEPS, "batch": 2, "optimizer": {"kind": "adamw", "lr": 1e-3}},
            "run": {"device": "cpu", "workers": 0},
        }
    )


def trainer_of(recipe: Recipe, folder: Path, load_teacher: LoadTeacher) -> tuple[Trainer, Callable[[int], Iterator[Batch]]]:
    """A recipe's trainer at its beginning, and how to have its batches from a step on."""
    data = open_training(recipe.data, recipe.unlabelled)
    seed_everything(recipe.seed, "teacher")
    trainer = build_trainer(recipe, folder, load_teacher(recipe.teacher, data.classes), data, CPU)

    def batches(first: int) -> Iterator[Batch]:
        found = training_batches(
            data,
            recipe.augmentation,
            seed=recipe.seed,
            batch=recipe.schedule.batch,
            first=first,
            last=trainer.total,
            rank=distributed.rank(),
            world=distributed.world_size(),
        )
        return iter(found)

    return trainer, batches


class Trained(NamedTuple):
    """The terms of each step, and everything that the next step would depend on."""

    terms: list[dict[str, float]]
    state: dict[str, Any]


def trained(recipe: Recipe, folder: Path, load_teacher: LoadTeacher, cut: bool) -> Trained:
    """Train to the end; ``cut``: after each step all is thrown away but the checkpoint."""
    trainer, batches = trainer_of(recipe, folder, load_teacher)
    source, terms = batches(0), []
    while trainer.step < trainer.total:
        terms.append(trainer.one_step(source))
        if cut:
            checkpoint.save(folder, trainer.state())
            trainer, batches = trainer_of(recipe, folder, load_teacher)
            trainer.restore(_read(folder))
            source = batches(trainer.step)
    return Trained(terms, trainer.state())


def _read(folder: Path) -> dict[str, Any]:
    try:
        state = checkpoint.load(folder, CPU)
    except InputError as error:
        raise Breach(f"its checkpoint cannot be read ({error}); a state_dict may hold tensors and plain values only") from error
    assert state is not None
    return state


def resumes(subject: Subject, load_teacher: LoadTeacher) -> None:
    """Cut and resumed after every step, each step computes the same to the last bit, and ends in the same state."""
    recipe = recipe_of(subject)
    with TemporaryDirectory() as first, TemporaryDirectory() as second:
        whole = trained(recipe, Path(first), load_teacher, cut=False)
        again = trained(recipe, Path(second), load_teacher, cut=True)
    remedy = (
        "what a step changes must be a buffer (self.register_buffer) or a parameter, and what it draws must come from torch's "
        "or Python's or numpy's global generator, which each step seeds"
    )
    for number, (mine, its) in enumerate(zip(whole.terms, again.terms, strict=True), 1):
        if differing := [name for name in mine if mine[name] != its[name]]:
            name = differing[0]
            raise Breach(f"step {number} has {name} = {its[name]:.8g} after a checkpoint, {mine[name]:.8g} without; {remedy}")
    if differing := list(_differing(whole.state, again.state)):
        raise Breach(f"a resumed run ends with another {differing[0]}; {remedy}")


def _differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, Mapping):
        for key in one:
            if key != "seconds":
                yield from _differing(one[key], other.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(one, (list, tuple)):
        for number, (mine, its) in enumerate(zip(one, other, strict=True)):
            yield from _differing(mine, its, f"{path}.{number}")
    elif not (torch.equal(one, other) if isinstance(one, Tensor) else one == other):
        yield path
