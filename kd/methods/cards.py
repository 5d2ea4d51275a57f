"""A card for each method, in Markdown: made of its docstring, its knobs and the presets in ``recipes/_parts/method``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from kd.lookup import lookup, options

FOLDER = "kd.methods"


def names() -> list[str]:
    """All methods of the library."""
    return list(options(FOLDER, "Method"))


def presets(folder: Path) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """Method to its presets: the part's name, its comment, its weights. A stack of methods counts for its last."""
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
        method = tree["method"][-1] if isinstance(tree["method"], list) else tree["method"]
        comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        found.setdefault(method["name"], []).append((file.stem, comment, tree.get("weights", {})))
    return found


def card(name: str, folder: Path) -> str:
    """The card of one method.

    Raises:
        ConfigError: there is no such method.
    """
    cls = lookup(FOLDER, name, "Method")
    module = inspect.getmodule(cls)
    lines = [f"### {name}", "", first_line(module), "", inspect.getdoc(cls) or "", ""]
    lines += ["Knobs:", "", *_knobs(cls.Config), ""]
    ours = presets(folder).get(name, [])
    if ours:
        lines += ["Presets (`extends: [_parts/method/...]`):", "", *(_preset(*preset) for preset in ours), ""]
    return "\n".join(lines)


def first_line(thing: Any) -> str:
    """The first line of a docstring."""
    return next(iter((inspect.getdoc(thing) or "").splitlines()), "")


def _knobs(config: Any) -> Iterable[str]:
    doc = " ".join((inspect.getdoc(config) or "").split())
    yield f"- {doc}" if doc else "- none"
    for key, field in config.model_fields.items():
        if key != "name":
            default = field.get_default(call_default_factory=True)
            shown = "required" if field.is_required() else f"`{_short(default)}`"
            yield f"- `{key}`: {shown}"


def _short(value: Any) -> str:
    dump = getattr(value, "model_dump", None)
    text = str(dump(exclude_defaults=True) if dump else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _preset(name: str, comment: str, weights: dict[str, Any]) -> str:
    listed = ", ".join(f"{term} {weight:g}" for term, weight in weights.items())
    return f"- `{name}`: {listed}. {comment}"


def table(folder: Path) -> str:
    """All methods in a table: what each does, and its presets."""
    ours = presets(folder)
    lines = ["| method | what it does | presets |", "|---|---|---|"]
    for name in names():
        module = inspect.getmodule(lookup(FOLDER, name, "Method"))
        listed = ", ".join(f"`{preset}`" for preset, *_ in ours.get(name, []))
        lines.append(f"| `{name}` | {first_line(module).rstrip('.')} | {listed or '-'} |")
    return "\n".join(lines)
