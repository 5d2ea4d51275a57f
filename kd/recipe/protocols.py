"""The published protocols, item by item, beside what our recipes resolve to: ``recipes/protocols.yaml`` as Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from kd.config import Config, ConfigError, validate
from kd.plain_yaml import load_yaml
from kd.recipe.library import library
from kd.recipe.loading import load
from kd.recipe.schema import plain

HEAD = """# Protocols

What the published code does and what the recipes here do, family by family: the item, the published value, the file of the
published repository that says so, and ours. Made by `kd protocols --output PROTOCOLS.md` of the recipes as they resolve; where
the last column gives a reason, ours is another value on purpose. Every `key` can be set on its own (`kd train RECIPE METHOD
key=value`); `kd compare-recipes A B` shows where two recipes differ.
"""


class Item(Config):
    """One choice of the published code.

    ``keys`` of ``recipe`` are to have these values, or ``because`` says why not; what is no key of a recipe says ``ours`` in
    words.
    """

    item: str
    published: Any
    file: str
    recipe: str | None = None
    keys: dict[str, Any] = Field(default_factory=dict)
    ours: str | None = None
    because: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Item:
        if bool(self.keys) == (self.ours is not None):
            raise ValueError(f"{self.item} needs either keys or, where nothing in a recipe says it, ours")
        return self


class Family(Config):
    """``code``: the repository; ``of``: which numbers and recipes; ``recipe``: where keys are looked up by default."""

    code: str
    of: str
    recipe: str
    items: tuple[Item, ...]


class Protocols(Config):
    """All families."""

    families: dict[str, Family]


def read_protocols(file: Path | None = None) -> Protocols:
    """The protocols of a file (default: the library's)."""
    path = file or library() / "protocols.yaml"
    return validate(Protocols, load_yaml(path.read_text(encoding="utf-8")), path.name)


def markdown(protocols: Protocols) -> str:
    """A table for each family.

    Raises:
        ConfigError: a recipe does not do what was published, and no reason is given.
    """
    return "\n".join([HEAD, *(line for name, family in protocols.families.items() for line in _lines(name, family))])


def _lines(name: str, family: Family) -> Iterator[str]:
    yield f"## {name}: {family.code}\n"
    yield f"Of {family.of}. Keys are those of `{family.recipe}` unless another recipe is named.\n"
    yield "| item | published | file | ours | differs because |"
    yield "|---|---|---|---|---|"
    for item in family.items:
        yield f"| {item.item} | {item.published} | `{item.file}` | {_ours(name, family, item)} | {item.because} |"
    yield ""


def _ours(name: str, family: Family, item: Item) -> str:
    if item.ours is not None:
        return item.ours
    found = resolved(item.recipe or family.recipe, item.keys)
    others = {key: value for key, value in found.items() if value != item.keys[key]}
    if bool(others) != bool(item.because):
        key = next(iter(others or found))
        remedy = "drop the reason" if item.because else "set it in the family, or say because of what it differs"
        told = f"{key} is {found[key]!r}, published {item.keys[key]!r}"
        raise ConfigError(f"protocols.yaml: {name}, {item.item}: {told}; {remedy}")
    where = f" (`{item.recipe}`)" if item.recipe else ""
    return ", ".join(f"`{key}={_text(value)}`" for key, value in found.items()) + where


def resolved(spelled: str, keys: Iterable[str]) -> dict[str, Any]:
    """The values of dotted keys of a recipe of the library, spelled as on a command line.

    Raises:
        ConfigError: the recipe has no such key.
    """
    name, *words = shlex.split(spelled)
    tree = plain(load(library() / f"{name}.yaml", words, default="ce")[0])
    found = {}
    for key in keys:
        value: Any = tree
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ConfigError(f"{spelled}: has no key {key}")
            value = value[part]
        found[key] = value
    return found


def _text(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
