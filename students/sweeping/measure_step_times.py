"""What one step of a recipe costs on this machine, measured before anything is trained."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from kd.data.dataset import Dataset
from kd.data.loader import training_batches
from kd.recipe.schema import Recipe
from students.environment import environment
from students.run import build_trainer
from students.stages import span_at
from teachers import Teacher

STEPS = 24


def step_times(
    recipe: Recipe, teacher: Teacher | None, data: Dataset, device: torch.device, steps: int = STEPS
) -> dict[str, Any]:
    """Run ``steps`` steps of each stage, keep nothing, take the median of the later two thirds: the first warm up.

    Returns ``student`` and ``extra``, seconds per student step in the stages that train the student and in the others, and
    the machine. Evaluations do not count, as in ``seconds_per_step`` of a result.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    seconds = {"student": 0.0, "extra": 0.0}
    with TemporaryDirectory() as folder:
        trainer = build_trainer(recipe, Path(folder), teacher, data, device)
        share = sum(span.stage.share for span in trainer.spans if span.stage.trains_student)
        for span in trainer.spans:
            batches = iter(_batches(recipe, data, span.first, steps, device))
            trainer.step, times = span.first, []
            for _ in range(min(steps, span.end - span.first)):
                assert span_at(trainer.spans, trainer.step) is span
                started = time.perf_counter()
                trainer.one_step(batches)
                times.append(time.perf_counter() - started)
            kind = "student" if span.stage.trains_student else "extra"
            seconds[kind] += median(times[len(times) // 3 :]) * span.stage.share / share
    about = environment(device)
    return {**seconds, "steps": steps, "device": about["device"], "threads": about["threads"]}


def _batches(recipe: Recipe, data: Dataset, first: int, steps: int, device: torch.device) -> Any:
    return training_batches(
        data,
        recipe.augmentation,
        seed=recipe.seed,
        batch=recipe.schedule.batch,
        first=first,
        last=first + steps,
        accumulate=recipe.schedule.accumulate,
        workers=recipe.run.workers,
        pin=device.type == "cuda",
    )
