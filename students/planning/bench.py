"""Steps of a recipe's stages on one device: what they take, and what they would send to others."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from kd.config import InputError
from kd.data.dataset import Dataset
from kd.networks.cost import latency, peak_memory
from kd.networks.sync_batch_norm import MESSAGES
from kd.recipe.schema import Recipe
from kd.types import Batch
from students.planning.samples import first_part, rows_of
from students.planning.stage_cost import Line, StageCost
from students.run import build_trainer
from students.stages import Span
from students.trainer import Trainer
from teachers import Teacher


class Step(NamedTuple):
    """A step of one part: seconds but for the optimizers', theirs, bytes beyond the states (None: not known here).

    ``spread`` is the distance of the quartiles of its seconds, as a share of their median.
    """

    part: float
    update: float
    memory: float | None
    spread: float


def stage_costs(
    recipe: Recipe,
    teacher: Teacher | None,
    data: Dataset,
    device: torch.device,
    images: int,
    processes: int,
    compared: bool = False,
) -> list[StageCost]:
    """Measure each stage at parts of about ``images``, with the batch norms that ``processes`` have.

    ``compared``: also what one process alone would need, whose batch norms are others where it is a CPU's.

    Raises:
        InputError: not even the smallest part fits into memory.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    batch, sizes = first_part(recipe, data, device, processes), candidates(images, processes)
    plain = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"accumulate": 1})})
    with _bench(plain, teacher, data, device, processes) as bench:
        found = [bench.stage(span, batch, sizes, images) for span in bench.trainer.spans]
    if not compared or processes == 1 or device.type != "cpu" or images == 1:
        return found
    with _bench(plain, teacher, data, device, 1) as bench:
        alone = [bench.step(span, rows_of(batch, images)).part for span in bench.trainer.spans]
    return [replace(cost, alone=Line.through({images: seconds})) for cost, seconds in zip(found, alone, strict=True)]


def candidates(images: int, processes: int) -> list[int]:
    """Numbers of images to measure parts of ``images`` at, of which two that fit into memory make a line.

    A batch norm that pools one image has no variance, unless other processes have images too: then more stand for it.
    """
    least = 1 if images == processes == 1 else 2
    top = images if images >= 4 else 2 * max(images, least)
    return [top >> halvings for halvings in range(top.bit_length()) if top >> halvings >= least]


def memory_here(device: torch.device) -> float | None:
    """GiB of a GPU; None of others, which share what the machine has."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None


@dataclass(frozen=True)
class Bench:
    """A trainer whose steps are measured, of parts that are at hand."""

    trainer: Trainer
    teacher: Teacher | None

    def stage(self, span: Span, batch: Batch, sizes: list[int], images: int) -> StageCost:
        """Measured at the first two sizes that fit into memory."""
        found: dict[int, Step] = {}
        for size in sizes:
            try:
                found[size] = self.step(span, rows_of(batch, size))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            if len(found) == 2:
                break
        if not found:
            raise InputError(
                f"augmentation.crop: not even {sizes[-1]} crops of {' x '.join(map(str, batch.image.shape[-2:]))} fit into the "
                f"memory of {self.trainer.device} (stage {span.stage.name}); take smaller ones, or a smaller student"
            )
        near = sorted(found, key=lambda size: abs(size - images))
        part = Line.through({size: found[size].part for size in near})
        peaks = {size: peak for size in near if (peak := found[size].memory) is not None}
        return StageCost(
            name=span.stage.name,
            steps=span.end - span.first,
            part=part,
            alone=part,
            update=found[near[0]].update,
            states=self.states(),
            activations=Line.through(peaks) if peaks else None,
            sent=_bytes(p for p in self.trainer.objective.parameters() if p.requires_grad),
            messages=self.norms(span, rows_of(batch, near[-1])) * MESSAGES.get(self.trainer.device.type, 2),
            measured=tuple(near),
            spread=max(step.spread for step in found.values()),
            reads=method.needs if (method := self.trainer.objective.method) is not None else frozenset(),
        )

    def step(self, span: Span, batch: Batch) -> Step:
        """Medians of some steps, after those that warm up and make the optimizers' state; peak memory of one more."""
        spent, updates = list[float](), list[float]()

        def work() -> None:
            spent.clear()
            self.once(span, batch)
            updates.append(sum(spent))

        device = self.trainer.device
        with _timed(self.trainer, spent):
            seconds = latency(work, device)
        peak = peak_memory(partial(self.once, span, batch), device)["mib"]
        update, middle = median(updates), seconds["median"]
        memory = None if peak is None else peak * 2**20
        if memory is not None and device.type == "cuda":  # all that there is
            memory = max(0.0, memory - sum(self.states().values()))
        return Step(middle - update, update, memory, (seconds["high"] - seconds["low"]) / middle)

    def once(self, span: Span, batch: Batch) -> None:
        """The first step of a stage, once more."""
        self.trainer.step = span.first
        self.trainer.one_step(repeat(batch))

    def norms(self, span: Span, batch: Batch) -> int:
        """Batch norms at work in a step."""
        called: list[object] = []
        norms = [part for part in self.trainer.objective.modules() if isinstance(part, _BatchNorm)]
        hooks = [norm.register_forward_hook(lambda norm, *_: called.append(norm) if norm.training else None) for norm in norms]
        self.once(span, batch)
        for hook in hooks:
            hook.remove()
        return len(called)

    def states(self) -> dict[str, int]:
        """Bytes that lie on the device between steps."""
        trainer = self.trainer
        moments = [state.values() for one in trainer.optimizers for state in one.optimizer.state.values()]
        average = trainer.average
        return {
            "weights": _bytes(_held(trainer.objective)),
            "gradients": _bytes(p for p in trainer.objective.parameters() if p.requires_grad),
            "optimizer": _bytes(value for values in moments for value in values if isinstance(value, Tensor)),
            "average": _bytes(_held(average)) if average is not None else 0,
            "teacher": _bytes(_held(self.teacher)) if self.teacher is not None else 0,
            "teacher_copy": self._copy(),
        }

    def _copy(self) -> int:
        """Bytes of the teacher that steps ask, folded, in their number format; kept answers need none."""
        if self.teacher is None or self.teacher.cached:
            return 0
        choice = self.teacher.config.precision
        half = choice == "bf16" or (choice == "step" and self.trainer.precision != torch.float32)
        return _bytes(_held(self.teacher)) // (2 if half else 1)


@contextmanager
def _bench(recipe: Recipe, teacher: Teacher | None, data: Dataset, device: torch.device, processes: int) -> Iterator[Bench]:
    gc.collect()  # what was measured before
    with TemporaryDirectory() as folder:
        trainer = build_trainer(recipe, Path(folder), teacher, data, device)
        trainer.objective.synchronise(device, processes)
        yield Bench(trainer, teacher)


@contextmanager
def _timed(trainer: Trainer, spent: list[float]) -> Iterator[None]:
    """Let the seconds of each optimizer's steps be added to ``spent``."""
    began = 0.0

    def clock() -> float:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        return time.perf_counter()

    def before(*_: Any) -> None:
        nonlocal began
        began = clock()

    def after(*_: Any) -> None:
        spent.append(clock() - began)

    optimizers = [schedule.optimizer for schedule in trainer.optimizers]
    hooks = [hook for one in optimizers for hook in (one.register_step_pre_hook(before), one.register_step_post_hook(after))]
    yield
    for hook in hooks:
        hook.remove()


def _held(module: torch.nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
