"""The samples that steps are measured on."""

from __future__ import annotations

import time
from typing import Any

import torch

from kd.data.dataset import Dataset
from kd.data.loader import training_batches
from kd.recipe.schema import Recipe
from kd.types import Batch


def first_part(recipe: Recipe, data: Dataset, device: torch.device, processes: int) -> Batch:
    """The first part of the first process."""
    schedule = recipe.schedule
    sizes: dict[str, Any] = {"batch": schedule.batch, "accumulate": schedule.accumulate, "world": processes}
    source = training_batches(data, recipe.augmentation, seed=recipe.seed, first=0, last=1, **sizes)
    batch: Batch = next(iter(source))
    return batch.to(device)


def rows_of(batch: Batch, images: int) -> Batch:
    """So many images of a batch, from the first again where it has fewer."""
    rows = [row % len(batch) for row in range(images)]
    names, geometry = tuple(batch.ids[row] for row in rows), tuple(batch.geometry[row] for row in rows)
    return Batch(batch.image[rows], batch.target[rows], names, geometry)


def seconds_per_sample(recipe: Recipe, data: Dataset) -> float:
    """Of reading and augmenting one, in this process."""
    few = min(recipe.schedule.batch, 4)
    batches = iter(training_batches(data, recipe.augmentation, seed=recipe.seed, batch=few, first=0, last=2))
    next(batches)
    began = time.perf_counter()
    next(batches)
    return (time.perf_counter() - began) / few
