"""YAML that extends other YAML: reading, merging, overriding, and keeping account of who set each key.

Later files win key by key; ``null`` deletes what was inherited; a mapping that sets another ``name`` replaces the inherited
one, since knobs of one class mean nothing to another, and so does one in ``WHOLE``. ``key=value`` overrides come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from kd.config import ConfigError, cut, shown
from kd.plain_yaml import DEEPEST, WORDY, load_yaml
from kd.recipe.library import find, short

Tree = dict[str, Any]
Origins = dict[str, str]
WHOLE = ("data.classes", "data.colours")
"""Mappings that are one value: another one replaces them, since the order of its keys is that of the classes."""


def read(path: Path, trail: tuple[Path, ...] = ()) -> tuple[Tree, Origins]:
    """The merged tree of a file and all it extends, and the origin of each leaf."""
    path = path.resolve()
    if path in trail:
        raise ConfigError(f"{path.name}: extends itself through {' -> '.join(p.name for p in trail)}")
    merged: Tree = {}
    origins: Origins = {}
    tree = _mapping(path)
    for parent in tree.pop("extends", None) or []:
        inherited, sources = read(_extended(parent, path), (*trail, path))
        merge(merged, inherited, origins, sources)
    merge(merged, tree, origins, short(path))
    return merged, origins


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """A sweep reads the same few files for each of its points, and parsing is what takes the time."""
    return load_yaml(text)


def _mapping(path: Path) -> Tree:
    try:
        tree = deepcopy(_parsed(path.read_text(encoding="utf-8"))) or {}
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the name or the path of a recipe; `kd recipes` lists them"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}; a recipe is a mapping of keys to values")
    if "axes" in tree:
        raise ConfigError(f"{path}: is a sweep, not a recipe; try `kd sweep {path.stem}`")
    parents = tree.get("extends") or []
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends is {shown(parents)}; it must be a list of names, e.g. [_parts/data/camvid]")
    return tree


def _extended(name: str, asker: Path) -> Path:
    """An ``extends`` entry: beside the file or in a folder above (so ``_parts/...`` works anywhere), else in the library.

    A file may extend the one of its own name that it hides.
    """
    if (found := find(name.removesuffix(".yaml"), asker, but=asker)) is None:
        if find(name.removesuffix(".yaml"), asker) is not None:
            raise ConfigError(f"{asker}: extends itself; name another file in extends")
        raise ConfigError(f"{asker}: extends '{name}', but no such file lies beside it, in a folder above, or in the library")
    return found


def override(text: str) -> Tree:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"'{text}' is no override; write key=value, e.g. schedule.steps=1000")
    if not value.strip():
        raise ConfigError(f"{key}: has no value; write {key}=null to take back what the recipe sets")
    try:
        tree: Any = load_yaml(value)
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"'{text}': the value is no YAML; quote it, e.g. {key}='\"text\"'") from None
    return nested(key, tree)


def nested(key: str, value: Any) -> Tree:
    """A dotted key and its value as a tree.

    Raises:
        ConfigError: the key has more parts than a file may have levels.
    """
    parts = key.split(".")
    if len(parts) > DEEPEST:
        raise ConfigError(f"{cut(key)}: has {len(parts)} parts; a key of a recipe has a few, e.g. schedule.steps")
    if long := [part for part in parts if len(part) > WORDY]:
        raise ConfigError(f"{cut(key)}: has a part of {len(long[0])} characters; a key is a word")
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def merge(base: Tree, new: Mapping[str, Any], origins: Origins, source: str | Origins, prefix: str = "") -> None:
    """Merge ``new`` into ``base`` in place, keeping account of who set each leaf."""
    for key, value in new.items():
        path = f"{prefix}{key}"
        if value is None or not isinstance(value, Mapping) or not _continues(path, base.get(key), value):
            base.pop(key, None)
            for stale in [name for name in origins if name == path or name.startswith(f"{path}.")]:
                del origins[stale]
        if isinstance(value, Mapping):
            branch = base.get(key, {})
            merge(branch, value, origins, source, f"{path}.")
            if branch or not value or key in base:  # only deleting, in what is not there, creates nothing
                base[key] = branch
        elif value is not None:
            base[key] = value
            origins[path] = source if isinstance(source, str) else source[path]


def _continues(path: str, old: Any, new: Mapping[str, Any]) -> bool:
    return path not in WHOLE and isinstance(old, dict) and old.get("name", new.get("name")) == new.get("name", old.get("name"))


def origin(origins: Origins, path: str) -> str:
    """Who set a leaf, or something below it."""
    return origins.get(path) or next((origins[name] for name in origins if name.startswith(f"{path}.")), "default")


def annotated(tree: Tree, origins: Origins, prefix: str = "", depth: int = 0) -> Iterable[str]:
    """Lines of YAML; each leaf says in a comment who set it."""
    for key, value in tree.items():
        path, indent, name = f"{prefix}{key}", "  " * depth, _scalar(key)
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:\n"
            yield from annotated(value, origins, f"{path}.", depth + 1)
        else:
            yield f"{indent}{name}: {_scalar(value)}".ljust(56) + f" # {origin(origins, path)}\n"


def _scalar(value: Any) -> str:
    """A value as YAML in one line."""
    for style in (None, '"'):
        text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=10**9)
        if "\n" not in (line := text.removesuffix("\n...\n").rstrip()):
            break
    return line
