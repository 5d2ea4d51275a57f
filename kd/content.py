"""Paths in a recipe that stand for what lies there: the same folder spelled otherwise, moved or copied is the same input."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, SerializationInfo

from kd.files import at_home

POINT = re.compile(r".+-(?P<run>[0-9a-f]{12}-s\d+)")
"""The name of a sweep's directory: it tells fingerprint and seed, before the run has begun and wherever it lies."""
HELD = ("*.safetensors", "*.bin", "student.yaml", "best.yaml", "config.json", "cache.json")
"""What a directory of weights is known by: the weights and their cards."""
PLACES = ("root", "store", "shown", "unlabelled")
"""Keys of a data set that say where its files lie, or how they are shown; they change no number by themselves."""
ADDED: dict[str, Any] = {"channels": 3, "range": None, "held_out": []}
"""Keys of a data set that came when there were stores, with what those were of."""
BLOCK = 1 << 20


def described(data: Any) -> dict[str, Any]:
    """What decides, beside the files themselves, which pixels and labels a data set of this configuration holds."""
    values: dict[str, Any] = data.model_dump(mode="json", exclude=set(PLACES))
    return {key: value for key, value in values.items() if key not in ADDED or value != ADDED[key]}


def content(path: str) -> str:
    """What a path stands for: the run that a sweep's directory is named after, or a hash of the weights and cards that lie
    there; the path as it is spelled where nothing does."""
    place = at_home(path)
    if named := POINT.fullmatch(place.name):
        return named["run"]
    try:
        if place.is_file():
            return _mark(place)
        marks = [f"{file.name} {_mark(file)}" for file in sorted({file for name in HELD for file in place.glob(name)})]
    except (OSError, ValueError):
        return path  # told where it is read
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16] if marks else path


def file_mark(path: Path) -> str:
    """16 hex digits that change with the file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()[:16]


def _mark(file: Path) -> str:
    state = file.stat()
    return _known_mark(file.absolute(), state.st_size, state.st_mtime_ns, state.st_ino)


@lru_cache(maxsize=256)
def _known_mark(file: Path, *_: int) -> str:
    """A sweep asks for its teacher once a point; whatever tells that the file has changed makes it another question."""
    return file_mark(file)


@dataclass
class Contents:
    """The context under which ``model_dump`` writes what paths stand for instead of the paths.

    ``remembered`` says what paths stood for whose weights have gone; ``seen`` collects what all of them stand for.
    """

    remembered: Mapping[str, str] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """What a path stands for, or stood for."""
        found = content(path)
        found = self.remembered.get(path, path) if found == path else found
        self.seen[path] = found
        return found


def _written(path: str, info: SerializationInfo) -> str:
    return info.context.of(path) if isinstance(info.context, Contents) else path


ContentPath = Annotated[str, PlainSerializer(_written, return_type=str)]
"""A file or directory in a configuration; fingerprints hold its :func:`content`."""
