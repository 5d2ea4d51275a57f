"""A report of runs: one HTML file with the table, curves, costs, classes, calibration, pictures and recipes; no network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from kd.commands import _comparison

EPILOG = """examples:
  kd report runs/sweeps/shapes_demo
  kd report runs/camvid runs/voc --output camvid_voc.html --title "CamVid and VOC"
  kd report runs/camvid --baseline ce+jaccard --by schedule.steps

Reads what kd table reads, and groups, refuses and counts as it does. Open the file in a browser: it holds its pictures
and charts, and asks for nothing else. What the runs did not record is said to be missing.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in DIR, or in what several lie in")
    parser.add_argument("--title", default="", help="of the page (default: the data sets)")
    _comparison.configure(parser)


def run(options: argparse.Namespace) -> None:
    """Read, compare, write."""
    from kd.config import InputError
    from kd.files import write_whole
    from kd.report.page import page
    from kd.results.footnotes import title
    from kd.results.published import load_published
    from kd.results.rows import summarise
    from kd.results.runs import load_runs

    output = options.output or beside(options.paths)
    if options.output is None and output.is_symlink():
        raise InputError(f"{output}: is a link, and what it leads to would be overwritten; say where to write: --output FILE")
    if output.is_dir():
        raise InputError(f"--output {output}: is a directory; name a file in it, e.g. {output}/report.html")
    found, numbers = load_runs(options.paths), load_published()
    blocks = summarise(found, _comparison.choices(options))
    for block in blocks:
        print(f"{title(block)}: {len(block.rows)} rows, {sum(len(row.runs) for row in block.rows)} runs")
    text = page(blocks, numbers, found.left_out, options.title, options.checkpoint == "best")
    write_whole(output, lambda path: path.write_text(text, encoding="utf-8"))
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MB; open it in a browser")


def beside(paths: Sequence[Path]) -> Path:
    """Where a report of these directories goes unless told: into the directory, or the one that several lie in."""
    if len(paths) == 1:
        return paths[0] / "report.html"
    folder = Path(os.path.commonpath([path.resolve() for path in paths]))
    return (folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder) / "report.html"
