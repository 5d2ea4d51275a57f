"""What JML-KD's objective costs: as it is usually written, on whole maps, and by blocks; interleaved in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.benchmark.methods import Shape, random_outputs, random_target
from kd.losses.loss import maps
from kd.methods.jml_kd import JmlKd
from kd.networks.cost import peak_memory
from kd.types import IGNORE, Outputs

WEIGHTS = {"ce": 0.125, "kl": 0.125, "jaccard_hard": 0.375, "jaccard_soft": 0.375}
Way = Callable[[Outputs, Outputs, Tensor], Tensor]


def usual(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """As it is mostly written: maps enlarged first, a softmax for each criterion, labels one-hot as floats.

    The same value as the others, restated from the formulas of arXiv 2302.05666.
    """
    size, classes = target.shape[-2:], student.logits.shape[1]
    mine = F.interpolate(student.logits, size, mode="bilinear")
    its = F.interpolate(teacher.logits.detach(), size, mode="bilinear")
    keep = target != IGNORE
    divergence = F.kl_div(mine.log_softmax(1), its.softmax(1), reduction="none").sum(1)
    hot = F.one_hot(target.where(keep, 0), classes).permute(0, 3, 1, 2).float()
    return (
        WEIGHTS["ce"] * F.cross_entropy(mine, target, ignore_index=IGNORE)
        + WEIGHTS["kl"] * (divergence * keep).sum() / keep.sum()
        + WEIGHTS["jaccard_hard"] * _jaccard(mine.softmax(1), hot, keep, present=True)
        + WEIGHTS["jaccard_soft"] * _jaccard(mine.softmax(1), its.softmax(1), keep, present=False)
    )


def _jaccard(p: Tensor, q: Tensor, keep: Tensor, present: bool) -> Tensor:
    p, q = (maps_.mul(keep.unsqueeze(1)).transpose(0, 1).flatten(1) for maps_ in (p, q))
    both, apart = (p + q).sum(1), (p - q).abs().sum(1)
    cost = 1 - ((both - apart) / 2 + 1) / ((both + apart) / 2 + 1)
    return cost[q.amax(1) > 0].mean() if present else cost.mean()


def ours(choice: Any, shape: Shape) -> Way:
    """The method itself, ``whole`` or by ``blocks``."""
    sizes = shape.sizes(8)
    method = JmlKd(sizes, sizes, aux=False)

    def look(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        with maps(choice):
            terms = method(student, teacher, target)
        return torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()

    return look


def measure(shape: Shape, device: torch.device, repeats: int = 5) -> list[dict[str, Any]]:
    """A row for each way: median and spread of the milliseconds of forward and backward, MiB on top of the inputs, the value.

    The ways take turns, so that a busy moment strikes all of them.
    """
    ways: dict[str, Way] = {"usual": usual, "whole maps": ours("whole", shape), "by blocks": ours("blocks", shape)}
    student, teacher = (random_outputs(shape, 8, device, seed) for seed in (0, 1))
    target = random_target(shape, device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}

    def step(way: Way) -> float:
        student.logits.grad = None
        value = way(student, teacher, target)
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return float(value.detach())

    memory = {name: peak_memory(partial(step, way), device)["mib"] for name, way in ways.items()}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            values[name] = step(way)
            times[name].append(1000 * (time.perf_counter() - started))
    return [
        {
            "way": name,
            "milliseconds": statistics.median(found),
            "spread": max(found) - min(found),
            "mebibytes": memory[name],
            "value": values[name],
        }
        for name, found in times.items()
    ]
