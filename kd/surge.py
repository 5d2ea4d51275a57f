"""When a training has left what it began with: its loss is finite, and many times the first one."""

from __future__ import annotations

from collections.abc import Collection

SURGE = 10.0
"""On CamVid 54 of 57 runs stayed below their first loss; the three that diverged reached 189 to 480 times it."""


class Surge:
    """Looks at the logged losses of one training, in their order.

    A loss is compared with the first one that has the same terms, since a method's stages add and drop them. Where that
    first one is not positive, nothing can be said.
    """

    def __init__(self) -> None:
        self._first: dict[frozenset[str], float] = {}

    def times(self, loss: float, terms: Collection[str]) -> float | None:
        """How many times the first loss this one is, where that is more than SURGE."""
        first = self._first.setdefault(frozenset(terms), loss)
        return loss / first if first > 0 and loss > SURGE * first else None
