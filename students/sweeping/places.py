"""Where the points of a sweep run: this machine's GPUs, or a share of its cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kd.config import InputError

MOST = 1024
"""Processes that are meant; more are taken for a slip."""


@dataclass(frozen=True)
class Place:
    """Where a point may run: what it adds to the environment, e.g. its GPU and threads."""

    environment: Mapping[str, str]


def places(jobs: int | None, processes: int = 1) -> list[Place]:
    """``jobs`` places for so many ``processes`` each, by default one for each set of as many GPUs, or one. GPUs and cores are
    divided; OMP_NUM_THREADS, if set, stays.

    Raises:
        InputError: ``jobs`` or ``processes`` is less than 1, or there are fewer GPUs than processes.
    """
    for name, value in (("jobs", jobs), ("processes", processes)):
        if value is not None and not 1 <= value <= MOST:
            about = "points that run at a time" if name == "jobs" else "processes of each point"
            raise InputError(f"--{name} is {value}; give the number of {about}, from 1 to {MOST}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(number) for number in range(torch.cuda.device_count())]
    if gpus and visible:
        gpus = visible.split(",")[: len(gpus)]
    if gpus and len(gpus) < processes:
        raise InputError(f"--processes is {processes}, but here are {len(gpus)} GPUs; a process needs one of its own")
    sets = [",".join(gpus[first : first + processes]) for first in range(0, len(gpus) - processes + 1, processes)]
    count = jobs or max(1, len(sets))
    found = []
    for number in range(count):
        environment = {"CUDA_VISIBLE_DEVICES": sets[number % len(sets)]} if sets else {}
        if count * processes > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, _cores() // (count * processes)))
        found.append(Place(environment))
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
