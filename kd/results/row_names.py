"""The rows of a table and their names: as a sweep's axes or a command line name them, else by what the recipes hold.

What makes a row is its content alone; the words only name it. So a row is the same whoever trained it, and where two calls
named one content differently, it is named by its content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.content import POINT
from kd.results.differences import covers, differing, flat
from kd.results.names import row_label
from kd.results.runs import Run

ROW = ("labels", "loss", "method", "weights", "unlabelled")
"""What makes a row."""
METHOD = ("method.name", "method")
"""Axes that name a row whatever the others say."""
Words = Mapping[str, str]
"""Axes to the values that a row was asked for by."""


def named_rows(family: Sequence[Run], allow: tuple[str, ...], apart: tuple[str, ...] = ()) -> dict[str, list[Run]]:
    """Runs by the name of their row, sorted by seed.

    Rows of one name that differ get the axes in which they do into their names, else the keys of their recipes. Those of
    ``apart`` tell rows apart as what makes a row does.
    """
    variants: dict[str, list[Run]] = {}
    for run in family:
        variants.setdefault(_identity(run, allow, apart), []).append(run)
    rows = [(runs, _asked(runs)) for runs in variants.values()]
    own = [axis for axis in _varying([words for _, words in rows]) if "." not in axis]
    names: dict[str, list[tuple[list[Run], Words]]] = {}
    for runs, words in rows:
        names.setdefault(_name(runs, words, own) + unlabelled(runs[0].recipe) + _cached(runs[0]), []).append((runs, words))
    found: dict[str, list[Run]] = {}
    for name, alike in names.items():
        for told, (runs, _) in zip(_told(alike, allow, apart), alike, strict=True):
            label = f"{name} ({told})" if told else name
            label = f"{label}, {runs[0].fingerprint}" if label in found else label
            found[label] = sorted(runs, key=lambda run: run.seed)
    return found


def _identity(run: Run, allow: tuple[str, ...], apart: tuple[str, ...]) -> str:
    """A text that is the same for runs of one row: a key that is null says no more than one that an older source had not."""
    marks = []
    for part in ROW:
        leaves = _leaves(run, (part,))
        free = [key for key in leaves if covers(allow, key)]
        rest = {key: _run_named_by(value) for key, value in leaves.items() if key not in free}
        told = rest == leaves  # else the part's fingerprint says where something lies, or counts what is allowed to differ
        marks.append(run.parts[part] if told else json.dumps(rest, sort_keys=True, default=str))
    own = {key: value for key, value in _leaves(run, _parts(apart)).items() if covers(apart, key) and value is not None}
    return " ".join([*marks, json.dumps(own, sort_keys=True, default=str)]) + _cached(run)


def _parts(apart: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key.partition(".")[0] for key in apart))


def _leaves(run: Run, parts: tuple[str, ...]) -> dict[str, Any]:
    return dict(leaf for part in parts for leaf in flat(run.recipe.get(part), part))


def _cached(run: Run) -> str:
    """How soft labels were read, where the teacher was not asked in training."""
    if not (run.recipe.get("teacher") or {}).get("cache"):
        return ""
    how = (run.teacher or {}).get("cached")
    return f", cached teacher ({how})" if how else ", cached teacher"


def unlabelled(recipe: Mapping[str, Any]) -> str:
    """Which images without labels a recipe learns from, if it does."""
    if not (asked := recipe.get("unlabelled")):
        return ""
    splits = ", ".join("images" if split == "unlabelled" else split for split in asked["splits"])
    return f", no labels ({splits})" if asked["share"] == 1 else f", + unlabelled {splits}"


def _run_named_by(value: Any) -> Any:
    """The run that a sweep's directory is named after, for a path to one; any other value itself."""
    named = POINT.fullmatch(Path(value).name) if isinstance(value, str) else None
    return named["run"] if named else value


def _asked(runs: Sequence[Run]) -> Words:
    """What the runs of a row were asked for by, as far as they agree; those of which it is not known do not count."""
    first, *others = [run.asked for run in runs if run.asked] or [{}]
    return {axis: word for axis, word in first.items() if all(other.get(axis) == word for other in others)}


def _varying(asked: Sequence[Words]) -> list[str]:
    """Axes, those of methods apart, of which rows have different values."""
    axes = dict.fromkeys(axis for words in asked for axis in words if axis not in METHOD)
    return [axis for axis in axes if len({words[axis] for words in asked if axis in words}) > 1]


def _name(runs: Sequence[Run], words: Words, own: Sequence[str]) -> str:
    """The method's word; else the labels of axes that the user has named; else what the recipe holds."""
    method = [words[axis] for axis in METHOD if axis in words]
    labels = [words[axis] for axis in own if axis in words]
    return method[0] if method else ", ".join(labels) or row_label(runs[0].recipe)


def _told(alike: Sequence[tuple[list[Run], Words]], allow: tuple[str, ...], apart: tuple[str, ...]) -> list[str]:
    """What rows of one name differ in; nothing for one that is alone, or the only one of a grid without these axes."""
    if len(alike) == 1:
        return [""]
    asked = [words for _, words in alike]
    none = dict.fromkeys((axis for words in asked for axis in words), "")
    axes = _varying([none | dict(words) for words in asked])
    texts = [", ".join(f"{axis}={words[axis]}" for axis in axes if axis in words) for words in asked]
    if all(asked) and len(set(texts)) == len(texts):
        return texts
    parts = (*ROW, *_parts(apart))
    first, *others = [runs[0] for runs, _ in alike]
    keys = dict.fromkeys(key for run in others for key in differing(first.recipe, run.recipe, parts) if not covers(allow, key))
    shown = [key for key in keys if key.partition(".")[0] in ROW or covers(apart, key)]
    leaves = [_leaves(runs[0], parts) for runs, _ in alike]
    return [", ".join(f"{key}={shortened(values.get(key))}" for key in shown) for values in leaves]


def shortened(value: Any) -> str:
    """A value in a few letters."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
