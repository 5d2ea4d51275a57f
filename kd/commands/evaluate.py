"""Evaluate the student that a run left behind, on any split and with any predictor."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MANY = 12
"""More classes than these are not listed unasked."""
EPILOG = """examples:
  kd evaluate runs/camvid/r18_jml_kd/seed0
  kd evaluate runs/camvid/r18_jml_kd/seed0 --split test --checkpoint best
  kd evaluate runs/cracks/r18_ce/seed0 --thresholds           on the selecting split, val, unless another is said
  kd evaluate runs/camvid/r18_ce/seed0 'evaluation.predictor={name: sliding, window: [180, 240]}'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's recipe, e.g. data.root=DIR")
    parser.add_argument("--split", help="default: the split that the recipe reports")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--thresholds", action="store_true", help="two classes: scores by the foreground's probability")
    parser.add_argument("--threshold", type=float, metavar="P", help="two classes: scores at this probability")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all scores here")


def run(options: argparse.Namespace) -> None:
    """Load, evaluate, print."""
    from kd import distributed
    from kd.config import InputError
    from kd.data.bands import Bands
    from kd.files import write_json
    from kd.networks.build import load_network
    from kd.recipe.loading import load
    from students.examining.examiner import Examiner
    from students.examining.thresholds import Wish, facts, lines
    from students.progress import say

    if not (options.run / "recipe.yaml").is_file():
        below = sorted(file.parent for file in options.run.glob("*/recipe.yaml"))
        hint = f"did you mean {below[0]}?" if below else "give a directory that `kd train` wrote"
        raise InputError(f"{options.run}: is no run; {hint}")
    recipe, _ = load(options.run / "recipe.yaml", options.overrides, taught=False)
    name = options.split or (recipe.evaluation.select if options.thresholds else recipe.evaluation.report)
    if not (options.split or recipe.evaluation.measures):
        raise InputError(f"{options.run}: names no split to measure on (evaluation.report is none); give --split SPLIT")
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"report": name, "select": name})})
    network, card = load_network(options.run, "student" if options.checkpoint == "last" else "best")
    wish = Wish(options.thresholds, options.threshold, tuple(card["classes"]))
    device = distributed.local_device(recipe.run.device)
    with distributed.world(device):
        examiner = Examiner(recipe, wish.classes, device)
        if told := Bands.of(card).strange(examiner.data[name].bands):
            say(f"note: {options.run} {told}")
        calibration = recipe.evaluation.calibration
        found = examiner.examine(network.to(device), name, calibration=calibration, thresholds=bool(wish))
        scores = found.scores(examiner.classes)
        if distributed.is_main():
            more = facts(found.levels, wish) if found.levels else {}
            if options.json:
                write_json(options.json, {"run": str(options.run), "split": name, **scores, **more})
            show(scores, f"{options.run}, {options.checkpoint} checkpoint (step {card.get('step')}), split {name}")
            for line in lines(found.levels, wish, name, options.run) if found.levels else ():
                print(line)


def show(scores: dict[str, Any], title: str) -> None:
    """Scores in columns, with their units."""
    from kd.metrics.scores import ENDINGS, unit

    print(f"{title}{coverage(scores)}")
    for key, value in scores.items():
        if not isinstance(value, dict | str):
            print(f"  {key:16s} {_text(value):>8s} {'' if value is None else unit(key)}".rstrip())
    print(f"  {ENDINGS}")
    if scores["absent_but_predicted"]:
        print(f"  {absent_note(scores)}")
    print("  IoU of each class", *(f"  {line}" for line in class_lines(scores["iou"])), sep="\n")


def class_lines(iou: dict[str, float | None]) -> Iterator[str]:
    """A line for each class: name and IoU; a dash where no label contains it and it is not predicted."""
    width = max(map(len, iou), default=0)
    for name, value in iou.items():
        yield f"  {name:{width}s} {_text(value):>8s}{'' if value is None else ' %'}"


def of_classes(iou: dict[str, float | None], folder: Path) -> Iterator[str]:
    """The lines of a few classes, else the command that shows those of many."""
    if len(iou) <= MANY:
        yield from class_lines(iou)
    else:
        yield f"IoU of each of the {len(iou)} classes: kd evaluate {shlex.quote(str(folder))}"


def coverage(scores: dict[str, Any]) -> str:
    """Told where labels of some classes are missing: ``, mIoU over 1 of 2 classes``."""
    values = list((scores.get("iou") or {}).values())
    counted = sum(value is not None for value in values)
    return f", mIoU over {counted} of {len(values)} classes" if counted < len(values) else ""


def absent_note(scores: dict[str, Any]) -> str:
    """A line for people where mIoU counts a class that no label contains."""
    return (
        f"no label of the split contains {scores['absent_but_predicted']}, predicted all the same: 0 in mIoU; over the other "
        f"classes it is {_text(scores['mIoU_labelled'])}"
    )


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else json.dumps(value)
