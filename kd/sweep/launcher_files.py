"""Files that start the same sweep by another launcher: a W&B sweep file, a Slurm array."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import yaml

from kd.files import file_name
from kd.sweep.points import Point


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


def slurm_array(points: Sequence[Point], name: str, command: Sequence[str]) -> str:
    """A script for ``sbatch``: a task for each point. Two minutes before its time is over a task is asked to stop; it then
    writes its checkpoint and is queued again, as after a preemption."""
    names = "\n".join(f"  {shlex.quote(point.name)}" for point in points)
    return f"""#!/bin/bash
#SBATCH --job-name={file_name(name) or "sweep"}
#SBATCH --array=0-{len(points) - 1}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
# Add what your cluster wants: --partition, --gres=gpu:1, --cpus-per-task, --time.
points=(
{names}
)
{shlex.join(command)} --jobs 1 --only "${{points[$SLURM_ARRAY_TASK_ID]}}" &
task=$!
trap 'kill -TERM "$task"' TERM USR1
wait "$task"; code=$?
if [ "$code" -gt 128 ]; then wait "$task"; code=$?; fi  # the trap cut the first one short
if [ "$code" -eq 75 ]; then scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; fi
exit "$code"
"""
