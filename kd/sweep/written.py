"""Recipes as they are written: trees that a sweep changes before they are checked."""

from __future__ import annotations

import difflib
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from kd.config import ConfigError
from kd.merging import Origins, Tree, merge, read
from kd.sweep.schema import Settings


class Written(NamedTuple):
    """A recipe's tree and who set each of its leaves."""

    tree: Tree
    origins: Origins

    def apply(self, settings: Settings, source: str) -> None:
        """Set dotted keys, in the name of ``source``."""
        for key, value in settings.items():
            change: Any = deepcopy(value)
            for part in reversed(key.split(".")):
                change = {part: change}
            merge(self.tree, change, self.origins, source)

    def lacks(self, key: str) -> bool:
        """Whether a dotted key means nothing here: of the teacher or the method, where there is none."""
        part, dot, _ = key.partition(".")
        return bool(dot) and part in ("teacher", "method") and self.tree.get(part) is None


def find(name: str, sweep: Path) -> Path | None:
    """The recipe's file: in a folder above the sweep's file, or in ``recipes/``."""
    return next((file for folder in _folders(sweep) if (file := folder / f"{name}.yaml").is_file()), None)


def _folders(sweep: Path) -> list[Path]:
    return [*sweep.resolve().parents, Path("recipes")]


def load(name: str, sweep: Path) -> Written:
    """A recipe by its name.

    Raises:
        ConfigError: there is no such file, or it is no recipe.
    """
    if (file := find(name, sweep)) is None:
        beside = [path for folder in _folders(sweep) for path in (folder / name).parent.glob("*.yaml")]
        close = difflib.get_close_matches(Path(name).name, [path.stem for path in beside], n=1)
        hint = (
            f"did you mean {Path(name).with_name(close[0])}?"
            if close
            else "correct the name, or put the sweep below your recipes"
        )
        raise ConfigError(
            f"{sweep}: names the recipe {name}, but no {name}.yaml lies in a folder above it, nor in recipes/; {hint}"
        )
    return Written(*read(file))
