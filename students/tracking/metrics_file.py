"""``metrics.jsonl``: one JSON object a line, readable after any crash and cut back to a step when a run is resumed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kd.config import ConfigError
from kd.files import parsed

NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records in order. A last line cut off by a crash is left out; NaN and the infinities are numbers again.

    Raises:
        ConfigError: a line before the last is not JSON.
    """
    return [_revive(record) for _, record in _records(path)]


def rewind(path: Path, step: int | None) -> None:
    """Make the file what it was at ``step``: later records and a last line cut off go, the others keep every byte.

    None is a fresh start: the file becomes ``metrics.old.jsonl``.
    """
    if not path.exists():
        return
    if step is None:
        path.replace(path.with_suffix(".old.jsonl"))
        return
    kept = [line + b"\n" for line, record in _records(path) if record["step"] <= step]
    fresh = path.with_suffix(".tmp")
    with fresh.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def encode(record: Mapping[str, Any]) -> str:
    """One line. NaN and the infinities become texts, since JSON has no such numbers."""
    return json.dumps(_finite(record), allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Mappings, sequences, tensors and arrays of one element as dicts, lists and numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.item() if hasattr(value, "item") else value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"val": {"mIoU": 1}}`` as ``("val/mIoU", 1)``."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            record = parsed(line)
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError
        except ValueError:
            if number == len(lines):
                return
            raise ConfigError(f"{path}: record {number} is not JSON, or of no step; repair or delete that line") from None
        yield line, record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value


def _revive(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _revive(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_revive(part) for part in value]
    return NONFINITE.get(value, value) if isinstance(value, str) else value
