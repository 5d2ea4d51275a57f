"""Classes of the user's own that a recipe names, and whether their code is still what it was when a run began."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd.content import file_mark


def code_marks(tree: Any) -> dict[str, str]:
    """A hash of the file of each ``package.module:Class`` in a plain recipe, by its module; nothing where there is no file."""
    found = {}
    for module in sorted({name.partition(":")[0] for name in _names(tree)}):
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError, AttributeError):
            continue
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            found[module] = file_mark(Path(spec.origin))
    return found


def changed(known: Mapping[str, Any], tree: Any) -> list[str]:
    """The modules whose code is another than what a run has noted."""
    now, then = code_marks(tree), known.get("code") or {}
    return [module for module, mark in then.items() if now.get(module, mark) != mark]


def _names(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        name = tree.get("name")
        if isinstance(name, str) and ":" in name:
            yield name
        for value in tree.values():
            yield from _names(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _names(value)
