"""A report of runs: one HTML file with the table, curves, costs, classes, calibration, pictures and recipes; no network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PUBLISHED = Path(__file__).resolve().parent.parent / "recipes" / "published.yaml"
EPILOG = """examples:
  python tools/report.py runs/sweeps/shapes_demo
  python tools/report.py runs/camvid runs/voc --output camvid_voc.html --title "CamVid and VOC"
  python tools/report.py runs/camvid --baseline ce+jaccard --by schedule.steps

Reads what tools/table.py reads, and groups, refuses and counts as it does. Open the file in a browser: it holds its pictures
and charts, and asks for nothing else. What the runs did not record is said to be missing.
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.add_argument("--title", default="", help="of the page (default: the data sets)")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="best: shown beside the last one")
    parser.add_argument("--baseline", metavar="LABEL", help="the row to compare with (default: cross-entropy alone)")
    parser.add_argument("--by", action="append", default=[], metavar="KEY", help="a block for each value, e.g. schedule.steps")
    parser.add_argument("--allow", action="append", default=[], metavar="KEY", help="rows may differ here; the table says so")
    return parser.parse_intermixed_args()


def run(options: argparse.Namespace) -> None:
    """Read, compare, write."""
    from kd.config import InputError
    from kd.data.writing import write_whole
    from kd.published import load_published
    from kd.report.page import page
    from kd.results.groups import Choices
    from kd.results.notes import title
    from kd.results.rows import summarise
    from kd.results.runs import load_runs

    if options.output.is_dir():
        raise InputError(f"--output {options.output}: is a directory; name a file in it, e.g. {options.output}/report.html")
    found, numbers = load_runs(options.paths), load_published(PUBLISHED)
    blocks = summarise(found, Choices(tuple(options.by), tuple(options.allow), options.baseline))
    for block in blocks:
        print(f"{title(block)}: {len(block.rows)} rows, {sum(len(row.runs) for row in block.rows)} runs")
    text = page(blocks, numbers, found.left_out, options.title, options.checkpoint == "best")
    write_whole(options.output, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"{options.output}: {options.output.stat().st_size / 2**20:.1f} MB")


def main() -> int:
    """0, or 2 for bad input."""
    options = arguments()
    from kd.config import exit_code

    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
