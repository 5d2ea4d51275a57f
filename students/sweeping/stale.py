"""Finished points that would come out differently today: own code, or the teacher's weights, have changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kd.content import file_mark
from kd.recipe.own_code import changed
from kd.recipe.schema import plain
from kd.sealed import read_sealed
from kd.sweep.points import Point
from students.sweeping.state import is_finished


def stale(points: Iterable[Point], root: Path) -> list[str]:
    """A line for each reason, with the points that it concerns."""
    found: dict[str, list[str]] = {}
    for point in points:
        if is_finished(root / point.name):
            for reason in _reasons(point, root):
                found.setdefault(reason, []).append(point.name)
    return [
        f"WARNING: {reason} since {len(names)} finished points were run (first {names[0]}); remove their directories to have "
        "them run anew"
        for reason, names in found.items()
    ]


def _reasons(point: Point, root: Path) -> Iterator[str]:
    folder = root / point.name
    for module in changed(read_sealed(folder / "result.json"), plain(point.recipe)):
        yield f"the code of {module} has changed"
    scores = read_sealed(folder / "teacher.json") if (folder / "teacher.json").exists() else {}
    for need in point.needs:
        weights = root / need / "student.safetensors"
        if need == Path(str(scores.get("source"))).name and weights.exists() and file_mark(weights) != scores.get("mark"):
            yield f"the weights of {need} have changed"
