"""Files that start the same sweep by another launcher: a W&B sweep file, a script for Slurm."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence

import yaml

from kd.files import file_name
from kd.sweep.points import Point
from kd.sweep.select import waves


def wandb_sweep(points: Sequence[Point], name: str, command: Sequence[str], project: str) -> str:
    """A grid over points, as ``wandb sweep FILE`` takes it. An agent runs ``command --only=POINT``, which trains or waits for
    what the point needs, resumes it, or skips it if it is finished."""
    sweep = {
        "name": name,
        "project": project,
        "method": "grid",
        "metric": {"name": "val/mIoU", "goal": "maximize"},
        "parameters": {"only": {"values": [point.name for point in points]}},
        "command": ["${env}", *command, "${args}"],
    }
    return yaml.safe_dump(sweep, sort_keys=False, width=10_000)


def slurm_script(points: Sequence[Point], name: str, command: Sequence[str], options: Sequence[str] = ()) -> str:
    """A script for a login node, ``bash FILE [options of sbatch]``: an array of jobs for points that wait for the same ones.

    Two minutes before its time is over a job is asked to stop; it then writes its checkpoint and is queued again, as after a
    preemption. ``options`` are sbatch's, ``KEY=VALUE``.
    """
    place, parts = dict[str, str](), [_HEAD]
    for ready in waves(points):
        for needs in dict.fromkeys(point.needs for point in ready):
            group, number = [point.name for point in ready if point.needs == needs], len(parts)
            place |= {one: f"${{job{number}}}_{task}" for task, one in enumerate(group)}
            after = f" --kill-on-invalid-dep=yes --dependency=afterok:{':'.join(place[one] for one in needs)}" if needs else ""
            job = _JOB.format(points="\n".join(f"  {shlex.quote(one)}" for one in group), command=shlex.join(command))
            parts.append(
                _ARRAY.format(
                    number=number,
                    name=file_name(name) or "sweep",
                    last=len(group) - 1,
                    options=" ".join(shlex.quote(f"--{word}") for word in options),
                    after=after,
                    job=job,
                    end=f"END_{hashlib.sha256(job.encode()).hexdigest()[:16]}",  # which no line of it is
                )
            )
    return "".join(parts)


_HEAD = """#!/bin/bash
# On a login node: bash THIS_FILE --partition=... --gres=gpu:1 --cpus-per-task=... --time=...
set -e
"""
_ARRAY = """
job{number}=$(sbatch --parsable --job-name={name} --array=0-{last} --requeue --open-mode=append --signal=B:TERM@120 \\
  {options}{after} "$@" <<'{end}'
{job}
{end}
)
echo "points queued as ${{job{number}}}, tasks 0 to {last}"
"""
_JOB = """#!/bin/bash
points=(
{points}
)
{command} --jobs 1 --only "${{points[$SLURM_ARRAY_TASK_ID]}}" &
task=$!
trap 'kill -TERM "$task"' TERM USR1
wait "$task"; code=$?
if [ "$code" -gt 128 ]; then wait "$task"; code=$?; fi  # the trap cut the first one short
if [ "$code" -eq 75 ] && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then  # it was not cancelled
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code\""""
