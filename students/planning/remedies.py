"""What to set where a run does not fit into its devices, with what it would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kd.recipe.schema import Recipe
from students.planning.plan import Setting, seconds, worst
from students.planning.stage_cost import Line, StageCost
from students.precision import precision

WORTH = 0.02
"""The least share of the memory that a change must save to be told."""
ANSWERS = frozenset({"logits", "aux_logits"})
"""What a method may read of a teacher whose answers are kept."""


@dataclass(frozen=True)
class Remedy:
    """A ``change`` as it is written beside a recipe, the bytes and the seconds of a step that come of it, and what else."""

    change: str
    memory: float
    fits: bool
    step: tuple[float, float]
    about: str


@dataclass(frozen=True)
class Crowded:
    """A run that takes more than ``limit`` bytes of a device. ``measure`` gives the costs of a changed recipe."""

    recipe: Recipe
    setting: Setting
    costs: Sequence[StageCost]
    limit: float
    device: torch.device
    measure: Callable[[Recipe], Sequence[StageCost]]

    def remedies(self) -> list[Remedy]:
        """Those that save something: first what changes the training least."""
        now = worst(self.costs, self.setting) or 0.0
        found = [*self._parts(), *self._measured(), *self._crop(), *self._kept_answers()]
        return [one for one in found if one.memory <= (1 - WORTH) * now]

    def _remedy(self, change: str, about: str, costs: Sequence[StageCost], setting: Setting | None = None) -> Remedy:
        setting = setting or self.setting
        memory = worst(costs, setting) or 0.0
        return Remedy(change, memory, memory <= self.limit, seconds(costs, setting), about)

    def _parts(self) -> Iterator[Remedy]:
        """The fewest parts that fit; the most there can be where none does."""
        share = self.setting.batch // self.setting.world.processes
        about = "the same samples; each part has batch norms and JML of its own"
        found = [
            self._remedy(f"schedule.accumulate={parts}", about, self.costs, replace(self.setting, accumulate=parts))
            for parts in range(self.setting.accumulate + 1, share + 1)
            if share % parts == 0
        ]
        yield from [next((one for one in found if one.fits), found[-1])] if found else []

    def _measured(self) -> Iterator[Remedy]:
        """What is measured anew: number format, blocks of rows, the order of channels in memory."""
        run = self.recipe.run
        if precision(self.recipe.schedule.precision, self.device) == torch.float32 and _has_bf16(self.device):
            yield self._again("schedule", "precision", "bf16", "measured; the numbers change a little")
        if run.maps == "whole" or (run.maps == "auto" and self.device.type != "cpu"):
            yield self._again("run", "maps", "blocks", "measured; the same numbers up to rounding")
        if not run.channels_last:
            yield self._again("run", "channels_last", True, "measured; the same numbers up to rounding")

    def _again(self, part: str, key: str, value: Any, about: str) -> Remedy:
        changed = getattr(self.recipe, part).model_copy(update={key: value})
        costs = self.measure(self.recipe.model_copy(update={part: changed}))
        return self._remedy(f"{part}.{key}={str(value).lower()}", about, costs)

    def _crop(self) -> Iterator[Remedy]:
        """The largest crop of the same shape that fits, time and activations in proportion to its pixels."""
        height, width = self.recipe.augmentation.crop
        unit = 32 if min(height, width) >= 128 else 8
        for percent in range(95, 20, -5):
            high, wide = (max(unit, side * percent // (100 * unit) * unit) for side in (height, width))
            costs = [_shrunk(cost, high * wide / (height * width)) for cost in self.costs]
            remedy = self._remedy(f"augmentation.crop=[{high},{wide}]", "another training: it sees less at once", costs)
            if remedy.fits:
                yield remedy
                return

    def _kept_answers(self) -> Iterator[Remedy]:
        """For methods that read logits alone; the time of the teacher's answer, which goes too, is not counted."""
        if self.recipe.teacher is None or not any(cost.states["teacher_copy"] for cost in self.costs):
            return
        if all(cost.reads <= ANSWERS for cost in self.costs):
            costs = [replace(cost, states={**cost.states, "teacher_copy": 0}) for cost in self.costs]
            yield self._remedy("teacher.cache=DIR", "after kd cache-teacher; the time of its answers goes too", costs)


def _shrunk(cost: StageCost, share: float) -> StageCost:
    part, memory = cost.part, cost.activations
    activations = None if memory is None else Line(memory.start, memory.slope * share)
    return replace(cost, part=Line(part.start, part.slope * share), activations=activations)


def _has_bf16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
