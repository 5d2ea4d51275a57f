"""The distillation methods: what each matches, its formula, its knobs, the published weights, known failures (Markdown)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PRESETS = Path(__file__).resolve().parent.parent / "recipes" / "_parts" / "method"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cards of these methods (default: all, after a table)")
    parser.add_argument("--table", action="store_true", help="only the table")
    return parser.parse_intermixed_args()


def run(options: argparse.Namespace) -> None:
    """Print the table, cards, or both."""
    from kd.methods.cards import card, names, table

    if not options.names:
        print(table(PRESETS))
    if not options.table:
        for name in options.names or names():
            print(f"\n{card(name, PRESETS)}")


def main() -> int:
    """0, or 2 for bad input."""
    options = arguments()
    from kd.config import exit_code

    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
