"""What a sweep has noted about the points of its folder: by which words rows are called, and which points have not begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.config import InputError
from kd.recipe.merging import Tree
from kd.results.result import Planned, problem_of
from kd.sealed import read_sealed

RECORD = "sweep.json"
MOST = 20
"""Names in one line."""


def point_of(folder: Path) -> Tree:
    """The point of a run's folder; empty where no sweep wrote it."""
    return _sound(_points(folder.parent / RECORD).get(folder.name))


def asked(point: Tree, result: Tree) -> dict[str, str]:
    """The axes of a sweep's point; of a run by itself the method's word, where one stood beside its recipe."""
    if choices := point.get("choices"):
        return {axis: label for axis, label in choices.items() if label and axis not in ("recipe", "seed")}
    return {"method": result["asked"]} if result.get("asked") else {}


def unbegun(path: Path) -> Iterator[str]:
    """A line for each sweep at or below a path whose points are not all there, with their names."""
    for record in sorted(path.rglob(RECORD)):
        points = {name: _sound(point) for name, point in _points(record).items()}
        waiting: dict[str, list[str]] = {}
        for name in points:
            if not begun(record.parent / name):
                called, seed = _named(name, points[name].get("choices") or {})
                waiting.setdefault(called, []).append(seed)
        if waiting:
            names = [called + (f" (seed {', '.join(seeds)})" if all(seeds) else "") for called, seeds in waiting.items()]
            count = sum(map(len, waiting.values()))
            yield f"{record.parent}: {count} of the {len(points)} points of its sweep have not begun: {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Names in one line, so many that it can be read."""
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _points(record: Path) -> Mapping[str, Any]:
    try:
        points = read_sealed(record)["points"]
    except (OSError, InputError, KeyError, TypeError):
        return {}
    return points if isinstance(points, Mapping) else {}


def _sound(point: Any) -> Tree:
    return {} if point is None or problem_of(point, Planned) else dict(point)


def begun(folder: Path) -> bool:
    """Whether a run has begun there."""
    try:
        return any((folder / file).is_file() for file in ("run.json", "result.json"))
    except OSError:  # a name that no system has
        return False


def _named(name: str, choices: Mapping[str, str]) -> tuple[str, str]:
    """What a point is called without its seed, and the seed; ``ce``, ``1``."""
    words = [label for axis, label in choices.items() if label and axis not in ("recipe", "seed")]
    return ", ".join(words) or name, choices.get("seed", "")
