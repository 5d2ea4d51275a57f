"""Counts of every image, computed once: true positives, false positives and false negatives per class.

All scores of ``kd.metrics.scores`` are pure functions of these counts, so a file of them answers later questions too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd.types import IGNORE

Integers = NDArray[np.int64]
P = TypeVar("P", bound="PerImage")


@dataclass(frozen=True, eq=False)
class PerImage:
    """A table with one row for each image: every field but ``ids`` is an array whose first axis counts images.

    ``ids``    the images' names, ``N``
    ``valid``  pixels that have a label, int64 ``N``; scores skip images that have none
    """

    ids: tuple[str, ...]
    valid: Integers

    def __post_init__(self) -> None:
        for name, array in self.arrays().items():
            if len(array) != len(self.ids):
                raise ValueError(f"{name} has {len(array)} rows for {len(self.ids)} ids; give one row for each image")

    def __len__(self) -> int:
        return len(self.ids)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every field but ``ids``."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "ids"}

    def take(self: P, rows: Sequence[int] | Integers) -> P:
        """The images at ``rows``, in that order."""
        picked = {name: array[rows] for name, array in self.arrays().items()}
        return type(self)(ids=tuple(self.ids[row] for row in rows), **picked)

    @classmethod
    def concat(cls: type[P], parts: Iterable[P]) -> P:
        """One table below the other, repetitions included. At least one part."""
        parts = list(parts)
        columns = [part.arrays() for part in parts]
        joined = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
        return cls(ids=tuple(name for part in parts for name in part.ids), **joined)

    @classmethod
    def joined(cls: type[P], parts: Sequence[P]) -> P:
        """One image of its parts: what they count adds up."""
        columns = [part.arrays() for part in parts]
        summed = {
            name: np.add.reduce([column[name] for column in columns], dtype=columns[0][name].dtype) for name in columns[0]
        }
        return cls(ids=parts[0].ids, **summed)

    def once(self: P) -> P:
        """Each id once, the first of its rows, sorted by id: the same table however the images were dealt out."""
        _, first = np.unique(np.array(self.ids, dtype=str), return_index=True)
        return self.take(first)

    def save(self, path: str | Path) -> None:
        """Write a compressed ``.npz`` that ``load`` and plain ``numpy.load`` read without pickles."""
        with Path(path).open("wb") as file:
            columns: dict[str, Any] = {"ids": np.array(self.ids, dtype=str), **self.arrays()}
            np.savez_compressed(file, **columns)

    @classmethod
    def load(cls: type[P], path: str | Path) -> P:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file holds another table.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
        except (zlib.error, struct.error, NotImplementedError, RuntimeError, SyntaxError, MemoryError) as error:
            raise ValueError(f"cannot be unpacked: {error}") from None
        wanted = {field.name for field in fields(cls)}
        if stored.keys() != wanted:
            found = ", ".join(sorted(stored))
            raise ValueError(f"{path} holds {found}; {cls.__name__} needs {', '.join(sorted(wanted))}: save it anew")
        return cls(ids=tuple(str(name) for name in stored.pop("ids")), **stored)


@dataclass(frozen=True, eq=False)
class Counts(PerImage):
    """``tp``, ``fp``, ``fn``: pixels, int64 ``N K``; ``ignored``: pixels without a label, int64 ``N``."""

    tp: Integers
    fp: Integers
    fn: Integers
    ignored: Integers

    @property
    def classes(self) -> int:
        """Number of classes ``K``."""
        return self.tp.shape[1]

    @property
    def truth(self) -> Integers:
        """Labelled pixels of each class, ``N K``."""
        return self.tp + self.fn

    @classmethod
    def empty(cls, classes: int) -> Counts:
        """No images yet."""
        table, column = np.zeros((0, classes), np.int64), np.zeros(0, np.int64)
        return cls((), column, table, table, table, column)


def confusion(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """Pixels of one image by (label, predicted class): int64 ``K K``, ignored pixels left out.

    ``prediction`` and ``target`` are integer maps ``H W`` on one device; ``target`` may hold 255 (ignored). One
    histogram over all 256 values of a byte both counts and finds labels that are no class.

    Raises:
        ValueError: a label is neither a class nor 255, or a prediction is no class.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction is {tuple(prediction.shape)}, target {tuple(target.shape)}; predict at label size")
    _check_range(prediction, classes - 1, f"prediction holds {{}}; classes are 0 to {classes - 1}")
    remedy = "map the labels, or set the number of classes"
    rule = f"target holds {{}}; labels are 0 to {classes - 1}, or {IGNORE} for ignored pixels: {remedy}"
    _check_range(target, IGNORE, rule)
    index = target.to(torch.uint8).to(torch.int32).mul_(classes).add_(prediction)
    table = torch.bincount(index.flatten(), minlength=(IGNORE + 1) * classes).view(IGNORE + 1, classes)
    strangers = table[classes:IGNORE].sum(1).nonzero().flatten().tolist()
    if strangers:
        raise ValueError(rule.format(", ".join(str(classes + value) for value in strangers[:8])))
    return table[:classes]


def _check_range(labels: Tensor, top: int, rule: str) -> None:
    if labels.numel() == 0:
        return
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high > top:
        raise ValueError(rule.format(low if low < 0 else high))


def count(prediction: Tensor, target: Tensor, classes: int, name: str) -> Counts:
    """The counts of one image called ``name``; ``prediction`` and ``target`` as in ``confusion``.

    Raises:
        ValueError: as in ``confusion``, or more classes than a byte can tell from 255.
    """
    if not 0 < classes <= IGNORE:
        raise ValueError(f"classes is {classes}; it lies between 1 and {IGNORE}, because {IGNORE} means ignored")
    try:
        table = confusion(prediction, target, classes).cpu().numpy()
    except ValueError as error:
        raise ValueError(f"image '{name}': {error}") from None
    hits = table.diagonal()
    valid = table.sum()
    return Counts(
        ids=(name,),
        valid=np.array([valid]),
        tp=hits[None].copy(),
        fp=(table.sum(0) - hits)[None],
        fn=(table.sum(1) - hits)[None],
        ignored=np.array([target.numel() - valid]),
    )
