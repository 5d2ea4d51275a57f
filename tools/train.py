"""Train what a recipe describes: a teacher, a baseline, or a student with its teacher."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

EPILOG = """examples:
  python tools/train.py recipes/shapes/tiny_jml_kd.yaml --smoke
  python tools/train.py recipes/camvid/r18_jml_kd.yaml data.root=~/camvid seed=1
  torchrun --nproc_per_node=4 tools/train.py recipes/camvid/r50_teacher.yaml

The same command resumes an interrupted run exactly where its last checkpoint is; a finished run is never overwritten.
Exit codes: 0 finished, 2 bad input (the message says what to do), 75 stopped by a signal with a checkpoint (requeue it).
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("recipe", type=Path, help="a YAML file, e.g. recipes/camvid/r18_jml_kd.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. schedule.steps=1000 seed=1")
    parser.add_argument("--output", type=Path, help="run directory (default: runs/FOLDER/RECIPE/seedN)")
    parser.add_argument("--smoke", action="store_true", help="four steps on tiny procedural images, in a temporary directory")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe, who set each key, and stop")
    return parser.parse_intermixed_args()


def output(options: argparse.Namespace, seed: int) -> Path:
    """Where the run goes."""
    if options.output is not None:
        return options.output
    if options.smoke:
        return Path(tempfile.mkdtemp(prefix="smoke-")) / options.recipe.stem
    return Path("runs") / options.recipe.resolve().parent.name / options.recipe.stem / f"seed{seed}"


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Compose data, teacher and trainer."""
    from kd.recipe import describe, load

    recipe, origins = load(options.recipe, options.overrides, options.smoke)
    if options.dry_run:
        print(describe(recipe, origins), end="")
        return None
    from kd import distributed
    from kd.data.build import open_split
    from kd.seeds import seed_everything
    from students.run import finished, train
    from teachers.load import load_teacher

    device = distributed.local_device(recipe.run.device)
    with distributed.world(device):
        folder = distributed.gather(output(options, recipe.seed))[0]
        if (result := finished(recipe, folder)) is not None:
            return report(result, folder, "was finished before; nothing to do")
        data = open_split(recipe.data, "train")
        seed_everything(recipe.seed, "teacher")
        teacher = load_teacher(recipe.teacher, data.classes, device) if recipe.teacher is not None else None
        result = train(recipe, origins, folder, teacher, data, device)
        return report(result, folder, "finished")


def report(result: dict[str, Any], folder: Path, state: str) -> dict[str, Any]:
    """Two lines for people, on rank 0."""
    from kd.distributed import is_main

    if is_main():
        split = result["reported_on"]
        miou = result["last"][split]["mIoU"]
        shown = "undefined" if miou is None else f"{miou:.2f}"
        cost = result["cost"]
        print(f"{folder}: {state}")
        print(f"mIoU {shown} ({split}, last checkpoint), {result['steps']} steps, {cost['seconds_per_step']:.3f} s/step")
    return result


def main() -> int:
    """0, or 2 for bad input."""
    options = arguments()
    from kd.config import exit_code

    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
