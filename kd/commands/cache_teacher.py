"""Ask a recipe's teacher once and keep its soft labels, so that students learn from them without it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd.commands._completion import beside, recipes

TOLERANCE = 1e-4
"""Nats a pixel that storing soft labels may cost unnoticed."""
EPILOG = """examples:
  kd cache-teacher camvid/r18 jml_kd data.root=~/camvid --to caches/camvid_r34
  kd train camvid/r18 jml_kd data.root=~/camvid teacher.cache=caches/camvid_r34 augmentation.views=16
  kd cache-teacher camvid/r18 data.root=~/camvid --whole --to caches/camvid_r34_whole
  kd train camvid/r18 jml_kd data.root=~/camvid teacher.cache=caches/camvid_r34_whole

Crops (the default): --views fixed crops an image, the same for every seed, are shown to the teacher as steps would show them;
what is read differs from what it said by the rounding to a byte alone. Whole images: the teacher sees each image once, uncut,
and any crop is cut out of its answer, at the crop's scale; it has seen other surroundings and other scales than crops have.
Only logits are kept, auxiliary ones unless METHOD does not read them. An interrupted command goes on where it stopped.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    recipe = parser.add_argument("recipe", metavar="RECIPE", help="one with a teacher, such as camvid/r18")
    recipe.completer = recipes  # type: ignore[attr-defined]
    words = parser.add_argument(
        "words", nargs="*", metavar="METHOD | key=value", help="as for kd train (default: for any method)"
    )
    words.completer = beside  # type: ignore[attr-defined]
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the soft labels go")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--views", type=int, metavar="K", help="crops an image (default: augmentation.views, or 16)")
    kinds.add_argument("--whole", action="store_true", help="whole images instead of crops")


def run(options: argparse.Namespace) -> None:
    """Load data and teacher, write what is missing, say what it has cost."""
    from kd import distributed
    from kd.config import InputError
    from kd.data.build import open_training
    from kd.recipe.loading import load, sorted_words
    from kd.seeds import seed_everything
    from teachers.load import load_teacher

    if options.views is not None and options.views < 1:
        raise InputError(f"--views: is {options.views}; an image has one crop or more")
    recipe, _ = load(options.recipe, options.words, default="kd")
    if (asked := recipe.teacher) is None:
        raise InputError(f"{options.recipe}: has no teacher to ask; name a recipe of a pair, such as camvid/r18")
    asked = asked.model_copy(update={"cache": None})
    views = options.views or recipe.augmentation.views or 16
    if not options.whole:
        recipe = recipe.model_copy(update={"augmentation": recipe.augmentation.model_copy(update={"views": views})})
    device = distributed.local_device(recipe.run.device)
    with distributed.world(device):
        data = open_training(recipe.data, recipe.unlabelled)
        seed_everything(recipe.seed, "teacher")
        teacher = load_teacher(asked, data.classes, device, data.channels)
        stands_in = getattr(recipe.method, "name", "") == "kd" and not sorted_words(options.words)[0]
        report(keep(recipe, data, teacher, options.to, options.whole, stands_in, device), options, recipe)


def keep(recipe: Any, data: Any, teacher: Any, folder: Path, whole: bool, for_any: bool, device: Any) -> dict[str, Any]:
    """Write the card and what is missing beside it; returns what there is."""
    from kd import distributed
    from kd.data.loader import numbered_batches
    from students.precision import precision
    from students.progress import bar, say
    from teachers.soft_labels.files import names, quality
    from teachers.soft_labels.plan import begin, check_room
    from teachers.soft_labels.writing import write

    card = begin(recipe, data, teacher, folder, whole, for_any)
    there = names(folder)
    todo = [number for number in range(len(data)) if data.identity(number) not in there]
    if todo:
        size = data.read(todo[0])[1].shape if whole else recipe.augmentation.crop
        needed = check_room(card, size, len(todo), folder)
        say(f"{len(todo)} of {len(data)} images to ask about, {card.words}: about {needed / 1e9:.2g} GB")
    mine = todo[distributed.rank() :: distributed.world_size()]
    ask = teacher.for_steps(precision(recipe.schedule.precision, device), recipe.run.channels_last)
    crops = None if whole else recipe.augmentation
    loader = numbered_batches(data, mine, crops, recipe.schedule.batch, recipe.run.workers)
    progress: Any = bar(len(mine), "asking the teacher")
    for _ in write(folder, card, (batch.to(device) for batch in loader), ask):
        progress.update()
    progress.close()
    distributed.barrier()
    return quality(folder)


def report(found: dict[str, Any], options: argparse.Namespace, recipe: Any) -> None:
    """What there is, what a byte a logit has cost, and how to use it."""
    from kd.distributed import is_main
    from students.progress import say

    if not is_main():
        return
    each = found["bytes"] / found["images"] / 1e6
    print(f"{options.to}: soft labels of {found['images']} images, {found['bytes'] / 1e6:.1f} MB, {each:.2g} MB an image")
    print(
        f"KL between what the teacher said and what is kept: {found['kl']:.1e} nats a pixel, at most {found['highest_kl']:.1e}"
    )
    if found["kl"] > TOLERANCE:
        say(
            f"WARNING: that is more than {TOLERANCE}: the teacher is nearly undecided between classes, as an untrained one is; "
            "steps of 1/16 between its logits are coarse then"
        )
    views = "" if options.whole else f" augmentation.views={recipe.augmentation.views}"
    print(f"use them with the same recipe and data: teacher.cache={options.to}{views}")
