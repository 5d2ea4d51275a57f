"""What a method costs beside the networks: time and memory of its terms, forward and backward, on random outputs."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd.methods.method import Method
from kd.types import Outputs, Sizes, Stage


@dataclass(frozen=True)
class Shape:
    """A batch of ``batch`` crops (H, W) with ``classes``; strides and widths of both networks."""

    crop: tuple[int, int] = (512, 1024)
    batch: int = 2
    classes: int = 19
    stride: int = 8
    widths: tuple[int, int] = (128, 256)

    def sizes(self, width: int) -> Sizes:
        """What a network of the pair declares."""
        grid = (-(-self.crop[0] // self.stride), -(-self.crop[1] // self.stride))
        return Sizes(self.classes, self.stride, width, True, grid=grid)


@dataclass(frozen=True)
class Cost:
    """Median and spread (largest minus smallest) of the milliseconds of a step, MiB on top of inputs, learnable parameters."""

    milliseconds: float
    spread: float
    mebibytes: float
    parameters: int


def random_outputs(shape: Shape, width: int, device: torch.device, seed: int) -> Outputs:
    """Outputs of a network at random, as leaves."""
    source = torch.Generator().manual_seed(seed)
    height, across = shape.sizes(width).grid

    def maps(channels: int) -> Tensor:
        values = torch.randn(shape.batch, channels, height, across, generator=source)
        return values.to(device).requires_grad_()

    return Outputs(maps(shape.classes), maps(shape.classes), maps(width))


def random_target(shape: Shape, device: torch.device) -> Tensor:
    """Labels in blocks of 64 pixels."""
    source = torch.Generator().manual_seed(2)
    height, width = (-(-side // 64) for side in shape.crop)
    labels = torch.randint(shape.classes, (shape.batch, height, width), generator=source)
    blocks = labels.repeat_interleave(64, 1).repeat_interleave(64, 2)
    return blocks[:, : shape.crop[0], : shape.crop[1]].to(device)


def measure(method: Method, shape: Shape, device: torch.device, repeats: int = 5, stage: Stage | None = None) -> Cost:
    """Time steps of the method's last stage (or of ``stage``), after one to warm up."""
    stage = stage or method.stages[-1]
    method.to(device).train()
    method.enter(stage)
    target = random_target(shape, device)
    student, teacher = (random_outputs(shape, width, device, seed) for seed, width in enumerate(shape.widths))
    before, times = _peak(device, reset=True), []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        terms = method(student if stage.trains_student else None, teacher, target)
        torch.stack(list(terms.values())).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1000 * (time.perf_counter() - started))
    memory = _peak(device) - before
    timed = times[1:]
    count = sum(parameter.numel() for parameter in method.parameters())
    return Cost(statistics.median(timed), max(timed) - min(timed), memory, count)


def _peak(device: torch.device, reset: bool = False) -> float:
    """Highest memory so far in MiB: the device's, or the process's, which never falls; measure one method a process."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def plain(cost: Cost) -> dict[str, Any]:
    """For JSON."""
    return dict(vars(cost))
