"""How the rows were made: recipes against the baseline's, fingerprints, versions and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd.report.sections import Part
from kd.report.styles import Look
from kd.results.differences import differing
from kd.results.rows import Block
from kd.results.runs import Run


@dataclass(frozen=True)
class Changes:
    """Dotted keys of a row that differ, with the other's value and its own."""

    look: Look
    keys: Sequence[tuple[str, str, str]]


def recipes(block: Block, looks: Mapping[str, Look]) -> Part:
    """Every row against the baseline, or against the first row where there is none."""
    against = next((row for row in block.rows if row.label == block.group.baseline), block.rows[0])
    heading = f"Recipes against {'the baseline' if block.group.baseline else against.label}'s"
    others = [row for row in block.rows if row is not against]
    if not others:
        return Part("recipes", heading, missing="There is only one row.")
    base = against.runs[0]
    changes = []
    for row in others:
        keys = differing(base.recipe, row.runs[0].recipe, tuple(base.parts))
        changes.append(Changes(looks[row.label], [(key, _value(a), _value(b)) for key, (a, b) in keys.items()]))
    caption = f"Keys in which a row's recipe differs from that of `{against.label}`"
    caption += "" if block.group.baseline else ", the first row, since there is no baseline"
    return Part(
        "recipes", heading, "changes.html", (against.label, changes), f"{caption}; a dash where a side has no such key."
    )


def _value(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def runs(block: Block, looks: Mapping[str, Look]) -> Part:
    """Each run with its own number and fingerprint."""
    groups = [(looks.get(row.label), row) for row in (*([block.teacher] if block.teacher else []), *block.rows)]
    lines = [(look, row.label, run, f"{run.miou():.2f}") for look, row in groups for run in row.runs]
    caption = (
        f"mIoU on split {block.first.reported_on}, last checkpoint, seed by seed; what makes a run is its fingerprint and seed."
    )
    return Part("runs", "Runs", "runs.html", lines, caption)


def environment(block: Block) -> Part:
    """Versions and devices; where runs differ, which rows have which."""
    keys = dict.fromkeys(key for row in block.rows for run in row.runs for key in run.environment)
    lines = [(key, _values(block, key)) for key in keys]
    caption = "What the runs were trained with; where they differ, each value with its rows."
    return Part("environment", "Environment", "environment.html", lines, caption)


def _values(block: Block, key: str) -> list[tuple[str, str]]:
    """Each value and the rows that have it; no rows where all runs agree."""
    found: dict[str, list[str]] = {}
    for row in block.rows:
        for run in row.runs:
            found.setdefault(_shown(run, key), []).append(row.label)
    if len(found) == 1:
        return [(next(iter(found)), "")]
    return [(value, ", ".join(dict.fromkeys(labels))) for value, labels in found.items()]


def _shown(run: Run, key: str) -> str:
    return _value(run.environment.get(key))
