"""Points as Slurm jobs, through submitit: arrays of those that wait for the same ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kd.config import InputError
from kd.files import file_name
from kd.sealed import read_sealed, write_sealed
from kd.sweep.points import Point
from kd.sweep.select import waves
from students.sweeping.point_process import link_instead
from students.sweeping.sbatch_options import check_options, minutes
from students.sweeping.slurm_point import SlurmPoint
from students.sweeping.state import is_finished

JOBS, FOLDER = "jobs.json", ".slurm"
NUMBER = re.compile(r"\d+(_\d+)?")
NOTICE, MOST_TIMES = 120, 10_000
"""Seconds for a checkpoint before the time of a job is over; how often it may be queued again."""
LOOKS = 5.0
"""Seconds between two looks at Slurm's queue."""


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
        if not str(self.root.absolute()).isprintable():
            raise InputError(f"--output: is {str(self.root)!r}; scripts of Slurm hold no such signs, take a plain name")

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
        for ready in waves(left):
            for needs, group in _alike(ready, known).items():
                found = self._array(group, needs, name)
                submitted |= found
                known |= found
                self._note(found)
        return submitted

    def call(self, function: Any, *words: Any) -> None:
        """Have one job call a function, and wait for its end. What it finds it writes; no answer of a job is unpickled."""
        job = self._executor("measure", {}).submit(function, *words).job_id
        while _queue([job]):
            time.sleep(LOOKS)

    def live(self) -> dict[str, Job]:
        """Points whose jobs wait or run."""
        jobs = self.noted()
        states = _queue(jobs.values(), self._mark())
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
        if not path.is_file():
            return {}
        found = read_sealed(path).get("jobs")
        if not isinstance(found, dict) or not all(isinstance(job, str) and NUMBER.fullmatch(job) for job in found.values()):
            raise InputError(f"{path}: is damaged, it does not hold the numbers of jobs; remove it, and cancel jobs by scancel")
        return dict(found)

    def _mark(self) -> str:
        """What jobs of this sweep's directory are known by, also where numbers of jobs begin anew or a file is copied."""
        return f"kd {self.root.resolve()}"

    def _note(self, jobs: Mapping[str, str]) -> None:
        write_sealed(self.root / JOBS, {"jobs": {**self.noted(), **jobs}})

    def _array(self, points: Sequence[Point], needs: tuple[str, ...], name: str) -> dict[str, str]:
        after = {"dependency": f"afterok:{':'.join(needs)}", "kill-on-invalid-dep": "yes"} if needs else {}
        executor = self._executor(name, after)
        calls = [SlurmPoint(self.root.absolute() / point.name, point.text, tuple(self.command), self.nodes) for point in points]
        try:
            with executor.batch():
                jobs = [executor.submit(call) for call in calls]
        except OSError as error:
            raise InputError(f"--launcher slurm: {error}; all nodes must see {self.root}, and you must own it") from None
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
        executor = SlurmExecutor(self._own_folder(), max_num_timeout=MOST_TIMES)
        executor.update_parameters(
            job_name=file_name(name) or "sweep",
            comment=self._mark(),
            time=minutes(self.options),
            nodes=self.nodes,
            ntasks_per_node=1,
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            additional_parameters={"requeue": True, **options, **after},
            **({"array_parallelism": self.most} if self.most else {}),
        )
        return executor

    def _own_folder(self) -> Path:
        """A new folder for what jobs unpickle, which nobody else can have filled."""
        place = self.root.absolute() / FOLDER
        if place.is_symlink():
            raise InputError(f"{place}: is a link, by which jobs would be written elsewhere; remove it")
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=place))


def _alike(points: Iterable[Point], known: Mapping[str, str]) -> dict[tuple[str, ...], list[Point]]:
    """Points by the jobs that they wait for; one that is not known is finished."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        found.setdefault(tuple(known[name] for name in point.needs if name in known), []).append(point)
    return found


def _queue(jobs: Iterable[str], mark: str = "") -> dict[str, Job]:
    """Those of the jobs that wait or run, by number, and bear the ``mark``."""
    numbers = sorted({job.partition("_")[0] for job in jobs})
    if not numbers:
        return {}
    asked = ("squeue", "--noheader", "--array", "--jobs", ",".join(numbers), "--format", "%i|%T|%r|%k")
    lines = (line.split("|", 3) for line in _asked(*asked, unknown="Invalid job id").splitlines())
    return {job: Job(job, state, reason.replace("None", "")) for job, state, reason, told in lines if mark in ("", told)}


def _reason(error: Exception) -> str:
    said = str(getattr(error, "output", "") or getattr(error, "stderr", "") or error)
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("Try ")]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else type(error).__name__)


def _asked(*command: str, unknown: str = "") -> str:
    """What a command of Slurm answers; nothing where it fails because of what may be ``unknown``."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not (unknown and unknown in done.stderr):
        raise InputError(f"--launcher slurm: {(done.stderr.strip().splitlines() or [f'{command[0]} failed'])[-1]}")
    return done.stdout
