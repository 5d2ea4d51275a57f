"""Points as Slurm jobs, through submitit: arrays of those that wait for the same ones."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kd.config import InputError
from kd.sealed import read_sealed, write_sealed
from kd.sweep.points import Point
from students.sweeping.point_process import link_instead
from students.sweeping.slurm_point import SlurmPoint
from students.sweeping.state import is_finished

JOBS, FOLDER = "jobs.json", ".slurm"
OURS = {"array", "dependency", "error", "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output"}
OURS |= {"requeue", "signal"}
DAY, NOTICE, MOST_TIMES = 24 * 60, 120, 10_000
"""Minutes of a job unless told otherwise; seconds for a checkpoint before they are over; how often it may be queued again."""


class Job(NamedTuple):
    """A job that waits or runs: its number, Slurm's word for its state, and why it waits."""

    number: str
    state: str
    reason: str

    def __str__(self) -> str:
        return f"job {self.number} {self.state}" + (f" ({self.reason})" if self.reason else "")


@dataclass
class Slurm:
    """The jobs of a sweep.

    Args:
        root: the sweep's directory, on a disk that all nodes see.
        command: what trains a point on a node.
        options: of sbatch, by their long names, e.g. ``{"partition": "gpu", "time": "4:00:00"}``.
        nodes: of each job.
        most: jobs of an array that may run at a time.

    Raises:
        InputError: there is no Slurm here, no submitit, or an option is none of the user's.
    """

    root: Path
    command: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if shutil.which("sbatch") is None:
            raise InputError(
                "--launcher slurm: there is no sbatch here; call it on a login node of the cluster, or take --launcher local"
            )
        check_options(self.options)

    def submit(self, points: Iterable[Point], name: str) -> dict[str, str]:
        """Queue the points that are neither finished nor queued, each behind those that it needs; their jobs by name.

        Raises:
            InputError: Slurm refuses a job.
        """
        live = self.live()
        left = []
        for point in points:
            link_instead(self.root / point.name, point.instead)
            if not is_finished(self.root / point.name) and point.name not in live:
                left.append(point)
        known, submitted = {one: job.number for one, job in live.items()}, dict[str, str]()
        while left:
            names = {point.name for point in left}
            ready = [point for point in left if not names & set(point.needs)]
            left = [point for point in left if names & set(point.needs)]
            for needs, group in _alike(ready, known).items():
                found = self._array(group, needs, name)
                submitted |= found
                known |= found
                self._note(found)
        return submitted

    def call(self, function: Any, *words: Any) -> Any:
        """The answer of a function that one job calls."""
        return self._executor("kd", {}).submit(function, *words).result()

    def live(self) -> dict[str, Job]:
        """Points whose jobs wait or run."""
        jobs = self.noted()
        if not jobs:
            return {}
        numbers = ",".join(sorted({job.partition("_")[0] for job in jobs.values()}))
        told = _asked("squeue", "--noheader", "--array", "--jobs", numbers, "--format", "%i|%T|%r", unknown="Invalid job id")
        lines = (line.split("|", 2) for line in told.splitlines())
        states = {job: Job(job, state, reason.replace("None", "")) for job, state, reason in lines}
        return {name: states[job] for name, job in jobs.items() if job in states}

    def cancel(self, names: Iterable[str]) -> list[str]:
        """Cancel the jobs of points; the names of those that had one. What they have saved stays."""
        wanted = set(names)
        found = {name: job.number for name, job in self.live().items() if name in wanted}
        if found:
            _asked("scancel", *found.values())
        return list(found)

    def noted(self) -> dict[str, str]:
        """The last job of each point."""
        path = self.root / JOBS
        return dict(read_sealed(path)["jobs"]) if path.exists() else {}

    def _note(self, jobs: Mapping[str, str]) -> None:
        write_sealed(self.root / JOBS, {"jobs": {**self.noted(), **jobs}})

    def _array(self, points: Sequence[Point], needs: tuple[str, ...], name: str) -> dict[str, str]:
        after = {"dependency": f"afterok:{':'.join(needs)}", "kill-on-invalid-dep": "yes"} if needs else {}
        executor = self._executor(name, after)
        calls = [SlurmPoint(self.root.absolute() / point.name, point.text, tuple(self.command), self.nodes) for point in points]
        try:
            with executor.batch():
                jobs = [executor.submit(call) for call in calls]
        except Exception as error:
            raise InputError(f"--launcher slurm: {_reason(error)}; see --sbatch KEY=VALUE") from None
        return {point.name: job.job_id for point, job in zip(points, jobs, strict=True)}

    def _executor(self, name: str, after: Mapping[str, str]) -> Any:
        try:
            from submitit import SlurmExecutor
        except ImportError as error:
            raise InputError(
                f"--launcher slurm: needs an optional package ({error}); install it with pip install 'segmentation-kd[slurm]', "
                "or take --slurm, which prints a script"
            ) from None
        options = {key: value for key, value in self.options.items() if key != "time"}
        executor = SlurmExecutor(self.root.absolute() / FOLDER, max_num_timeout=MOST_TIMES)
        executor.update_parameters(
            job_name=name,
            time=minutes(self.options.get("time", str(DAY))),
            nodes=self.nodes,
            ntasks_per_node=1,
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            additional_parameters={"requeue": True, **options, **after},
            **({"array_parallelism": self.most} if self.most else {}),
        )
        return executor


def _alike(points: Iterable[Point], known: Mapping[str, str]) -> dict[tuple[str, ...], list[Point]]:
    """Points by the jobs that they wait for; one that is not known is finished."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        found.setdefault(tuple(known[name] for name in point.needs if name in known), []).append(point)
    return found


def words_of(given: Iterable[str]) -> dict[str, str]:
    """Options from ``KEY=VALUE`` words; the last of a key counts."""
    return dict(word.partition("=")[::2] for word in given)


def check_options(options: Mapping[str, str]) -> None:
    """Refuse options of sbatch's that follow from the sweep, or are none.

    Raises:
        InputError: naming it.
    """
    for key, value in options.items():
        if key in OURS:
            raise InputError(f"--sbatch {key}={value}: follows from the sweep; give none of {', '.join(sorted(OURS))}")
        if not re.fullmatch(r"[a-z][a-z-]*", key) or not value.isprintable() or not value:
            raise InputError(f"--sbatch {key}={value!r}: is KEY=VALUE, a long option of sbatch, e.g. --sbatch partition=gpu")
    minutes(options.get("time", str(DAY)))


def minutes(text: str) -> int:
    """Slurm's way to write a time, in whole minutes: ``90``, ``4:00:00``, ``2-12``.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise InputError(f"--sbatch time={text}: is no time; give minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    days, *rest = (int(part or 0) for part in found.groups())
    hours, mins, seconds = rest if found[1] or found[4] else (0, *rest[:2])
    return max(1, (days * 24 + hours) * 60 + mins + -(-seconds // 60))


def _reason(error: Exception) -> str:
    said = str(getattr(error, "output", "") or getattr(error, "stderr", "") or error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else type(error).__name__)


def _asked(*command: str, unknown: str = "") -> str:
    """What a command of Slurm answers; nothing where it fails because of what may be ``unknown``."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not (unknown and unknown in done.stderr):
        raise InputError(f"--launcher slurm: {(done.stderr.strip().splitlines() or [f'{command[0]} failed'])[-1]}")
    return done.stdout
