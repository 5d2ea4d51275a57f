"""Look at every image and mask of a recipe's data once, before hours are spent on them: damage, labels, leakage, imbalance."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from kd.commands._completion import beside, recipes

EPILOG = """examples:
  kd check-data folder/r18 data.root=~/mine 'data.classes={0: background, 255: crack}'
  kd check-data camvid/r18 data.root=~/camvid --split train --json camvid.json

Needs neither teacher nor network. Exit codes: 0 clean, 2 something to mend (or bad input).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    recipe = parser.add_argument("recipe", metavar="RECIPE", help="any recipe, by name or file; its data part is looked at")
    recipe.completer = recipes  # type: ignore[attr-defined]
    words = parser.add_argument("words", nargs="*", metavar="key=value", help="e.g. data.root=DIR")
    words.completer = beside  # type: ignore[attr-defined]
    parser.add_argument("--split", action="append", default=[], help="only this one; may be repeated (default: all)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers and every offence here")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="default: runs/check/DATA/samples.png")
    parser.add_argument("--samples", type=int, default=6, help="rows of the picture, 0: none (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Scan, print, draw; an error at the end if there is something to mend."""
    from kd.config import InputError
    from kd.data.audit.ranges import measure
    from kd.data.audit.report import lines, plain
    from kd.data.audit.scan import audit, opened
    from kd.files import write_json
    from kd.lookup import lookup
    from kd.recipe.loading import load
    from students.progress import bar

    recipe, _ = load(options.recipe, options.words, default="ce", taught=False, normalised=False)
    crop, workers = recipe.augmentation.crop, max(0, options.workers)
    found = audit(recipe.data, splits=options.split, crop=crop, workers=workers, show=bar)
    split = next(iter(found.samples))
    broken = [offence.name for offence in found.offences if offence.split == split]
    data = opened(recipe.data, split)
    measured = measure(data, broken if data.bands.plain else ()) if broken or not data.bands.plain else None
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, {**plain(found), **({"measured": vars(measured)} if measured else {})})
    print("\n".join(lines(found)))
    if measured:
        print("", *measured.lines(data.channels), sep="\n")
    offered = lookup("kd.data", recipe.data.name, "Dataset").offers(recipe.data)
    if recipe.evaluation.measures and recipe.evaluation.report not in offered:
        print(f"there is no split {recipe.evaluation.report} to report: train with evaluation.report={offered[-1]}")
    if options.samples > 0 and any(found.samples.values()):
        print(f"\nsamples: {draw(recipe.data, found, options)}")
    if found.offences:
        raise InputError(f"{recipe.data.name}: to mend: {len(found.offences)}, see above")


def draw(config: Any, found: Any, options: argparse.Namespace) -> Path:
    """Images under their labels, beside the labels, for samples spread over the first split. Returns the picture's path."""
    import numpy as np
    import torch

    from kd.data.audit.scan import opened
    from kd.files import at_home
    from students.examining.previews import overlay, sheet

    split = next(name for name, samples in found.samples.items() if samples)
    data, good = opened(config, split), {sample.name for sample in found.samples[split]}
    fit = [index for index in range(len(data)) if data.identity(index) in good]
    count = min(options.samples, len(fit))
    rows = []
    for index in [fit[position * len(fit) // count] for position in range(count)]:
        image, labels = data.read(index)
        mixed = torch.from_numpy(np.array(overlay(data.bands.visible(image), labels, data.colours, 0.4))).permute(2, 0, 1)
        rows.append((mixed, {"labels": labels}))
    name = at_home(getattr(config, "root", None) or config.name).name.replace(":", ".")
    path = options.picture or Path("runs") / "check" / name / "samples.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, data.classes, data.colours).save(path)
    return path
