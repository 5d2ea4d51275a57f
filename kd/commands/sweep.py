"""Train every point of a sweep: teachers and tokens once, then the students, as many at a time as wanted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd.commands._completion import sweeps

EPILOG = """examples:
  kd sweep shapes_demo --jobs 2
  kd sweep camvid_small data.root=~/camvid --dry-run
  kd sweep camvid_small seed=[0] method=[ce,kd] schedule.steps=50

The same command resumes an interrupted sweep and skips what is finished; several machines may run it in a shared folder.
Exit codes: 0 all finished, 1 a point failed, 2 bad input, 75 stopped by a signal (the same command goes on).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    sweep = parser.add_argument("sweep", metavar="SWEEP", help="a name such as camvid_small, or a YAML file")
    sweep.completer = sweeps  # type: ignore[attr-defined]
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="an axis (seed=[0,1]), or a key of all recipes")
    parser.add_argument("--output", type=Path, help="the sweep's directory (default: runs/sweeps/SWEEP)")
    parser.add_argument("--jobs", type=int, help="points at a time (default: one for each GPU, or one)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="POINT", help="this point and what it needs; * and ? match; repeatable"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="list the points with their state and estimated cost, and stop")
    what.add_argument("--wandb-sweep", action="store_true", help="print a W&B sweep file whose agents run this command")
    what.add_argument("--slurm", action="store_true", help="print an sbatch script with an array task for each point")


def run(options: argparse.Namespace) -> int:
    """Expand, then list, print or run."""
    from kd.commands._process import kd
    from kd.sweep.points import expand
    from kd.sweep.schema import read_sweep
    from kd.sweep.select import chosen, named
    from students.sweeping.kept_step_times import measured, read_clock
    from students.sweeping.places import places
    from students.sweeping.runner import Runner
    from students.sweeping.stale import stale
    from students.sweeping.state import listing, write_record

    sweep = read_sweep(options.sweep, options.overrides)
    root = options.output or Path("runs/sweeps") / sweep.name
    if options.dry_run:
        points = expand(sweep, root, read_clock(root))
        print(listing(chosen(points, named(points, options.only)), root))
        for line in stale(points, root):
            print(line)
        return 0
    spots = places(options.jobs)
    clock = measured(sweep, root, kd("calibrate"), spots[0].environment)
    every = expand(sweep, root, clock)
    asked = named(every, options.only)
    points = chosen(every, asked)
    if options.wandb_sweep or options.slurm:
        print(exported(options, points, sweep.name), end="")
        return 0
    write_record(root, every, sweep.file.model_dump(mode="json", exclude_unset=True))
    code = summary(Runner(points, root, kd("train"), spots, asked).run(), root)
    for line in stale(points, root):
        print(line)
    return code


def exported(options: argparse.Namespace, points: list[Any], name: str) -> str:
    """The sweep for another launcher; its command is this one."""
    from kd.sweep.launcher_files import slurm_array, wandb_sweep

    where = ["--output", str(options.output)] if options.output else []
    command = ["kd", "sweep", options.sweep, *options.overrides, *where]
    if options.slurm:
        return slurm_array(points, name, command)
    return wandb_sweep(points, name, command, points[0].recipe.run.wandb.project)


def summary(outcomes: dict[str, Any], root: Path) -> int:
    """What became of the points, and the exit code."""
    from students.signals import REQUEUE
    from students.sweeping.runner import not_done, report

    print(report(outcomes, root))
    if any(outcome in ("failed", "blocked") for outcome in outcomes.values()):
        return 1
    return REQUEUE if not_done(outcomes) else 0
