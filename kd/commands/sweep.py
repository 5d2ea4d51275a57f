"""Train every point of a sweep: teachers and tokens once, then the students, as many at a time as wanted, here or on Slurm."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from kd.commands._completion import sweeps

EPILOG = """examples:
  kd sweep shapes_demo --jobs 2
  kd sweep camvid_small data.root=~/camvid --dry-run
  kd sweep camvid_small seed=[0] method=[ce,kd] schedule.steps=50
  kd sweep camvid_small --launcher slurm --sbatch partition=gpu --sbatch gres=gpu:4 --processes 4
  kd sweep camvid_small --status

The same command resumes an interrupted sweep and skips what is finished; several machines may run it in a shared folder.
Exit codes: 0 all finished (Slurm: queued), 1 a point failed, 2 bad input, 75 stopped by a signal (the same command goes on).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    sweep = parser.add_argument("sweep", metavar="SWEEP", help="a name such as camvid_small, or a YAML file")
    sweep.completer = sweeps  # type: ignore[attr-defined]
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="an axis (seed=[0,1]), or a key of all recipes")
    parser.add_argument("--output", type=Path, help="the sweep's directory (default: runs/sweeps/SWEEP)")
    parser.add_argument("--jobs", type=int, help="points at a time (default: one for each GPU, or one; Slurm: all)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="POINT", help="this point and what it needs; * and ? match; repeatable"
    )
    where = parser.add_argument_group("where")
    where.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="this machine (default), or jobs of Slurm"
    )
    where.add_argument("--processes", type=int, default=1, metavar="N", help="of each point on a machine, by torchrun")
    where.add_argument("--nodes", type=int, default=1, metavar="N", help="machines of each point (Slurm)")
    where.add_argument(
        "--sbatch", action="append", default=[], metavar="KEY=VALUE", help="an option of sbatch; repeatable (time: a day)"
    )
    where.add_argument(
        "--wait", action="store_true", help="wait until the jobs have ended, and say what became of them (Slurm)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="list the points with their state and estimated cost, and stop")
    what.add_argument("--status", action="store_true", help="the same, with what waits or runs now and why points have failed")
    what.add_argument("--cancel", action="store_true", help="stop what waits or runs; the sweep's own command goes on later")
    what.add_argument("--wandb-sweep", action="store_true", help="print a W&B sweep file whose agents run this command")
    what.add_argument("--slurm", action="store_true", help="print a script that queues the points by sbatch alone")


def run(options: argparse.Namespace) -> int:
    """Expand, then list, print, stop or run."""
    from kd.commands._process import kd
    from kd.sweep.points import expand
    from kd.sweep.schema import read_sweep
    from kd.sweep.select import chosen, named
    from students.sweeping.kept_step_times import read_clock
    from students.sweeping.launchers import launcher
    from students.sweeping.stale import stale
    from students.sweeping.standing import cancel, status
    from students.sweeping.state import listing, write_record

    sweep = read_sweep(options.sweep, options.overrides)
    root = options.output or Path("runs/sweeps") / sweep.name
    shows: dict[str, Any] = {"dry_run": listing, "status": status, "cancel": partial(cancel, others=not options.only)}
    if word := next((word for word in shows if getattr(options, word)), None):
        points = expand(sweep, root, read_clock(root))
        print(shows[word](chosen(points, named(points, options.only)), root))
        for line in () if options.cancel else stale(points, root):
            print(line)
        return 0
    runs = launcher(options, root, sweep.name, kd)
    every = expand(sweep, root, runs.measured(sweep))
    asked = named(every, options.only)
    points = chosen(every, asked)
    if options.wandb_sweep or options.slurm:
        print(exported(options, points, sweep.name), end="")
        return 0
    write_record(root, every, sweep.file.model_dump(mode="json", exclude_unset=True))
    code = runs.run(points, asked)
    for line in stale(points, root):
        print(line)
    return code


def exported(options: argparse.Namespace, points: list[Any], name: str) -> str:
    """The sweep for another launcher; its command is this one."""
    from kd.sweep.launcher_files import slurm_script, wandb_sweep
    from students.sweeping.sbatch_options import check_options, words_of

    check_options(words_of(options.sbatch))
    where = ["--output", str(options.output)] if options.output else []
    several = ["--processes", str(options.processes)] if options.processes > 1 else []
    command = ["kd", "sweep", options.sweep, *options.overrides, *where, *several]
    if options.slurm:
        return slurm_script(points, name, command, options.sbatch)
    return wandb_sweep(points, name, command, points[0].recipe.run.wandb.project)
