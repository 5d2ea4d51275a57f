"""The keys in which two recipes differ, or two runs, and who set them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd.commands._completion import recipes

EPILOG = """examples:
  kd compare-recipes cityscapes/dl3_r18 cityscapes_cirkd/dl3_r18
  kd compare-recipes 'camvid/r18 kd' 'camvid/r18 kd family=own'      methods and changes in quotes, as on a command line
  kd compare-recipes runs/camvid/r18_kd/seed0 runs/camvid/r18_cwd/seed0

Beside a pair that names no method stands ce. Exit code 0, whether they differ or not.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    for name in ("first", "second"):
        text = "a recipe with its method and changes in quotes, or a run directory"
        parser.add_argument(name, metavar=name.upper(), help=text).completer = recipes  # type: ignore[attr-defined]


def run(options: argparse.Namespace) -> None:
    """Print a line for each key: both values, and both origins."""
    from kd.results.differences import differing

    (first, ours), (second, theirs) = (resolved(text) for text in (options.first, options.second))
    found = differing(first, second, tuple(first))
    width = max(map(len, found), default=0)
    for key, values in found.items():
        one, other = (_told(value) for value in values)
        who = " -> ".join(_origin(origins, key, value) for origins, value in zip((ours, theirs), values, strict=True))
        print(f"{key:{width}s}  {one}  ->  {other}    # {who}")
    print(f"{len(found)} key{'s differ' if len(found) != 1 else ' differs'}")


def resolved(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The resolved recipe of what is written on a command line, and who set its keys."""
    import shlex

    from kd.config import InputError
    from kd.recipe.loading import RUN_RECIPE, load
    from kd.recipe.schema import plain

    try:
        name, *words = shlex.split(text) or [""]
    except ValueError as error:
        raise InputError(f"{text}: cannot be taken apart ({error}); close the quotes inside") from None
    if (file := Path(name) / RUN_RECIPE).is_file():
        name = str(file)
    recipe, origins = load(name, words, default="ce")
    return plain(recipe), origins


def _told(value: Any) -> str:
    import json

    return "-" if value is None else json.dumps(value)


def _origin(origins: dict[str, str], key: str, value: Any) -> str:
    from kd.recipe.merging import origin

    return "-" if value is None else origin(origins, key)
