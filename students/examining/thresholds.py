"""What a threshold on the foreground's probability does to its scores: values for JSON, and lines for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd.config import InputError
from kd.metrics.foreground import SCORES, Levels, at_thresholds

SHOWN = range(5, 100, 5)
"""Thresholds in percent that are listed, beside the best."""


@dataclass(frozen=True)
class Wish:
    """What is asked for: the ``whole`` list, or the scores ``at`` a threshold; ``classes`` are those of the network.

    Raises:
        InputError: there are not two classes, or the threshold is no multiple of 0.01.
    """

    whole: bool
    at: float | None
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        word = "--thresholds" if self.whole else "--threshold"
        if self and len(self.classes) != 2:
            raise InputError(f"{word}: the network knows {len(self.classes)} classes, and a threshold parts two")
        if self.at is not None and (not 0 < self.percent < 100 or abs(self.percent - 100 * self.at) > 1e-6):
            raise InputError(f"--threshold: is {self.at:g}; give a multiple of 0.01 from 0.01 to 0.99, e.g. 0.35")

    def __bool__(self) -> bool:
        return self.whole or self.at is not None

    @property
    def percent(self) -> int:
        """The threshold in percent."""
        return round(100 * (self.at or 0))


def facts(found: Levels, wish: Wish) -> dict[str, Any]:
    """What is wished for, JSON-able; None where a score is 0/0."""
    table = {
        name: [None if np.isnan(value) else float(value) for value in column] for name, column in at_thresholds(found).items()
    }
    told: dict[str, Any] = {"thresholds": table} if wish.whole else {}
    if wish.at is not None:
        told["at_threshold"] = {name: column[wish.percent - 1] for name, column in table.items()}
    return told


def lines(found: Levels, wish: Wish, split: str, run: Path) -> Iterator[str]:
    """The foreground's scores as they are wished for, and the command that predicts with the best threshold."""
    name, table = wish.classes[1], at_thresholds(found)
    if wish.at is not None:
        scores = ", ".join(f"{score} {_text(table[score][wish.percent - 1])} %" for score in SCORES)
        yield f"{name} on {split} from probability {wish.at:g} on: {scores}"
    if wish.whole and not found.foreground.sum():
        yield f"no pixel of {split} is {name}, so that no threshold is better than another; choose another --split"
    elif wish.whole:
        yield f"{name} on {split}, where it is predicted from a probability on:"
        yield "  " + "".join(f"{column:>12s}" for column in ("threshold", *(f"{score} %" for score in SCORES)))
        chosen = best(found)
        for percent in sorted({*SHOWN, chosen}):
            cells = "".join(f"{_text(table[score][percent - 1]):>12s}" for score in SCORES)
            yield f"  {percent / 100:12.2f}{cells}{'  best IoU and F1' if percent == chosen else ''}"
        command = f"{shlex.quote(str(run))} --threshold {chosen / 100:g}"
        yield f"predict with it: kd predict {command} PHOTOS"
        yield f"report it on another split than {split}: kd evaluate {command} --split SPLIT"


def best(found: Levels) -> int:
    """The threshold with the highest IoU, and so the highest F1, in percent; of several, the one nearest to 50."""
    iou = np.nan_to_num(at_thresholds(found)["IoU"])
    return min((int(number) + 1 for number in np.flatnonzero(iou == iou.max())), key=lambda percent: abs(percent - 50))


def _text(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
