"""Families: what the recipes of one published code base have in common.

A recipe names its ``family`` once; whatever nobody else has set, no part, no sweep and no command line, then is as the family
has it. A family is a file of ``_parts/family``, written as any part. Its ``variants`` are mappings that count where the class
which they name is the chosen one: ``student: {name: unet, ...}`` says nothing about other networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kd.config import ConfigError
from kd.recipe.library import find, shelves, short
from kd.recipe.merging import Origins, Tree

FOLDER = "_parts/family"
OWN = "own"
"""The family of recipes that name none."""


def families(near: Path | None = None) -> list[str]:
    """Their names."""
    return sorted({file.stem for folder in shelves(near) for file in (folder / FOLDER).glob("*.yaml")})


def read_family(name: Any, near: Path | None = None) -> tuple[Tree, list[Tree], str]:
    """What a family sets, its variants, and how messages call its file.

    Raises:
        ConfigError: there is no such family.
    """
    file = find(f"{FOLDER}/{name}", near) if isinstance(name, str) else None
    if file is None:
        known = families(near)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"family: '{name}' is unknown; {hint}Families: {', '.join(known)}")
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tree, tree.pop("variants", []), short(file.resolve())


def fill(tree: Tree, origins: Origins, near: Path | None = None) -> None:
    """Set what the family of a recipe says and nobody else does; keeps account of it in ``origins``."""
    common, variants, source = read_family(tree.get("family", OWN), near)
    computed = tree.get("loss") or {}
    common["weights"] = {term: weight for term, weight in common.get("weights", {}).items() if term in computed}
    for wish in (*variants, common):
        _fill(tree, origins, wish, source)


def _fill(tree: Tree, origins: Origins, wish: Mapping[str, Any], source: str, prefix: str = "") -> None:
    for key, value in wish.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            if key not in tree:
                tree[key] = value
                origins[path] = source
        elif _meant(tree.get(key), value):
            _fill(tree.setdefault(key, {}), origins, value, source, f"{path}.")


def _meant(there: Any, wish: Mapping[str, Any]) -> bool:
    """Whether a mapping of the family speaks of what is there: of the same class, where it names one."""
    if there is None:
        return bool(wish) and not _names(wish)
    return isinstance(there, dict) and wish.get("name", there.get("name")) == there.get("name")


def _names(wish: Mapping[str, Any]) -> bool:
    return "name" in wish or any(isinstance(value, Mapping) and _names(value) for value in wish.values())
