"""Train every point of a sweep: teachers and tokens once, then the students, as many at a time as wanted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EPILOG = """examples:
  python tools/sweep.py recipes/sweeps/shapes_demo.yaml --jobs 2
  python tools/sweep.py recipes/sweeps/camvid_small.yaml data.root=~/camvid --dry-run
  python tools/sweep.py recipes/sweeps/camvid_small.yaml seed=[0] method=[ce,kd] schedule.steps=50

The same command resumes an interrupted sweep and skips what is finished; several machines may run it in a shared folder.
Exit codes: 0 all finished, 1 a point failed, 2 bad input, 75 stopped by a signal (the same command goes on).
"""
TOOLS = Path(__file__).parent


def arguments() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("sweep", type=Path, help="a YAML file, e.g. recipes/sweeps/camvid_small.yaml")
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
    return parser.parse_intermixed_args()


def run(options: argparse.Namespace) -> int:
    """Expand, then list, print or run."""
    from kd.sweep.points import expand
    from kd.sweep.schema import read_sweep
    from kd.sweep.select import chosen, named
    from students.sweep_clock import measured, read_clock
    from students.sweep_places import places
    from students.sweep_state import listing, write_record
    from students.sweeping import Runner

    sweep = read_sweep(options.sweep, options.overrides)
    root = options.output or Path("runs/sweeps") / sweep.name
    if options.dry_run:
        points = expand(sweep, root, read_clock(root))
        print(listing(chosen(points, named(points, options.only)), root))
        return 0
    spots = places(options.jobs)
    clock = measured(sweep, root, [sys.executable, str(TOOLS / "calibrate.py")], spots[0].environment)
    every = expand(sweep, root, clock)
    asked = named(every, options.only)
    points = chosen(every, asked)
    if options.wandb_sweep or options.slurm:
        print(exported(options, points, sweep.name), end="")
        return 0
    write_record(root, every, sweep.file.model_dump(mode="json", exclude_unset=True))
    return summary(Runner(points, root, [sys.executable, str(TOOLS / "train.py")], spots, asked).run(), root)


def exported(options: argparse.Namespace, points: list[Any], name: str) -> str:
    """The sweep for another launcher; its command is this one."""
    from kd.sweep.exports import slurm_array, wandb_sweep

    where = ["--output", str(options.output)] if options.output else []
    command = ["python", "tools/sweep.py", str(options.sweep), *options.overrides, *where]
    if options.slurm:
        return slurm_array(points, name, command)
    return wandb_sweep(points, name, command, points[0].recipe.run.wandb.project)


def summary(outcomes: dict[str, Any], root: Path) -> int:
    """What became of the points, and the exit code."""
    from students.signals import REQUEUE
    from students.sweeping import not_done, report

    print(report(outcomes, root))
    if any(outcome in ("failed", "blocked") for outcome in outcomes.values()):
        return 1
    return REQUEUE if not_done(outcomes) else 0


def main() -> int:
    """The exit code."""
    options = arguments()
    from kd.config import exit_code

    codes: list[int] = []
    return exit_code(lambda: codes.append(run(options))) or codes.pop()


if __name__ == "__main__":
    sys.exit(main())
