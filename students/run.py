"""One run from a recipe to ``result.json``: build, train, evaluate, write. Called by every rank."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kd import distributed
from kd.data.dataset import Dataset
from kd.data.loader import training_batches
from kd.data.workers import watched
from kd.evaluate.evaluator import Evaluation
from kd.files import write_whole
from kd.metrics.agreement import tell
from kd.networks.build import build_network, load_network, save_network
from kd.networks.drawn_by_image import draw_by_image
from kd.recipe.merging import Origins
from kd.recipe.schema import IDENTITY, Recipe, fingerprint, plain
from kd.sealed import digest, read_sealed, save_tensors, write_sealed
from kd.seeds import seed_everything
from students import checkpoint
from students.data_check import look_at_data
from students.environment import environment, peak_memory_mb
from students.examining.examiner import Examiner
from students.examining.previews import write_samples
from students.objective import build_objective
from students.precision import precision
from students.progress import Progress, say
from students.recorder import Recorder
from students.run_directory import check_owner, data_marks, identify
from students.tracking.tracker import Tracker
from students.tracking.wandb_facts import about, final_panels, outcome
from students.trainer import Trainer
from teachers import Teacher


def train(
    recipe: Recipe,
    origins: Origins,
    folder: Path,
    teacher: Teacher | None,
    train_data: Dataset,
    device: torch.device,
    asked: str = "",
) -> dict[str, Any]:
    """Train, or go on training, and write the run directory; returns what ``result.json`` holds.

    ``asked`` is the word that named the method; tables call the run by it.

    Raises:
        InputError: bad input, with the remedy; always before anything long runs.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    if recipe.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(recipe.run.deterministic, warn_only=True)
    examiner = Examiner(recipe, train_data.classes, device, train_data)
    look_at_data(recipe, train_data, examiner.data)  # before anything is written
    if teacher is not None:
        _look_at_teacher(teacher, recipe, train_data)
    trainer = build_trainer(recipe, folder, teacher, train_data, device)
    batches = _batches(recipe, train_data, 0, trainer.total, device)  # checks the batch size before anything is written
    with checkpoint.locked(folder):
        state = checkpoint.load(folder, device)
        facts = {"asked": asked, "pretrained": trainer.network.fetched, "data": data_marks(train_data, examiner.data)}
        identity = identify(recipe, origins, folder, facts, state is not None)
        trainer.run = identity["id"]
        if state is not None:
            check_owner(state.get("run"), identity["id"], folder)
            trainer.restore(state)
            say(f"resuming {folder} at step {trainer.step}")
            batches = _batches(recipe, train_data, trainer.step, trainer.total, device)
        if teacher is not None:
            examiner.examine_teacher(teacher, folder)
        with Tracker(recipe.run.wandb, folder, about(plain(recipe), identity), trainer.step if state else None) as tracker:
            tracker.teacher(_teacher_scores(folder) or {})
            split = recipe.evaluation.select
            every = recipe.run.log_every
            with watched(), Progress(trainer.total, trainer.step, "training", every=every, split=split) as progress:
                trainer.fit(iter(batches), Recorder(recipe, tracker, progress, examiner, teacher))
            result = _conclude(recipe, folder, trainer, examiner, teacher, identity)
            if not recipe.evaluation.every and distributed.is_main():
                tracker.images(trainer.step, final_panels(folder), examiner.classes)
            tracker.summary(outcome(result))
    return result


def _look_at_teacher(teacher: Teacher, recipe: Recipe, train_data: Dataset) -> None:
    teacher.check_training(recipe, train_data)
    for remark in teacher.remarks(train_data.bands):
        say(f"note: {remark}")


def build_trainer(recipe: Recipe, folder: Path, teacher: Teacher | None, data: Dataset, device: torch.device) -> Trainer:
    """Student, objective and trainer; the student's start depends on the seed only, not on the method."""
    seed_everything(recipe.seed, "student")
    student = build_network(recipe.student, len(data.classes))
    seed_everything(recipe.seed, "method")
    objective = build_objective(recipe, student, teacher.sizes if teacher is not None else None)
    machine = recipe.run
    if machine.channels_last:
        student.to(memory_format=torch.channels_last)
    draw_by_image(objective)
    objective.synchronise(device)
    asked = None
    if teacher is not None:
        half = precision(recipe.schedule.precision, device)
        asked = teacher.for_steps(half, machine.channels_last, machine.compile)
    return Trainer(recipe, objective, asked, folder, device)


def _batches(recipe: Recipe, data: Dataset, first: int, last: int, device: torch.device) -> Any:
    schedule = recipe.schedule
    return training_batches(
        data,
        recipe.augmentation,
        seed=recipe.seed,
        batch=schedule.batch,
        first=first,
        last=last,
        accumulate=schedule.accumulate,
        rank=distributed.rank(),
        world=distributed.world_size(),
        workers=recipe.run.workers,
        pin=device.type == "cuda",
    )


def _conclude(
    recipe: Recipe,
    folder: Path,
    trainer: Trainer,
    examiner: Examiner,
    teacher: Teacher | None,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    """Final evaluation on both splits, if there are any, the deployable student, ``counts.npz``, ``result.json``."""
    network = trainer.network
    facts = {**examiner.card, "fingerprint": identity["fingerprint"], "step": trainer.step}
    if distributed.is_main():
        save_network(network, folder, "student", facts)
        _keep(trainer, folder)
    found = examiner.final(network, teacher)
    last = {split: one.scores(examiner.classes) for split, one in found.items()}
    measured, final = recipe.evaluation.measures, found.get(recipe.evaluation.report)
    best = _best(folder, trainer, examiner, last)
    result = {
        "status": "finished",
        "name": folder.name,
        **identity,
        "parts": {part: fingerprint(recipe, [part]) for part in IDENTITY},
        "recipe": digest(plain(recipe)),
        "method": recipe.method.name if recipe.method else None,
        "steps": trainer.step,
        "student_steps": recipe.schedule.steps,
        "selected_on": recipe.evaluation.select if measured else None,
        "reported_on": recipe.evaluation.report if measured else None,
        "last": last,
        "best": best,
        "teacher": _teacher_scores(folder),
        "agreement": _agreement(recipe, final, examiner.classes),
        "cost": _cost(trainer),
        "environment": environment(trainer.device),
    }
    if distributed.is_main():
        panels = examiner.previews(network, teacher, folder / "previews" / "final.png")
        write_samples(panels, examiner.colours, folder / "previews" / "final")
        if final is not None:
            write_whole(folder / "counts.npz", final.counts.save)
        write_sealed(folder / "result.json", result)
    distributed.barrier()
    return result


def _keep(trainer: Trainer, folder: Path) -> None:
    """What the method wants to leave to other runs."""
    method = trainer.objective.method
    if method is not None and (kept := method.keeps()):
        save_tensors(kept, folder / "method.safetensors")


def _teacher_scores(folder: Path) -> Any:
    path = folder / "teacher.json"
    return read_sealed(path) if path.exists() else None


def _agreement(recipe: Recipe, final: Evaluation | None, classes: tuple[str, ...]) -> dict[str, Any] | None:
    """Where student and teacher are right, on the reported split."""
    if final is None or final.agreement is None:
        return None
    return {"split": recipe.evaluation.report, **tell(final.agreement, classes)}


def _best(folder: Path, trainer: Trainer, examiner: Examiner, last: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint that was best on the selecting split, with its scores on the reported one."""
    if not trainer.best:
        return None
    if trainer.best["step"] == trainer.step:
        return {**trainer.best, **last}
    network, _ = load_network(folder, "best")
    found = examiner.final(network.to(trainer.device))
    return {**trainer.best, **{split: one.scores(examiner.classes) for split, one in found.items()}}


def _cost(trainer: Trainer) -> dict[str, Any]:
    world = distributed.world_size()
    return {
        "train_seconds": trainer.seconds,
        "seconds_per_step": trainer.seconds / max(trainer.step, 1),
        "accelerator_hours": trainer.seconds * world / 3600,
        "peak_memory_mb": max(distributed.gather(peak_memory_mb(trainer.device))),
        "student_parameters": sum(p.numel() for p in trainer.network.parameters()),
    }
