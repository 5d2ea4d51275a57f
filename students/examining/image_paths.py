"""Which images a prediction is asked for, and what each is called."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd.config import InputError
from kd.data.band_files import ARRAYS
from kd.data.folder_files import pictures
from kd.data.reading import SUFFIXES
from kd.files import at_home
from students.progress import say

KINDS = (*SUFFIXES, *ARRAYS)


@dataclass(frozen=True)
class Item:
    """An image file, and the name of its predictions: a relative path without suffix."""

    path: Path
    name: str


def find(inputs: Sequence[str], output: Path) -> list[Item]:
    """The images that the inputs name, in order: files, folders (searched below, hidden files and ``output`` left out, as data
    sets do), globs.

    A name keeps the path below the folder, or below the fixed part of the glob.

    Raises:
        InputError: an input does not exist or holds no image, or two images have one name.
    """
    items = dict.fromkeys(item for text in inputs for item in _expand(text, at_home(output).resolve()))
    names: dict[str, Path] = {}
    for item in items:
        other = names.setdefault(item.name.lower(), item.path)  # a file system may not tell a.png from A.png
        if other != item.path:
            raise InputError(
                f"{other} and {item.path} would both be written as '{item.name}'; rename one of them, or predict them in two "
                "calls with different --output"
            )
    return list(items)


def _expand(text: str, output: Path) -> list[Item]:
    path = at_home(text)
    if path.is_dir():
        there, arrays = sorted(pictures(path)), sorted(pictures(path, ARRAYS))
        if there and arrays:
            say(f"note: {path}: {len(arrays)} arrays beside pictures are not read, first {arrays[0].name}")
        found = _below(path, there or arrays, output)
    elif path.exists():
        return [Item(path, path.stem)]
    elif glob.has_magic(text):
        root = _fixed(path)
        found = _below(root, sorted(root.glob(str(path.relative_to(root)))), output)
    else:
        raise InputError(f"{text}: does not exist; give an image, a folder or a quoted pattern such as 'photos/**/*.jpg'")
    if not found:
        raise InputError(f"{text}: holds no image; files with these suffixes count: {', '.join(KINDS)}")
    return found


def _below(root: Path, files: Sequence[Path], output: Path) -> list[Item]:
    kept = []
    for path in files:
        inside = path.relative_to(root)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in KINDS and path.is_file() and not hidden and output not in path.resolve().parents:
            kept.append(Item(path, inside.with_suffix("").as_posix()))
    return kept


def _fixed(pattern: Path) -> Path:
    """The folders of a pattern that are there: what looks like a wildcard in their names is none."""
    return next(parent for parent in pattern.parents if parent.is_dir())
