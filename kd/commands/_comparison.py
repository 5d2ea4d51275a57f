"""What table and report are told alike: which rows compare, with what, and which checkpoint is shown."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kd.results.groups import Choices


def configure(parser: argparse.ArgumentParser) -> None:
    """Their command line."""

    def keys(word: str, meaning: str) -> None:
        parser.add_argument(word, action="append", default=[], metavar="KEY", help=meaning)

    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="best: shown beside the last one")
    parser.add_argument("--baseline", metavar="LABEL", help="the row to compare with (default: cross-entropy alone)")
    keys("--by", "a block for each value, e.g. schedule.steps")
    keys("--apart", "a row for each value, e.g. of a baseline that trained longer")
    keys("--allow", "rows may differ here; the table says so")


def choices(options: argparse.Namespace) -> Choices:
    """What was told."""
    from kd.results.groups import Choices

    return Choices(tuple(options.by), tuple(options.allow), tuple(options.apart), options.baseline)
