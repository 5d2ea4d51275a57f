"""What the shell offers after TAB: recipes, sweeps, methods and keys, read from files without torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any


def recipes(prefix: str, **_: Any) -> list[str]:
    """Names of recipes, and YAML files of the current folder."""
    from kd.recipe.library import recipe_names

    return [*recipe_names(), *_files(prefix)]


def sweeps(prefix: str, **_: Any) -> list[str]:
    """Names of sweeps, and YAML files of the current folder."""
    from kd.recipe.library import sweep_names

    return [*sweep_names(), *_files(prefix)]


def recipes_and_sweeps(prefix: str, **_: Any) -> list[str]:
    """What ``kd recipes`` lists."""
    from kd.recipe.library import recipe_names, sweep_names

    return [*recipe_names(), *(f"sweeps/{name}" for name in sweep_names()), *_files(prefix)]


def beside(prefix: str, parsed_args: argparse.Namespace, **_: Any) -> list[str]:  # noqa: ARG001
    """Methods, also after a ``+``, and keys of a recipe with ``=``."""
    from kd.recipe.library import method_files

    head, plus, _tail = prefix.rpartition("+")
    taken = {word.partition("@")[0].partition("_")[0] for word in head.split("+")} - {"ce", "jml"}
    methods = [f"{head}{plus}{name}" for name in method_files() if name.partition("@")[0].partition("_")[0] not in taken]
    return methods if plus else [*methods, *(f"{key}=" for key in keys())]


def methods(prefix: str, **_: Any) -> list[str]:  # noqa: ARG001
    """Presets of distillation methods."""
    from kd.recipe.library import method_files

    return [name for name, file in method_files().items() if file.parent.name == "method"]


def cards(prefix: str, **_: Any) -> list[str]:  # noqa: ARG001
    """What ``kd methods`` has cards of."""
    from kd.lookup import options

    return list(options("kd.methods", "Method"))


def keys() -> Iterator[str]:
    """Dotted keys of a recipe, from its JSON Schema."""
    import json

    from kd.recipe.library import library

    schema = json.loads((library() / "recipe.schema.json").read_text(encoding="utf-8"))
    for name, field in schema["properties"].items():
        if name != "extends":
            yield from _keys(name, field, schema["$defs"])


def _keys(path: str, field: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    while "$ref" in field:
        field = known[field["$ref"].rpartition("/")[2]]
    options = [field, *field.get("anyOf", ())]
    inner: dict[str, Any] = {}
    for option in options:
        option = known[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        inner |= option.get("properties", {})
    if not inner:
        yield path
    for name, below in inner.items():
        yield from _keys(f"{path}.{name}", below, known) if path.count(".") < 3 else [f"{path}.{name}"]


def _files(prefix: str) -> list[str]:
    from pathlib import Path

    folder = Path(f"{prefix}*").parent  # of what ends in a slash that folder
    found = [str(file) for file in folder.glob("*.yaml")] + [f"{each}/" for each in folder.glob("*/") if each.is_dir()]
    return [name for name in found if name.isprintable()]  # of a name in two lines the shell would run the second
