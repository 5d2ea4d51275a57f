"""The distillation methods: what each matches, its formula, its knobs, the published weights, known failures (Markdown)."""

from __future__ import annotations

import argparse

from kd.commands._completion import cards


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    names = parser.add_argument("names", nargs="*", metavar="NAME", help="cards of these methods (default: all, after a table)")
    names.completer = cards  # type: ignore[attr-defined]
    parser.add_argument("--table", action="store_true", help="only the table")


def run(options: argparse.Namespace) -> None:
    """Print the table, cards, or both."""
    from kd.methods.cards import card, names, table
    from kd.recipe.library import library

    presets = library() / "_parts" / "method"
    if not options.names:
        print(table(presets))
    if not options.table:
        for name in options.names or names():
            print(f"\n{card(class_of(name), presets)}")


def class_of(word: str) -> str:
    """The method that a word beside a recipe stands for, or the name itself."""
    from kd.recipe.library import method_files
    from kd.recipe.method_words import spelled_out

    method = spelled_out(word)[0].get("method") if word in method_files() else None
    return str(method["name"]) if isinstance(method, dict) else word.partition("@")[0]
