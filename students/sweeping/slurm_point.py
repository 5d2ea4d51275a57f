"""A point as a Slurm job: what submitit calls on the node."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from students.signals import REQUEUE
from students.sweeping.point_process import begun, claimed, last_line
from students.sweeping.state import is_finished

PATIENCE = 10
"""Seconds in which submitit hears of a preemption or time limit that the training has heard of before it."""


@dataclass
class SlurmPoint:
    """Trains one point on the nodes of a job; a preempted job, or one whose time is over, is queued again and goes on.

    ``command`` trains on this node, ``machines`` are told to it where there are several (of torchrun: one agent each).
    """

    folder: Path
    text: str
    command: Sequence[str]
    machines: int = 1
    process: subprocess.Popen[bytes] | None = field(default=None, compare=False)

    def __call__(self) -> None:
        """Train to the end.

        Raises:
            RuntimeError: the training failed, with its last line.
        """
        from submitit import JobEnvironment

        job = JobEnvironment()
        with self._lock(job) as lock:
            if is_finished(self.folder):
                return
            self.process = begun(self.folder, self.text, self._told(job), os.environ, lock, apart=True)
            code = self.process.wait()
        if code == REQUEUE:
            _queue_again(job)
        if code or not is_finished(self.folder):
            raise RuntimeError(f"{self.folder.name}: failed (exit code {code}): {last_line(self.folder)}")

    def checkpoint(self, *_: Any, **__: Any) -> Any:
        """Called by submitit, from a signal, before it queues the job again: the training stops and saves."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with suppress(ChildProcessError):  # not process.wait(), in which the signal has come
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(replace(self, process=None))

    def _lock(self, job: Any) -> IO[str]:
        """The point's, once nothing else runs it; of a job on several nodes the first one holds it."""
        if job.global_rank:
            return Path(os.devnull).open("w", encoding="utf-8")
        lock = claimed(self.folder, wait=True)
        assert lock is not None
        return lock

    def _told(self, job: Any) -> list[str]:
        if self.machines == 1:
            return list(self.command)
        place = self.command.index("launch") + 1
        endpoint = f"{job.hostnames[0]}:{29_000 + int(job.raw_job_id) % 1000}"
        once = os.environ.get("SLURM_RESTART_COUNT", "0")
        meeting = [f"--nnodes={self.machines}", f"--rdzv-endpoint={endpoint}", f"--rdzv-id={job.job_id}.{once}"]
        return [*self.command[:place], *meeting, *self.command[place:]]


def _queue_again(job: Any) -> None:
    """The training was asked to stop, and submitit was not: the cluster sends no signal of submitit's, or soon.

    A job that was cancelled is not running any more, and stays so.
    """
    time.sleep(PATIENCE)
    squeue = shutil.which("squeue") or "squeue"
    asked = subprocess.run([squeue, "-h", "-j", job.raw_job_id, "-o", "%T"], capture_output=True, text=True, check=False)
    if job.global_rank == 0 and asked.stdout.strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", job.job_id], check=False)
        signal.pause()  # until that ends it
    raise SystemExit(REQUEUE)
