"""Write the JSON Schema of recipe files, or of sweep files, by which editors complete and check them."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd schema > recipe.schema.json
  kd schema sweep --output sweep.schema.json

A file names its schema in a comment: # yaml-language-server: $schema=recipe.schema.json. `kd recipes copy` writes that line.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("what", nargs="?", choices=("recipe", "sweep"), default="recipe", help="default: recipe")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it here instead of printing it")


def run(options: argparse.Namespace) -> None:
    """Print or write."""
    from kd.files import write_text

    text = schema_text(options.what)
    if options.output:
        write_text(options.output, text)
    else:
        print(text, end="")


def schema_text(what: str) -> str:
    """The schema of ``recipe`` or ``sweep`` files."""
    import json

    from kd.recipe.json_schema import recipe_schema, sweep_schema
    from kd.sweep.schema import SweepFile

    return json.dumps(recipe_schema() if what == "recipe" else sweep_schema(SweepFile), indent=1) + "\n"
