"""A table of runs: mean over seeds, difference from the own baseline with its interval, cost, published numbers beside."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kd.commands import _comparison

EPILOG = """examples:
  kd table runs/camvid_small
  kd table runs/camvid runs/voc --layout brief --format latex
  kd table runs/camvid --by schedule.steps              # a block for each length of training
  kd table runs/camvid --apart schedule.steps --baseline 'ce (schedule.steps=1500)'   # what the time would have bought
  kd table runs/camvid --update README.md --name camvid   # between <!-- table:camvid --> and <!-- /table -->
  kd table --published                                  # the benchmark table of the literature
  kd table --published --all-methods                    # with newer methods, further networks and test images

Rows come from run directories (result.json, recipe.yaml, counts.npz). A block holds one data set and pair; its rows share
data, augmentation, student, teacher, schedule and evaluation, or the table is refused and the differing keys are named. A
row is called as its sweep's axis, or its command line, names the method; else by its method, or the terms of its loss. CSV
and JSON hold every number in every layout.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("paths", nargs="*", type=Path, metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("--layout", choices=("long", "brief"), default="long", help="a row a method, or a column a method")
    parser.add_argument("--format", choices=("markdown", "latex", "csv", "json"), default="markdown")
    _comparison.configure(parser)
    parser.add_argument("--published", action="store_true", help="the published benchmark table instead of runs")
    parser.add_argument("--all-methods", action="store_true", help="of --published: newer methods and networks too")
    parser.add_argument("--update", type=Path, metavar="FILE", help="write into this file, between its markers")
    parser.add_argument("--name", help="of the markers (default: results, or published)")


def run(options: argparse.Namespace) -> None:
    """Read, compare, print or update."""
    from kd.config import InputError
    from kd.results.render import update

    if bool(options.paths) == options.published:
        raise InputError("give run directories, e.g. runs/camvid, or --published; one of the two")
    if options.all_methods and not options.published:
        raise InputError("--all-methods is for the published numbers; give it with --published, runs are all in their table")
    if options.update and options.format != "markdown":
        raise InputError(f"--update writes Markdown, not {options.format}; drop --format, or redirect the output to a file")
    text = published(options) if options.published else measured(options)
    if not options.update:
        print(text, end="")
        return
    name = options.name or ("published" if options.published else "results")
    changed = update(options.update, name, text)
    print(f"{options.update}: table '{name}' {'updated' if changed else 'is up to date'}")


def published(options: argparse.Namespace) -> str:
    """The benchmark table of the literature."""
    from kd.results.published import load_published
    from kd.results.published_tables import all_methods, benchmark, benchmark_records
    from kd.results.render import written

    found, whole = load_published(), options.all_methods
    return written(options.format, [all_methods(found) if whole else benchmark(found)], benchmark_records(found, whole))


def measured(options: argparse.Namespace) -> str:
    """The table of the runs."""
    from kd.results import layouts
    from kd.results.published import load_published
    from kd.results.records import records
    from kd.results.render import written
    from kd.results.rows import summarise
    from kd.results.runs import load_runs

    found, numbers = load_runs(options.paths), load_published()
    blocks = summarise(found, _comparison.choices(options))
    layout = layouts.brief if options.layout == "brief" else layouts.long
    tables = layout(blocks, numbers, options.checkpoint == "best", found.left_out)
    if options.format in ("csv", "json"):
        print(*found.left_out, sep="\n", end="\n" if found.left_out else "", file=sys.stderr)
    return written(options.format, tables, records(blocks, numbers))
