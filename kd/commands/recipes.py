"""List the recipes, print one, or copy one to be edited."""

from __future__ import annotations

import argparse
from pathlib import Path
from shlex import quote

from kd.commands._completion import recipes_and_sweeps

EPILOG = """examples:
  kd recipes                                 all pairs, teachers and sweeps, with a line each
  kd recipes show camvid/r18                 the file; `kd train camvid/r18 kd --dry-run` shows all it resolves to
  kd recipes copy camvid/r18                 to r18.yaml here, to be edited and trained: kd train r18.yaml kd
  kd recipes copy sweeps/camvid_small mine.yaml

Names are looked up in the current folder, in its recipes/, and among those that come with the package.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("what", nargs="?", choices=("list", "show", "copy"), default="list", help="default: list")
    name = parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe, or sweeps/NAME")
    name.completer = recipes_and_sweeps  # type: ignore[attr-defined]
    parser.add_argument("target", nargs="?", type=Path, metavar="FILE", help="of the copy (default: in the current folder)")


def run(options: argparse.Namespace) -> None:
    """List, print or copy."""
    from kd.config import InputError

    if options.what == "list":
        if options.name:
            raise InputError(f"'{options.name}' is not needed to list recipes; did you mean: kd recipes show {options.name}")
        print(listing())
        return
    if not options.name:
        raise InputError(f"{options.what}: name a recipe, e.g. kd recipes {options.what} camvid/r18; `kd recipes` lists them")
    file = found(options.name)
    if options.what == "show":
        print(file.read_text(encoding="utf-8"), end="")
    else:
        print(copied(file, options.target or Path(file.name)))


def found(name: str) -> Path:
    """The file of a recipe, or of a sweep where the name says so."""
    from kd.recipe.library import recipe_file, sweep_file

    return sweep_file(name) if name.removeprefix("recipes/").startswith("sweeps/") else recipe_file(name)


def listing() -> str:
    """A line for each recipe and sweep: its name and the first sentence of its comment."""
    from kd.recipe.library import comment, find, method_files, recipe_names, sweep_names

    names = [*recipe_names(), *(f"sweeps/{name}" for name in sweep_names())]
    width = max(map(len, names)) + 2
    lines, folder = [], ""
    for name in names:
        if (here := name.partition("/")[0]) != folder:
            folder = here
            lines.append("")
        file = find(name)
        lines.append(f"{name:{width}s}{comment(file).partition('. ')[0].rstrip('.') if file else ''}")
    methods = ", ".join(method_files())
    return "\n".join([*lines[1:], "", f"beside a pair stands a method: {methods}", "`kd methods` tells what they do"])


def copied(file: Path, target: Path) -> str:
    """Write a copy that editors still find the schema for; returns what to do with it.

    Raises:
        InputError: there is such a file already.
    """
    from yaml import safe_load

    from kd.config import InputError
    from kd.files import write_text
    from kd.recipe.library import MODELINE, library
    from kd.recipe.merging import read

    target = target / file.name if target.is_dir() else target
    if target.exists():
        raise InputError(f"{target}: is there already; name another file: kd recipes copy NAME FILE")
    schema = "sweep" if "axes" in safe_load(file.read_text(encoding="utf-8")) else "recipe"
    line = f"{MODELINE}: $schema={(library() / f'{schema}.schema.json').resolve()}"
    rest = [each for each in file.read_text(encoding="utf-8").splitlines() if not each.startswith(MODELINE)]
    write_text(target, "\n".join([line, *rest]) + "\n")
    if schema == "sweep":
        return f"{target}: written; edit it, then: kd sweep {quote(str(target))}"
    method = "" if {"loss", "method"} & read(file)[0].keys() else " METHOD"
    return f"{target}: written; edit it, then: kd train {quote(str(target))}{method}"
