"""What of a sweep waits or runs, on this machine, on others, on Slurm; and how to stop it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from kd.files import grouped
from kd.sweep.points import Point
from students.sweeping.point_process import LOG, holder, last_line
from students.sweeping.slurm import JOBS, Job, Slurm
from students.sweeping.state import Live, is_finished, listing


def live(points: Sequence[Point], root: Path) -> dict[str, Live]:
    """Points that wait for their turn or run."""
    found = {}
    for point in points:
        if (held := holder(root / point.name)) is not None:
            found[point.name] = Live("running", f"process {held[1]} on {held[0]}")
    names = {point.name for point in points}
    for name, job in _queued(root).items():
        if name in names:
            found[name] = Live("queued" if job.state == "PENDING" else "running", str(job))
    return found


def _queued(root: Path) -> dict[str, Job]:
    return Slurm(root).live() if (root / JOBS).exists() and shutil.which("sbatch") else {}


def status(points: Sequence[Point], root: Path) -> str:
    """The listing of ``--dry-run`` with what waits or runs, and the last line of what has failed."""
    now = live(points, root)
    others = [job.number for name, job in _queued(root).items() if name not in {point.name for point in points}]
    failed = [
        f"{point.name}: {last_line(root / point.name)}"
        for point in points
        if point.name not in now and not is_finished(root / point.name) and (root / point.name / LOG).exists()
    ]
    told = [f"not finished, and does not run: {line}" for line in grouped(failed, "points")]
    told += [f"jobs of other points of this directory: {', '.join(others)}; --cancel stops them too"] if others else []
    return "\n".join([listing(points, root, now), *told])


def cancel(points: Sequence[Point], root: Path, others: bool = False) -> str:
    """Stop what waits or runs: jobs of Slurm, and sweeps on this machine, which save checkpoints; what was done, in words.

    ``others``: jobs of points that the sweep no longer has, too.
    """
    names = [point.name for point in points]
    names += [name for name in _queued(root) if others and name not in names]
    gone = Slurm(root).cancel(names) if _queued(root) else []
    lines = [f"{len(gone)} jobs of Slurm cancelled"] if gone else []
    holders = {held for name in names if name not in gone and (held := holder(root / name)) is not None}
    for host, number in sorted(holders):
        if host == socket.gethostname():
            os.kill(number, signal.SIGTERM)
            lines.append(f"process {number} asked to stop; its points save checkpoints")
        else:
            lines.append(f"process {number} runs on {host}; call this there")
    return "\n".join(lines or ["nothing waits or runs"])
