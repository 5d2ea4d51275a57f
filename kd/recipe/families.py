"""Families: what the recipes of one published code base have in common.

A recipe names its ``family`` once; whatever nobody else has set, no part, no sweep and no command line, then is as the family
has it. A family is a file of ``_parts/family``, written as any part. Its ``variants`` are mappings that count where the class
which they name is the chosen one, also inside another: ``student: {name: unet, ...}`` says nothing about other networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kd.config import ConfigError, cut, shown
from kd.recipe.library import shelves, short
from kd.recipe.merging import Origins, Tree, read

FOLDER = "_parts/family"
OWN = "own"
"""The family of recipes that name none, and of what another leaves open."""
EXAMPLE = "variants: [{student: {name: unet, pixels: true}}]"
Allowed = Callable[[str], bool]


def families(near: Path | None = None) -> dict[str, Path]:
    """Their names and files. A name means the same beside every recipe: the current folder's come first."""
    found: dict[str, Path] = {}
    for folder in reversed(dict.fromkeys([Path.cwd(), Path.cwd() / "recipes", *shelves(near)])):
        found |= {file.stem: file for file in (folder / FOLDER).glob("*.yaml") if file.is_file()}
    return dict(sorted(found.items()))


def read_family(name: Any, near: Path | None = None) -> tuple[Tree, list[Tree], str]:
    """What a family sets, its variants, and how messages call its file.

    Raises:
        ConfigError: there is no such family, or its file is none.
    """
    known = families(near)
    if not isinstance(name, str) or name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"family: '{cut(str(name))}' is unknown; {hint}Families: {', '.join(known)}")
    file = known[name]
    tree, _ = read(file)
    variants = tree.pop("variants", [])
    if not isinstance(variants, list) or not all(_named(variant) for variant in variants):
        raise ConfigError(f"{file}: variants is {shown(variants)}; it is a list of mappings that name a class, e.g. {EXAMPLE}")
    for key, value in tree.items():
        if not isinstance(value, Mapping) or _named(value):
            raise ConfigError(
                f"{file}: {key} is {shown(value)}; a family sets keys of mappings, and what names a class in {EXAMPLE}"
            )
    if not tree and not variants:
        raise ConfigError(f"{file}: is empty; a family sets keys as any part, e.g. student: {{initialisation: jdt}}")
    return tree, variants, short(file.resolve())


def fill(tree: Tree, origins: Origins, near: Path | None = None, allowed: Allowed = lambda _: True) -> None:
    """Set what the family of a recipe says and nobody else does, then what the toolkit's own does; with its origin.

    ``allowed`` says of a dotted key whether it may be set.
    """
    given = tree.get("family", OWN)
    for name in [given, OWN] if given != OWN else [OWN]:
        _fill(tree, origins, read_family(name, near), allowed)


def _fill(tree: Tree, origins: Origins, family: tuple[Tree, list[Tree], str], allowed: Allowed) -> None:
    common, variants, source = family
    computed = tree.get("loss") or {}
    weights = {term: weight for term, weight in common.pop("weights", {}).items() if term in computed}

    def put(branch: Any, wish: Mapping[str, Any], path: str) -> None:
        for key, value in wish.items():
            if isinstance(value, Mapping):
                if isinstance(inner := branch.setdefault(key, {}), dict):
                    put(inner, value, f"{path}{key}.")
            elif key not in branch and allowed(f"{path}{key}"):
                branch[key] = value
                origins[f"{path}{key}"] = source

    for section, wish in ((section, wish) for variant in variants for section, wish in variant.items()):
        while "name" not in wish:
            ((_, wish),) = wish.items()
        for path, branch in list(_of_class(tree.get(section), wish["name"], f"{section}.")):
            put(branch, wish, path)
    put(tree, {**common, "weights": weights} if weights else common, "")


def _named(value: Any) -> bool:
    """Whether a mapping, or the only one that it leads to, names a class."""
    while isinstance(value, Mapping) and "name" not in value:
        if len(value) != 1:
            return False
        (value,) = value.values()
    return isinstance(value, Mapping)


def _of_class(branch: Any, name: Any, path: str) -> Iterator[tuple[str, Tree]]:
    """The mappings that name a class, with their paths, however deep: members of ensembles, predictors of predictors."""
    if isinstance(branch, dict):
        if branch.get("name") == name:
            yield path, branch
        for key, value in branch.items():
            yield from _of_class(value, name, f"{path}{key}.")
    elif isinstance(branch, list):
        for value in branch:
            yield from _of_class(value, name, path)
