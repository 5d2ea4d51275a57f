"""Every number of every row under plain keys, for CSV, JSON and other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kd.results.published import Published
from kd.results.published_tables import quote
from kd.results.rows import Block, Row


def records(blocks: Sequence[Block], published: Published) -> list[dict[str, Any]]:
    """One record a row, the same keys in each; None where there is no number."""
    keys = dict.fromkeys(key for block in blocks for key in block.group.by)
    found = []
    for block in blocks:
        cut = {key: block.group.by.get(key) for key in keys}
        pair = {"dataset": block.group.dataset, "student": block.group.student, "teacher": block.group.teacher, **cut}
        rows = [*([block.teacher] if block.teacher else []), *block.rows]
        found += [{**pair, **_record(block, row, published)} for row in rows]
    return found


def _record(block: Block, row: Row, published: Published) -> dict[str, Any]:
    first, delta = row.runs[0], row.delta
    theirs = quote(published, first) if row is not block.teacher else None
    return {
        "row": row.label,
        "baseline": block.group.baseline,
        "split": first.reported_on,
        "images": block.images,
        "n": len(row.runs),
        "seeds": row.seeds,
        "miou": row.mean,
        "miou_std": row.std,
        "delta": delta.value if delta else None,
        "delta_low": delta.low if delta else None,
        "delta_high": delta.high if delta else None,
        "delta_sign": delta.sign if delta else None,
        "delta_p": delta.chance if delta else None,
        "delta_stands": row.stands if delta else None,
        "paired_seeds": list(delta.seeds) if delta else None,
        "selected_on": first.selected_on,
        "best_miou": row.best,
        "best_miou_std": row.best_std,
        "seconds_per_step": row.seconds_per_step,
        "times_baseline": row.ratio,
        "peak_memory_mb": row.memory_mb,
        "accelerator_hours": row.hours,
        "steps": row.steps,
        "published": theirs.number.miou if theirs else None,
        "published_delta": round(theirs.delta, 2) if theirs and theirs.delta is not None else None,
        "published_source": published.sources[theirs.number.source].where if theirs else None,
        "published_baseline_source": published.sources[theirs.baseline.source].where if theirs and theirs.baseline else None,
        "flags": list(row.flags),
        "fingerprints": list(dict.fromkeys(run.fingerprint for run in row.runs)),
        "folders": [str(run.folder) for run in row.runs],
    }
