"""What a method costs beside the networks: time and memory of its terms, forward and backward, on random outputs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch

from kd.benchmark.comparison import times
from kd.benchmark.setting import Setting, random_outputs, random_target
from kd.losses.loss import checked_labels
from kd.methods.method import Method
from kd.networks.cost import peak_memory
from kd.types import Stage


@dataclass(frozen=True)
class Cost:
    """Median and spread (largest minus smallest) of the milliseconds of a step, MiB on top of inputs, learnable parameters."""

    milliseconds: float
    spread: float
    mebibytes: float | None
    parameters: int


def measure(method: Method, setting: Setting, repeats: int = 5, stage: Stage | None = None) -> Cost:
    """Steps of the method's last stage (or of ``stage``); a process of its own tells the memory best."""
    stage, device = stage or method.stages[-1], torch.device(setting.device)
    method.to(device).train()
    method.enter(stage)
    target = random_target(setting)
    student, teacher = (random_outputs(setting, width, seed) for seed, width in enumerate(setting.widths))

    def step() -> None:
        with checked_labels():  # as in a run, whose loader has looked at them
            terms = method(student if stage.trains_student else None, teacher, target)
        torch.stack(list(terms.values())).sum().backward()

    found = times({"step": step}, repeats, setting.device)[
        "step"
    ]  # first: once memory was looked at, steps have to fetch theirs anew
    memory = peak_memory(step, device)["mib"]
    count = sum(parameter.numel() for parameter in method.parameters())
    return Cost(statistics.median(found), max(found) - min(found), memory, count)


def plain(cost: Cost) -> dict[str, Any]:
    """For JSON."""
    return dict(vars(cost))
