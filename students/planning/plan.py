"""The plan: what was measured on one device, carried over to a world of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd.data.loader import images_of_part
from kd.recipe.schema import Recipe
from students.planning.stage_cost import StageCost
from students.planning.world import World, buckets

FLAGS = 2
"""Small messages of a step beside those of batch norms: whether a loss is infinite, and whether a signal came."""
RESERVE = 0.1
"""Share of a device's memory that is left to its driver, to the library that joins processes, and to what lies between."""


@dataclass(frozen=True)
class Setting:
    """What a plan is for: the recipe's batch in equal parts, and ``reading`` seconds a sample on one core."""

    world: World
    batch: int
    accumulate: int
    workers: int = 0
    reading: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, world: World, reading: float = 0.0) -> Setting:
        """A recipe's."""
        return cls(world, recipe.schedule.batch, recipe.schedule.accumulate, recipe.run.workers, reading)

    @property
    def images(self) -> int:
        """Of one process in one part.

        Raises:
            ConfigError: the batch does not divide evenly.
        """
        return images_of_part(self.batch, self.accumulate, self.world.processes)

    def waiting(self, busy: float, images: int) -> float:
        """Seconds by which reading so many images keeps a process longer than it is busy; without workers it reads itself."""
        return max(0.0, self.reading * images / self.workers - busy) if self.workers else self.reading * images


def step_of(cost: StageCost, setting: Setting) -> dict[str, Any]:
    """Seconds of a step of a stage. ``step`` is a range: gradients are sent behind the computation, or after it."""
    world, parts, images = setting.world, setting.accumulate, setting.images
    compute = parts * cost.part.at(images) + cost.update
    several = world.processes > 1
    messages = buckets(cost.sent) if several else 0
    reduce = world.all_reduce(cost.sent, messages)
    small = parts * cost.messages + FLAGS if several else 0
    pause = world.all_reduce(0, small)
    low, high = max(compute, reduce) + pause, compute + reduce + pause
    alone = world.processes * parts * cost.alone.at(images) + cost.update
    samples = images * parts
    return {
        "compute": compute,
        "all_reduce": reduce,
        "sent": cost.sent if several else 0,
        "buckets": messages,
        "small_messages": small,
        "small_messages_seconds": pause,
        "waiting": setting.waiting(low, samples),
        "step": [end + setting.waiting(end, samples) for end in (low, high)],
        "alone": alone + setting.waiting(alone, samples * world.processes),
    }


def memory_of(cost: StageCost, setting: Setting) -> dict[str, Any]:
    """Bytes of a device in a stage, by name and ``total``; None where activations are not known here."""
    parts: dict[str, Any] = dict(cost.states)
    parts["buckets"] = cost.sent if setting.world.processes > 1 else 0
    parts["activations"] = None if cost.activations is None else cost.activations.at(setting.images)
    parts["total"] = None if cost.activations is None else sum(parts.values())
    return parts


def worst(costs: Sequence[StageCost], setting: Setting) -> float | None:
    """Bytes of the stage that takes most."""
    totals = [memory_of(cost, setting)["total"] for cost in costs]
    return None if None in totals else max(totals)


def room(memory: float | None) -> float | None:
    """Bytes that a run may take of a device of so many GiB."""
    return None if memory is None else (1 - RESERVE) * memory * 2**30


def seconds(costs: Sequence[StageCost], setting: Setting) -> tuple[float, float]:
    """Of a step, on average over all stages: the range."""
    steps = sum(cost.steps for cost in costs)
    ends = [step_of(cost, setting)["step"] for cost in costs]
    low, high = (sum(cost.steps * end[side] for cost, end in zip(costs, ends, strict=True)) / steps for side in (0, 1))
    return low, high


def plan(costs: Sequence[StageCost], setting: Setting, memory: float | None) -> dict[str, Any]:
    """Everything by name, in seconds, bytes and hours; ``memory`` GiB of a device, where known."""
    world = setting.world
    stages = [
        {"name": cost.name, "steps": cost.steps, **step_of(cost, setting), "memory": memory_of(cost, setting)} for cost in costs
    ]
    steps = sum(cost.steps for cost in costs)
    low, high = seconds(costs, setting)
    alone = sum(stage["steps"] * stage["alone"] for stage in stages) / steps
    hours = [steps * end / 3600 for end in (low, high)]
    total, limit = worst(costs, setting), room(memory)
    return {
        "world": {**world.model_dump(), "processes": world.processes, "bandwidth": world.bandwidth, "delay": world.delay},
        "batch": setting.batch,
        "accumulate": setting.accumulate,
        "images": setting.images,
        "measured_images": sorted({size for cost in costs for size in cost.measured}),
        "spread": max(cost.spread for cost in costs),
        "seconds_per_sample": setting.reading,
        "stages": stages,
        "steps": steps,
        "hours": hours,
        "accelerator_hours": [hour * world.processes for hour in hours],
        "images_per_second": [setting.batch / high, setting.batch / low],
        "speed_up": [alone / high, alone / low],
        "efficiency": [alone / end / world.processes for end in (high, low)],
        "memory": total,
        "memory_limit": limit,
        "fits": None if total is None or limit is None else total <= limit,
    }
