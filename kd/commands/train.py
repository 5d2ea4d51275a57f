"""Train what a recipe describes: a teacher, a baseline, or a student with its teacher."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kd.commands._completion import beside, recipes

EPILOG = """examples:
  kd train shapes/tiny jml_kd --smoke
  kd train camvid/r50_teacher data.root=~/camvid
  kd train camvid/r18 ce data.root=~/camvid
  kd train camvid/r18 jml_kd data.root=~/camvid seed=1
  kd train camvid/r18 kd+cwd_logit@official data.root=~/camvid
  torchrun --nproc_per_node=4 -m kd train camvid/r18 jml_kd data.root=~/camvid

A recipe of a teacher is whole; one of a pair needs a METHOD beside it: a task loss (ce, ce_jml, ce_ls, bls_jml), a preset as
`kd methods` lists them, or several joined by +. Beside a method stands the task loss ce, unless the method brings its own, as
jml_kd does, or another is named: ce_jml+kd. `kd recipes` lists the recipes.
The same command resumes an interrupted run exactly where its last checkpoint is; a finished run is never overwritten.
Exit codes: 0 finished, 2 bad input (the message says what to do), 75 stopped by a signal with a checkpoint (requeue it).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    recipe = parser.add_argument("recipe", metavar="RECIPE", help="a name such as camvid/r18, or a YAML file")
    recipe.completer = recipes  # type: ignore[attr-defined]
    words = parser.add_argument("words", nargs="*", metavar="METHOD | key=value", help="e.g. jml_kd schedule.steps=1000 seed=1")
    words.completer = beside  # type: ignore[attr-defined]
    parser.add_argument("--output", type=Path, help="run directory (default: runs/FOLDER/RECIPE_METHOD/seedN)")
    parser.add_argument("--smoke", action="store_true", help="four steps on tiny procedural images, in a temporary directory")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe, who set each key, and stop")


def run(options: argparse.Namespace) -> None:
    """Compose data, teacher and trainer."""
    from kd.recipe.loading import describe, load

    recipe, origins = load(options.recipe, options.words, options.smoke)
    if options.dry_run:
        print(describe(recipe, origins), end="")
        return
    from kd import distributed
    from kd.data.build import open_training
    from kd.seeds import seed_everything
    from students.run import train
    from students.run_directory import finished
    from teachers.load import load_teacher

    device = distributed.local_device(recipe.run.device)
    with distributed.world(device):
        folder = distributed.gather(output(options, recipe.seed))[0]
        if (result := finished(recipe, folder)) is not None:
            report(result, folder, "was finished before; nothing to do")
            return
        data = open_training(recipe.data, recipe.unlabelled)
        seed_everything(recipe.seed, "teacher")
        teacher = load_teacher(recipe.teacher, data.classes, device, data.channels) if recipe.teacher is not None else None
        report(train(recipe, origins, folder, teacher, data, device, asked(options.words)), folder, "finished")


def asked(words: Sequence[str]) -> str:
    """The method's word, which tables call the run by; "" where a change has put another in its place."""
    from kd.recipe.loading import sorted_words

    word, changes = sorted_words(words)
    methods = [change["method"] for change in changes if "method" in change]
    replaced = any(not isinstance(method, dict) or "name" in method for method in methods)
    return "" if replaced or any("loss" in change for change in changes) else word


def output(options: argparse.Namespace, seed: int) -> Path:
    """Where the run goes."""
    from kd.recipe.library import recipe_file
    from kd.recipe.loading import sorted_words

    if options.output is not None:
        return options.output
    file, (method, _) = recipe_file(options.recipe).resolve(), sorted_words(options.words)
    name = f"{file.stem}_{method}" if method else file.stem
    if options.smoke:
        return Path(tempfile.mkdtemp(prefix="smoke-")) / name
    return Path("runs") / file.parent.name / name / f"seed{seed}"


def report(result: dict[str, Any], folder: Path, state: str) -> None:
    """A few lines for people, on rank 0."""
    from kd.distributed import is_main

    if is_main():
        print(f"{folder}: {state}")
        split, cost = result["reported_on"], f"{result['steps']} steps, {result['cost']['seconds_per_step']:.3f} s/step"
        if split is None:
            print(f"not measured, since evaluation.report is none; {cost}")
        else:
            print("\n".join(scored(result["last"][split], split, cost, folder)))


def scored(scores: dict[str, Any], split: str, cost: str, folder: Path) -> Iterator[str]:
    """What was measured, a line each."""
    from kd.commands.evaluate import absent_note, coverage, of_classes

    shown = "undefined" if scores["mIoU"] is None else f"{scores['mIoU']:.2f}"
    yield f"mIoU {shown} ({split}, last checkpoint{coverage(scores)}), {cost}"
    if scores.get("absent_but_predicted"):
        yield absent_note(scores)
    yield from of_classes(scores.get("iou") or {}, folder)
    if (f1 := scores.get("foreground_F1")) is not None:
        yield f"F1 of {list(scores['iou'])[1]}: {f1:.2f} %"
