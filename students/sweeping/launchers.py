"""One way to run the points of a sweep: on this machine, or as jobs of Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from kd.config import InputError
from kd.sweep.budget import total_steps
from kd.sweep.points import Point, to_measure
from kd.sweep.schema import Sweep
from students.progress import bar, say
from students.signals import REQUEUE, StopSignals
from students.sweeping.kept_step_times import measured, read_clock
from students.sweeping.places import MOST, places
from students.sweeping.runner import Outcome, Runner, not_done, report
from students.sweeping.sbatch_options import words_of
from students.sweeping.slurm import LOOKS, Slurm
from students.sweeping.state import done_steps, is_finished

Kd = Callable[..., list[str]]


class Launcher(Protocol):
    """Where points run."""

    def measured(self, sweep: Sweep) -> dict[str, Any]:
        """The clock with all step times that the sweep asks for, see :func:`students.sweeping.kept_step_times.measured`."""

    def run(self, points: Sequence[Point], asked: Sequence[str]) -> int:
        """Have the points trained; the exit code."""


def launcher(options: Any, root: Path, name: str, kd: Kd) -> Launcher:
    """The one that a command line asks for, checked; ``kd`` makes the command lines of other processes.

    Raises:
        InputError: it cannot run here, or its options do not fit it.
    """
    if options.launcher == "slurm":
        return OnSlurm(options, root, name, kd)
    if options.nodes != 1 or (options.sbatch and not options.slurm) or options.wait:
        raise InputError("--nodes, --sbatch and --wait are for Slurm; add --launcher slurm, or drop them")
    return Here(options, root, kd)


def _command(kd: Kd, processes: int, launched: bool) -> list[str]:
    return kd("launch", f"--nproc-per-node={processes}", "train") if launched else kd("train")


class Here:
    """Processes of this machine; see :class:`Runner`."""

    def __init__(self, options: Any, root: Path, kd: Kd) -> None:
        self.root, self.places = root, places(options.jobs, options.processes)
        self.calibrate, self.command = kd("calibrate"), _command(kd, options.processes, options.processes > 1)

    def measured(self, sweep: Sweep) -> dict[str, Any]:
        """See :class:`Launcher`."""
        return measured(sweep, self.root, self.calibrate, self.places[0].environment)

    def run(self, points: Sequence[Point], asked: Sequence[str]) -> int:
        """Until all is settled, or a signal comes."""
        outcomes = Runner(points, self.root, self.command, self.places, asked).run()
        return _told(outcomes, self.root)


class OnSlurm:
    """Jobs, queued and left to Slurm, unless one waits for them."""

    def __init__(self, options: Any, root: Path, name: str, kd: Kd) -> None:
        for key in ("jobs", "processes", "nodes"):
            if (value := getattr(options, key)) is not None and not 1 <= value <= MOST:
                raise InputError(f"--{key} is {value}; it is a number from 1 to {MOST}")
        command = _command(kd, options.processes, options.processes > 1 or options.nodes > 1)
        self.slurm = Slurm(root, command, words_of(options.sbatch), options.nodes, options.jobs)
        self.root, self.name, self.waits, self.calibrate = root, name, options.wait, kd("calibrate")

    def measured(self, sweep: Sweep) -> dict[str, Any]:
        """See :class:`Launcher`; on a node, since its speed is asked for."""
        if not to_measure(sweep, read_clock(self.root)):
            return read_clock(self.root)
        say("measuring step times in a job of Slurm")
        self.slurm.call(measured, sweep, self.root, self.calibrate, {})
        if missing := to_measure(sweep, found := read_clock(self.root)):
            raise InputError(
                f"{self.root}: {len(missing)} step times could not be measured; see the logs in {self.root}/.slurm"
            )
        return found

    def run(self, points: Sequence[Point], asked: Sequence[str]) -> int:  # noqa: ARG002
        """Queue what is neither finished nor queued."""
        submitted = self.slurm.submit(points, self.name)
        done, live = sum(is_finished(self.root / point.name) for point in points), self.slurm.live()
        old = sum(point.name in live and point.name not in submitted for point in points)
        for name, job in submitted.items():
            say(f"{name}: job {job}")
        print(f"{self.root}: {len(submitted)} points queued, {old} were queued before, {done} are finished, of {len(points)}")
        if not self.waits:
            print("--status tells how they are, --cancel stops them; the same command queues again what has failed")
            print("what is queued keeps the options that it was queued with")
            return 0
        return self._wait(points)

    def _wait(self, points: Sequence[Point]) -> int:
        total = sum(total_steps(point.recipe) for point in points)
        names = {point.name for point in points}
        shown: tqdm[int] = bar(total, "sweep")
        with StopSignals() as signals, shown:
            while (waiting := names & self.slurm.live().keys()) and not signals.asked:
                shown.n = sum(done_steps(point, self.root) for point in points)
                shown.set_postfix_str(f"{len(waiting)} jobs wait or run")
                time.sleep(LOOKS)
        return _told({point.name: self._outcome(point, waiting) for point in points}, self.root)

    def _outcome(self, point: Point, waiting: set[str]) -> Outcome:
        if is_finished(self.root / point.name):
            return "finished"
        if point.name in waiting:
            return "stopped"
        needed = all(is_finished(self.root / name) for name in point.needs)
        return "failed" if needed else "blocked"


def _told(outcomes: Mapping[str, Outcome], root: Path) -> int:
    """Say what became of the points; the exit code."""
    print(report(outcomes, root))
    if any(outcome in ("failed", "blocked") for outcome in outcomes.values()):
        return 1
    return REQUEUE if not_done(outcomes) else 0
