"""What of a sweep waits or runs, on this machine, on others, on Slurm; and how to stop it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from kd.files import grouped
from kd.sweep.points import Point
from students.sweeping.point_process import LOG, holder, last_line
from students.sweeping.slurm import JOBS, Job, Slurm
from students.sweeping.state import Live, is_finished, listing


def live(points: Sequence[Point], root: Path, jobs: Mapping[str, Job]) -> dict[str, Live]:
    """Points that wait for their turn or run; ``jobs`` are those of the directory, by point."""
    found = {}
    for point in points:
        if (job := jobs.get(point.name)) is not None:
            found[point.name] = Live("queued" if job.state == "PENDING" else "running", str(job))
        elif (held := holder(root / point.name)) is not None:
            found[point.name] = Live("running", f"process {held[1]} on {held[0]}")
    return found


def _jobs(root: Path) -> dict[str, Job]:
    return Slurm(root).live() if (root / JOBS).exists() and shutil.which("sbatch") else {}


def status(points: Sequence[Point], root: Path) -> str:
    """The listing of ``--dry-run`` with what waits or runs, and the last line of what has failed."""
    jobs = _jobs(root)
    now = live(points, root, jobs)
    failed = [
        f"{point.name}: {last_line(root / point.name)}"
        for point in points
        if point.name not in now and not is_finished(root / point.name) and (root / point.name / LOG).exists()
    ]
    told = [f"not finished, and does not run: {line}" for line in grouped(failed, "points")]
    if others := sorted(job.number for name, job in jobs.items() if name not in now):
        told.append(f"jobs of other points of this directory: {', '.join(others)}; --cancel stops them too")
    return "\n".join([listing(points, root, now), *told])


def cancel(points: Sequence[Point], root: Path, others: bool = False) -> str:
    """Stop what waits or runs: jobs of Slurm, and sweeps on this machine, which save checkpoints; what was done, in words.

    ``others``: jobs of points that the sweep no longer has, too.
    """
    jobs = _jobs(root)
    names = list(dict.fromkeys([*(point.name for point in points), *(jobs if others else ())]))
    gone = Slurm(root).cancel(names) if jobs else []
    lines = [f"{len(gone)} jobs of Slurm cancelled"] if gone else []
    holders = {held for name in names if name not in gone and (held := holder(root / name)) is not None}
    for host, number in sorted(holders):
        if host == socket.gethostname():
            os.kill(number, signal.SIGTERM)
            lines.append(f"process {number} asked to stop; its points save checkpoints")
        else:
            lines.append(f"process {number} runs on {host}; call this there")
    return "\n".join(lines or ["nothing waits or runs"])
