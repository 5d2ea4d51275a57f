"""How far the points of a sweep are, and what is left to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kd.files import parsed
from kd.results.sweep_points import begun
from kd.sealed import read_sealed, write_sealed
from kd.sweep.budget import total_steps
from kd.sweep.points import Point
from students.checkpoint import NAME, PREVIOUS

State = Literal["finished", "resumable", "to do", "waiting"]
TAIL = 16384


class Live(NamedTuple):
    """Of a point that waits for its turn or runs: ``queued`` or ``running``, and where."""

    state: str
    where: str


def state(point: Point, root: Path) -> State:
    """``resumable``: it has a checkpoint; ``waiting``: something that it needs is not finished."""
    folder = root / point.name
    if is_finished(folder):
        return "finished"
    if not all(is_finished(root / name) for name in point.needs):
        return "waiting"
    return "resumable" if any((folder / name).exists() for name in (NAME, PREVIOUS)) else "to do"


def is_finished(folder: Path) -> bool:
    """Whether a run directory holds a result."""
    return (folder / "result.json").exists()


def logged_step(folder: Path) -> int:
    """The last step in ``metrics.jsonl``; 0 before the first."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(parsed(line)["step"])
        except (ValueError, TypeError, KeyError):
            continue
    return 0


def done_steps(point: Point, root: Path) -> int:
    """Steps done, of :func:`kd.sweep.budget.total_steps`."""
    folder, total = root / point.name, total_steps(point.recipe)
    return total if is_finished(folder) else min(logged_step(folder), total)


class Prices:
    """Seconds per step from finished points: of the same recipe, else of the same method, else of the same role."""

    def __init__(self, points: Iterable[Point], root: Path) -> None:
        self.root = root
        self.known: dict[Any, list[float]] = {}
        for point in points:
            if is_finished(root / point.name):
                seconds = read_sealed(root / point.name / "result.json")["cost"]["seconds_per_step"]
                for key in self._keys(point):
                    self.known.setdefault(key, []).append(seconds)

    @staticmethod
    def _keys(point: Point) -> list[Any]:
        method = point.recipe.method.name if point.recipe.method else None
        return [point.name.rpartition("-")[0], (point.role, method, *sorted(point.recipe.weights)), point.role]

    def seconds(self, point: Point) -> float | None:
        """What is left to do of a point, in seconds of training; None where nothing tells."""
        left = total_steps(point.recipe) - done_steps(point, self.root)
        measured = point.plan.seconds_per_step if point.plan else None
        found = [self.known[key] for key in self._keys(point) if key in self.known]
        price = sum(found[0]) / len(found[0]) if found else measured
        return 0.0 if left == 0 else None if price is None else left * price


def listing(points: Sequence[Point], root: Path, live: Mapping[str, Live] | None = None) -> str:
    """One line a point: state, steps, training time that is left, what ``live`` tells of it; then the total."""
    prices = Prices(points, root)
    left = {point.name: prices.seconds(point) for point in points}
    lines = [f"{'state':10s} {'steps':>8s} {'left':>8s}  point"]
    for point in points:
        waits = [name for name in point.needs if not is_finished(root / name)]
        steps = f"{point.recipe.schedule.steps}{'?' if point.plan and point.plan.pending else ''}"
        after = f"  (after {', '.join(waits)})" if waits else ""
        now = (live or {}).get(point.name)
        words, where = (now.state, f"  [{now.where}]") if now else (state(point, root), "")
        lines.append(f"{words:10s} {steps:>8s} {_span(left[point.name]):>8s}  {point.name}{after}{where}")
    known = [seconds for seconds in left.values() if seconds is not None]
    unknown = f" and {len(left) - len(known)} points of unknown cost" if len(known) < len(left) else ""
    counts = Counter(live[point.name].state if live and point.name in live else state(point, root) for point in points)
    lines.append(f"{len(points)} points: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    lines.append(
        f"training left, one point after the other, without evaluations: {_span(sum(known) if known else None)}{unknown}"
    )
    if any(point.plan and point.plan.pending for point in points):
        lines.append("steps with ? and the names of those points are settled when their step times have been measured")
    return "\n".join(lines)


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    unit, size = next((pair for pair in (("h", 3600), ("min", 60)) if seconds >= 2 * pair[1]), ("s", 1))
    return f"{seconds / size:.1f} {unit}" if seconds else "-"


def _but_content(name: str) -> str:
    """The name of a point without its recipe's fingerprint."""
    return re.sub(r"-[0-9a-f]{12}(?=-s\d+$)", "", name)


def write_record(root: Path, points: Iterable[Point], file: Mapping[str, Any]) -> None:
    """``sweep.json``: what the sweep asked for, and its points with their steps; earlier points stay, but for those that
    have not begun and whose recipe is another by now.

    A point's ``budget_steps`` are those before matching, ``calibrated_seconds_per_step`` what fixed its ``steps``.
    """
    path = root / "sweep.json"
    points = list(points)
    old = dict(read_sealed(path)["points"]) if path.exists() else {}
    asked = {_but_content(point.name) for point in points}
    listed = {name: told for name, told in old.items() if _but_content(name) not in asked or begun(root / name)}
    for point in points:
        plan = point.plan
        listed[point.name] = {
            "role": point.role,
            "choices": dict(point.choices),
            "needs": list(point.needs),
            "steps": point.recipe.schedule.steps,
            "budget_steps": plan.budget if plan else None,
            "calibrated_seconds_per_step": plan.seconds_per_step if plan else None,
        }
    root.mkdir(parents=True, exist_ok=True)
    write_sealed(path, {"file": dict(file), "points": listed})
