"""Which of several comparisons stand when all of them are looked at.

Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979: of m comparisons
the one with the smallest p is held to level / m, the next to level / (m - 1), and so on until one fails; it and all after it
fail.
"""

from __future__ import annotations

from collections.abc import Mapping


def survivors(chances: Mapping[str, float | None], error: float = 0.05) -> frozenset[str]:
    """Names whose p stands after the correction; one without p (None) counts as a comparison and never stands."""
    ordered = sorted((1.0 if p is None else p, name) for name, p in chances.items())
    stands: list[str] = []
    for place, (p, name) in enumerate(ordered):
        if p > error / (len(ordered) - place):
            break
        stands.append(name)
    return frozenset(stands)
