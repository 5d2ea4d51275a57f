"""What one process needs for a stage of a recipe, as functions of the images that it sees at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Line(NamedTuple):
    """What grows with the number of images: ``start + slope * images``."""

    start: float
    slope: float

    @classmethod
    def through(cls, points: Mapping[int, float]) -> Line:
        """Through what was measured at two numbers of images, that which counts more first; through 0 where it is one."""
        (images, value), *others = points.items()
        if not others:
            return cls(0.0, value / images)
        ((other, second),) = others
        slope = max(0.0, (value - second) / (images - other))
        return cls(value - slope * images, slope)

    def at(self, images: float) -> float:
        """Its value there, never below 0."""
        return max(0.0, self.start + self.slope * images)


@dataclass(frozen=True)
class StageCost:
    """A stage of ``steps`` as one process computes it, in seconds and bytes.

    ``part`` forward and backward of a part of a step, ``alone`` the same where no other process takes part; ``update`` the
    optimizers. ``states`` is what lies on the device between steps, by name; ``activations`` what a part adds to it at most,
    where the system tells. ``sent`` bytes of gradients, and ``messages`` of the batch norms in a part. ``measured`` images,
    ``spread`` of their times as a share; ``reads`` what the method reads of the teacher.
    """

    name: str
    steps: int
    part: Line
    alone: Line
    update: float
    states: dict[str, int]
    activations: Line | None
    sent: int
    messages: int
    measured: tuple[int, ...]
    spread: float = 0.0
    reads: frozenset[str] = frozenset()
