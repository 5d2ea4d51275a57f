"""Measure what one optimizer step of a recipe costs on this machine; nothing is trained or kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """examples:
  python tools/calibrate.py recipes/camvid_small/r18_ce.yaml data.root=~/camvid
  python tools/calibrate.py recipes/shapes/tiny_cirkd.yaml 'teacher={name: fresh, network: {name: deeplabv3}}' --json times.json

tools/sweep.py uses it where a sweep file says "match: wall_clock" or "budget: {hours: H}".
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("recipe", type=Path, help="a YAML file, as tools/train.py takes it")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument(
        "--steps", type=int, default=24, help="steps of each stage; the first third only warms up (default: 24)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return parser.parse_intermixed_args()


def run(options: argparse.Namespace) -> None:
    """Compose data, teacher and clock."""
    from kd import distributed
    from kd.config import InputError
    from kd.data.build import open_split
    from kd.recipe import load
    from students.calibrating import step_times
    from students.checkpoint import write_json
    from teachers.load import load_teacher

    if options.steps < 1:
        raise InputError(f"--steps is {options.steps}; at least one step must be measured")
    recipe, _ = load(options.recipe, options.overrides)
    device = distributed.local_device(recipe.run.device)
    data = open_split(recipe.data, "train")
    teacher = load_teacher(recipe.teacher, data.classes, device) if recipe.teacher is not None else None
    times = step_times(recipe, teacher, data, device, options.steps)
    extra = f" and {times['extra']:.4f} s in stages before it" if times["extra"] else ""
    print(f"{times['student']:.4f} s per step of the student{extra} ({times['device']}, {times['threads']} threads)")
    if options.json:
        write_json(options.json, times)


def main() -> int:
    """0, or 2 for bad input."""
    options = arguments()
    from kd.config import exit_code

    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
