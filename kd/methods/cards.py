"""A card for each method, in Markdown: made of its docstring, its knobs and the presets in ``recipes/_parts/method``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from kd.lookup import lookup, options
from kd.methods.method import Method
from kd.types import Sizes

FOLDER = "kd.methods"
SCOPES = {
    "global": "global, several processes compute what one does with all their images",
    "process": "process, each computes {} of its own images",
}
"""What ``Method.scope`` says."""


def names() -> list[str]:
    """All methods of the library."""
    return list(options(FOLDER, "Method"))


def presets(folder: Path) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """Method to its presets: the part's name, its comment, its weights. A stack of methods counts for its last."""
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
        if "method" in tree:
            method = tree["method"][-1] if isinstance(tree["method"], list) else tree["method"]
            lines = [line for line in text.splitlines() if line.startswith("#") and "$schema=" not in line]
            comment = " ".join(line.lstrip("# ") for line in lines)
            found.setdefault(method["name"], []).append((file.stem, comment, tree.get("weights", {})))
    return found


def short_names(folder: Path) -> dict[str, str]:
    """Presets that have a shorter name too, with it: ``cwd@cirkd`` is also ``cwd``."""
    trees = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.yaml"))}
    return {tree["extends"][0].rpartition("/")[2]: name for name, tree in trees.items() if "method" not in tree}


def costs(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """What ``kd benchmark presets --json FOLDER/costs.json`` measured: of which shape, and a row for each preset.

    A preset of several stages has a row for each, named ``preset, stage``; the last one counts.
    """
    file = folder / "costs.json"
    if not file.exists():
        return "", {}
    found = json.loads(file.read_text(encoding="utf-8"))
    return found["shape"], {row["method"].partition(",")[0]: row for row in found["rows"]}


def card(name: str, folder: Path) -> str:
    """The card of one method.

    Raises:
        ConfigError: there is no such method.
    """
    cls = lookup(FOLDER, name, "Method")
    module = inspect.getmodule(cls)
    lines = [f"### {name}", "", first_line(module), "", inspect.getdoc(cls) or "", ""]
    built = _built(name, cls)
    lines += [f"Reads, of the teacher: {', '.join(sorted(built.needs)) if built else 'what its members read'}.", ""]
    if built is not None:
        lines += [f"Scope: {SCOPES[built.scope].format(', '.join(sorted(built.local)))}.", ""]
    if built is not None and (hard := [term for term in built.terms if term in built.hard]):
        lines += [f"Read labels too, and are 0 on images without any: {', '.join(hard)}.", ""]
    lines += ["Knobs:", "", *_knobs(cls.Config), ""]
    ours = presets(folder).get(name, [])
    if ours:
        short = short_names(folder)
        lines += ["Presets (`kd train RECIPE PRESET`):", "", *(_preset(short.get(p[0], ""), *p) for p in ours), ""]
    shape, measured = costs(folder)
    if rows := [(preset, measured[preset]) for preset, *_ in ours if preset in measured]:
        lines += [f"Cost of the terms, forward and backward ({shape}):", ""]
        lines += [f"- `{preset}`: {_cost(row)}" for preset, row in rows]
    return "\n".join(lines)


def _built(name: str, cls: Any) -> Method | None:
    """The method with its default knobs; None where some have none."""
    if any(field.is_required() for field in cls.Config.model_fields.values()):
        return None
    sizes = Sizes(3, 8, 16, True, (16,), (8,), grid=(8, 8))
    found: Method = cls.fitted(cls.Config(name=name), sizes, sizes)
    return found


def _cost(row: dict[str, Any]) -> str:
    time, memory, count = row["milliseconds"], row["mebibytes"], row["parameters"]
    return f"{_rounded(time)} ms, {memory:.0f} MiB on top, {count:,} parameters of its own"


def _rounded(value: float) -> str:
    """To two digits: times are not known better."""
    return f"{float(f'{value:.2g}'):g}"


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


def _preset(short: str, name: str, comment: str, weights: dict[str, Any]) -> str:
    listed = ", ".join(f"{term} {weight:g}" for term, weight in weights.items())
    return f"- `{name}`{f', or `{short}`' if short else ''}: {listed}. {comment}"


def table(folder: Path) -> str:
    """All methods in a table: what each does, and its presets."""
    ours, short, (_, measured) = presets(folder), short_names(folder), costs(folder)
    lines = ["| method | what it does | presets (ms of their terms) |", "|---|---|---|"]
    for name in names():
        module = inspect.getmodule(lookup(FOLDER, name, "Method"))
        times = {preset: measured[preset]["milliseconds"] for preset, *_ in ours.get(name, []) if preset in measured}
        named = {
            preset: f"`{short[preset]}` = `{preset}`" if preset in short else f"`{preset}`" for preset, *_ in ours.get(name, [])
        }
        told = [f"{text} ({_rounded(times[preset])})" if preset in times else text for preset, text in named.items()]
        lines.append(f"| `{name}` | {first_line(module).rstrip('.')} | {', '.join(told) or '-'} |")
    return "\n".join(lines)
