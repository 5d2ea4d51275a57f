"""Running the points of a sweep: each in a process of its own, as many at a time as there are places for.

Everything is in the files: a finished point is skipped, a begun one resumed. A point is locked while it runs, so that several
machines may run one sweep in a shared folder.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from tqdm import tqdm

from kd.files import grouped, write_text
from kd.sealed import read_sealed
from kd.sweep.budget import total_steps
from kd.sweep.points import Point
from students.progress import bar, say
from students.signals import StopSignals
from students.sweeping.places import Place
from students.sweeping.state import done_steps, is_finished

Outcome = Literal["finished", "failed", "blocked", "stopped", "not begun"]
LOG, RECIPE, LOCK = "log.txt", "point.yaml", ".point.lock"
POLL = 0.2
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


@dataclass
class _Running:
    point: Point
    place: Place
    process: subprocess.Popen[bytes]
    lock: IO[str]


class Runner:
    """Runs points.

    Args:
        points: prerequisites before those that need them.
        root: the sweep's directory.
        command: what trains; a recipe's file, ``--output`` and a directory are added. It exits with 0 when it has finished.
        places: one for each point that may run at a time.
        asked: names of the points that the caller is after; an agent's W&B identity goes to these only.
    """

    def __init__(
        self, points: Sequence[Point], root: Path, command: Sequence[str], places: Sequence[Place], asked: Sequence[str] = ()
    ) -> None:
        self.points, self.root, self.command = points, root, command
        self.free = list(places)
        self.asked = set(asked or [point.name for point in points])
        self.outcomes: dict[str, Outcome] = {}
        self.running: list[_Running] = []
        self.elsewhere: set[str] = set()

    def run(self) -> dict[str, Outcome]:
        """Until nothing is left to do, or a signal comes: then the running points write their checkpoints and stop."""
        total = sum(total_steps(point.recipe) for point in self.points)
        shown: tqdm[int] = bar(total, "sweep")
        with StopSignals() as signals, shown:
            try:
                while not signals.asked and self._advance():
                    self._show(shown)
                    time.sleep(POLL)
                if signals.asked:
                    say(f"stopping: points that run ({len(self.running)}) write their checkpoints; a second Ctrl-C kills them")
                    self._stop()
            finally:
                self._kill()
        return {point.name: self.outcomes.get(point.name) or self._left(point) for point in self.points}

    def _left(self, point: Point) -> Outcome:
        return "stopped" if (self.root / point.name / RECIPE).exists() else "not begun"

    def _advance(self) -> bool:
        """Reap, then start what can be started; False when all is settled."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            self._settle(one)
        for point in self.points:
            if point.name not in self.outcomes and all(one.point is not point for one in self.running):
                self._consider(point)
        return len(self.outcomes) < len(self.points)

    def _consider(self, point: Point) -> None:
        folder, needs = self.root / point.name, [self.outcomes.get(name) for name in point.needs]
        if is_finished(folder):
            self.outcomes[point.name] = "finished"
        elif any(outcome in ("failed", "blocked") for outcome in needs):
            self.outcomes[point.name] = "blocked"
            say(f"{point.name}: not run, since what it needs has failed")
        elif self.free and all(outcome == "finished" for outcome in needs):
            self._claim(point, folder)

    def _claim(self, point: Point, folder: Path) -> None:
        lock = _lock(point, folder)
        if lock is None:
            if point.name not in self.elsewhere:
                self.elsewhere.add(point.name)
                say(f"{point.name}: another process runs it; it is left to that one")
        elif is_finished(folder):  # by whoever held the lock, or before the sweep
            lock.close()
        else:
            self._start(point, folder, lock)

    def _start(self, point: Point, folder: Path, lock: IO[str]) -> None:
        write_text(folder / RECIPE, point.text)
        place = self.free.pop(0)
        environment = {**os.environ, **place.environment}
        if point.name not in self.asked:
            environment = {key: value for key, value in environment.items() if key not in AGENT}
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [*self.command, str(folder / RECIPE), "--output", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock.fileno()],  # an orphan goes on holding its point
            )
        self.running.append(_Running(point, place, process, lock))
        say(f"{point.name}: started, {folder / LOG}")

    def _settle(self, one: _Running) -> None:
        folder, code = self.root / one.point.name, one.process.returncode
        self.running.remove(one)
        self.free.append(one.place)
        one.lock.close()
        if code == 0 and is_finished(folder):
            self.outcomes[one.point.name] = "finished"
            say(f"{one.point.name}: finished, {_score(folder)}")
        else:
            self.outcomes[one.point.name] = "failed"
            say(f"{one.point.name}: failed (exit code {code}): {last_line(folder)}")

    def _stop(self) -> None:
        """A point that still finishes counts as finished; one that is killed while it loads is only stopped."""
        for one in self.running:
            one.process.send_signal(signal.SIGTERM)
        for one in list(self.running):
            one.process.wait()
            if is_finished(self.root / one.point.name):
                self._settle(one)

    def _kill(self) -> None:
        for one in self.running:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
            one.lock.close()

    def _show(self, shown: tqdm[int]) -> None:
        if shown.disable:
            return
        count = Counter(self.outcomes.values())
        failed = f", {count['failed'] + count['blocked']} failed" if count["failed"] else ""
        states = [
            f"{one.point.name} {done_steps(one.point, self.root)}/{total_steps(one.point.recipe)}" for one in self.running
        ]
        shown.n = sum(done_steps(point, self.root) for point in self.points)
        shown.set_postfix_str("; ".join([f"{count['finished']}/{len(self.points)} points{failed}", *states]))


def _lock(point: Point, folder: Path) -> IO[str] | None:
    """The point's lock, or None while another process holds it. A run finished elsewhere is linked to instead."""
    if point.instead and not folder.exists() and _is_this_run(point, Path(point.instead)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(os.path.relpath(point.instead, folder.parent), target_is_directory=True)
        say(f"{point.name}: is {point.instead}, finished before")
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / LOCK).open("a", encoding="utf-8")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


def _is_this_run(point: Point, folder: Path) -> bool:
    if not is_finished(folder):
        return False
    result = read_sealed(folder / "result.json")
    return point.name.endswith(f"-{result['fingerprint']}-s{result['seed']}")


def _score(folder: Path) -> str:
    result = read_sealed(folder / "result.json")
    if result["reported_on"] is None:
        return "not measured"
    miou = result["last"][result["reported_on"]]["mIoU"]
    return "mIoU undefined" if miou is None else f"mIoU {miou:.2f} ({result['reported_on']})"


def last_line(folder: Path) -> str:
    """The last line that a point wrote, which says why it failed."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


def not_done(outcomes: Mapping[str, Outcome]) -> bool:
    """Whether a signal has left points that the same command goes on with."""
    return any(outcome in ("stopped", "not begun") for outcome in outcomes.values())


def report(outcomes: Mapping[str, Outcome], root: Path) -> str:
    """How many points came to what, and why some failed."""
    counts = Counter(outcomes.values())
    lines = [f"{root}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())} of {len(outcomes)} points"]
    told = [f"{name}: {last_line(root / name)}" for name, outcome in outcomes.items() if outcome == "failed"]
    told += [f"{name}: not run, what it needs has failed" for name, outcome in outcomes.items() if outcome == "blocked"]
    lines += [f"  {line}" for line in grouped(told, "points")]
    if not_done(outcomes):
        lines.append("  the same command goes on where it stopped")
    return "\n".join(lines)
