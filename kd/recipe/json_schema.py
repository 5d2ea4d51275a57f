"""JSON Schemas of recipe and sweep files, for editors: keys, options, defaults and descriptions.

A file may extend others, so no key is required and every value may be null; what a file resolves to is checked by
:func:`kd.recipe.loading.load`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kd.lookup import MARK, lookup, options
from kd.recipe.library import method_files
from kd.recipe.schema import Recipe

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
EXTENDS: Schema = {
    "type": "array",
    "items": {"type": "string"},
    "description": "Recipes and parts that this file builds on, the later ones stronger, e.g. _parts/data/camvid.",
}
VARIANTS: Schema = {
    "type": "array",
    "items": {"$ref": "#"},
    "description": "Only in files of _parts/family: what counts where the class that it names is the chosen one.",
}


def recipe_schema() -> Schema:
    """The schema of a recipe file or of a part of one."""
    kinds = sorted(_kinds(Recipe))
    classes = {kind: {name: lookup(kind[0], name, kind[1]) for name in options(*kind)} for kind in kinds}
    models: list[type[BaseModel]] = [Recipe, *(cls.Config for known in classes.values() for cls in known.values())]
    references, generated = models_json_schema([(model, "validation") for model in models])
    known = {key: _open(value) for key, value in generated["$defs"].items()}
    for kind, found in classes.items():
        names = {name: f"{kind[0]}.{name}" for name in found}
        for name, cls in found.items():
            known[names[name]] = _option(name, cls, known[references[(cls.Config, "validation")]["$ref"].rpartition("/")[2]])
        known[_key(kind)] = _any_of({name: known[key] for name, key in names.items()}, list(names.values()))
    root = known.pop(references[(Recipe, "validation")]["$ref"].rpartition("/")[2])
    root["properties"] = {"extends": EXTENDS, **root["properties"], "variants": VARIANTS}
    return {"$schema": DIALECT, "title": "Recipe", **root, "$defs": _used(root, known)}


def sweep_schema(model: type[BaseModel]) -> Schema:
    """The schema of a sweep file; ``model`` is :class:`kd.sweep.schema.SweepFile`."""
    found = _tidy(model.model_json_schema())
    found["properties"]["axes"]["examples"] = [{"method": list(method_files()), "seed": [0, 1, 2]}]
    return {"$schema": DIALECT, "title": "Sweep", **found}


def _kinds(model: type[BaseModel]) -> set[tuple[str, str]]:
    """Every folder that a configuration chooses from, with the base of its classes; also inside what is chosen."""
    waiting, kinds, seen = [model], set(), set()
    while waiting:
        each = waiting.pop()
        seen.add(each)
        for mark in _marks(each.model_json_schema()):
            if mark not in kinds:
                kinds.add(mark)
                waiting += [cls for name in options(*mark) if (cls := lookup(mark[0], name, mark[1]).Config) not in seen]
    return kinds


def _marks(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        if MARK in value:
            yield tuple(value[MARK])
        for part in value.values():
            yield from _marks(part)
    elif isinstance(value, list):
        for part in value:
            yield from _marks(part)


def _key(kind: tuple[str, str]) -> str:
    return kind[0]


def _option(name: str, cls: Any, schema: Schema) -> Schema:
    """The configuration of one class of the library: its name is a constant that must be there."""
    properties = {**schema.get("properties", {}), "name": {"const": name}}
    about = (inspect.getdoc(inspect.getmodule(cls)) or "").partition("\n\n")[0].replace("\n", " ")
    description = " ".join([about, *schema.get("description", "").split()]).strip()
    return {**schema, "description": description, "properties": properties, "required": ["name"]}


def _any_of(found: Mapping[str, Schema], keys: list[str]) -> Schema:
    """One of the library's classes, a user's own, or some keys of an inherited one."""
    shared: dict[str, list[Schema]] = {}
    for schema in found.values():
        for key, value in schema["properties"].items():
            if key != "name" and value not in shared.setdefault(key, []):
                shared[key].append(value)
    keys_of_any = {key: values[0] if len(values) == 1 else {"anyOf": values} for key, values in shared.items()}
    own = {"type": "string", "pattern": ":", "description": "package.module:Class of your own"}
    return {
        "description": f"One of {', '.join(found)}; or package.module:Class for your own.",
        "anyOf": [
            *({"$ref": f"#/$defs/{key}"} for key in keys),
            {"type": "object", "properties": {"name": own}, "required": ["name"]},
            {"type": "object", "not": {"required": ["name"]}, "properties": keys_of_any, "additionalProperties": False},
        ],
    }


def _open(schema: Schema) -> Schema:
    """An object that may leave out or delete each of its keys, as files do that extend others."""
    tidy = _tidy(schema)
    if "properties" in tidy:
        tidy["properties"] = {key: _nullable(value) for key, value in tidy["properties"].items()}
    tidy.pop("required", None)
    return tidy


def _nullable(schema: Schema) -> Schema:
    if isinstance(inner := schema.get("additionalProperties"), dict):
        schema = {**schema, "additionalProperties": _nullable(inner)}
    if "anyOf" in schema:
        has = any(option.get("type") == "null" for option in schema["anyOf"])
        opened = [_nullable_values(option) for option in schema["anyOf"]]
        return {**schema, "anyOf": opened if has else [*opened, {"type": "null"}]}
    about: Schema = {key: schema[key] for key in ("description", "default") if key in schema}
    rest = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": [rest, {"type": "null"}]}


def _nullable_values(schema: Schema) -> Schema:
    inner = schema.get("additionalProperties")
    return {**schema, "additionalProperties": _nullable(inner)} if isinstance(inner, dict) else schema


def _tidy(value: Any, key: str = "") -> Any:
    """Without titles, with marks resolved to the folders that they name."""
    if isinstance(value, Mapping):
        if MARK in value:
            return {"$ref": f"#/$defs/{_key(tuple(value[MARK]))}"} | (
                {"default": value["default"]} if "default" in value else {}
            )
        kept = {name: part for name, part in value.items() if name != "title" or key == "properties"}
        return {name: _tidy(part, name) for name, part in kept.items()}
    return [_tidy(part) for part in value] if isinstance(value, list) else value


def _used(root: Schema, known: Mapping[str, Schema]) -> Schema:
    """The definitions that something refers to."""
    found: Schema = {}
    waiting = list(_references(root))
    while waiting:
        if (name := waiting.pop()) not in found:
            found[name] = known[name]
            waiting += _references(known[name])
    return dict(sorted(found.items()))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if value.get("$ref", "#") != "#":
            yield value["$ref"].rpartition("/")[2]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)
