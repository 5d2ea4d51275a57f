"""Where the points of a sweep run: this machine's GPUs, or a share of its cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kd.config import InputError


@dataclass(frozen=True)
class Place:
    """Where a point may run: what it adds to the environment, e.g. its GPU and threads."""

    environment: Mapping[str, str]


def places(jobs: int | None) -> list[Place]:
    """``jobs`` places, by default one for each GPU, or one. GPUs and cores are divided; OMP_NUM_THREADS, if set, stays.

    Raises:
        InputError: ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}; give the number of points that run at a time, at least 1")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(torch.cuda.device_count())]
    if gpus and visible:
        gpus = visible.split(",")[: len(gpus)]
    count = jobs or max(1, len(gpus))
    found = []
    for number in range(count):
        environment = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        if count > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, _cores() // count))
        found.append(Place(environment))
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
