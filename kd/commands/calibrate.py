"""Measure what one optimizer step of a recipe costs on this machine; nothing is trained or kept."""

from __future__ import annotations

import argparse
from pathlib import Path

from kd.commands._completion import beside, recipes

EPILOG = """examples:
  kd calibrate camvid_small/r18 ce data.root=~/camvid
  kd calibrate shapes/tiny cirkd@citys 'teacher={name: fresh, network: {name: deeplabv3}}' --json times.json

kd sweep uses it where a sweep file says "match: wall_clock" or "budget: {hours: H}".
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    recipe = parser.add_argument("recipe", metavar="RECIPE", help="a name or a YAML file, as kd train takes it")
    recipe.completer = recipes  # type: ignore[attr-defined]
    words = parser.add_argument("words", nargs="*", metavar="METHOD | key=value", help="as kd train takes them")
    words.completer = beside  # type: ignore[attr-defined]
    parser.add_argument(
        "--steps", type=int, default=24, help="steps of each stage; the first third only warms up (default: 24)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")


def run(options: argparse.Namespace) -> None:
    """Compose data, teacher and clock."""
    from kd import distributed
    from kd.config import InputError
    from kd.data.build import open_training
    from kd.files import write_json
    from kd.recipe.loading import load
    from students.sweeping.measure_step_times import step_times
    from teachers.load import load_teacher

    if options.steps < 1:
        raise InputError(f"--steps is {options.steps}; at least one step must be measured")
    recipe, _ = load(options.recipe, options.words)
    device = distributed.local_device(recipe.run.device)
    data = open_training(recipe.data, recipe.unlabelled)
    teacher = load_teacher(recipe.teacher, data.classes, device, data.channels) if recipe.teacher is not None else None
    times = step_times(recipe, teacher, data, device, options.steps)
    extra = f" and {times['extra']:.4f} s in stages before it" if times["extra"] else ""
    print(f"{times['student']:.4f} s per step of the student{extra} ({times['device']}, {times['threads']} threads)")
    if options.json:
        write_json(options.json, times)
