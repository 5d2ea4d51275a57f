"""Which values images of other channels or depth hold: the range that matters; mean and deviation of what networks see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd.config import InputError
from kd.data.band_files import mapped, raw
from kd.data.bands import Range
from kd.data.dataset import Dataset
from kd.data.headers import BrokenFileError

FILES, PIXELS = 64, 2**16
"""So many files, spread over all, and of each so many pixels, are looked at."""
BEYOND = 0.1
"""A share of values outside the range that is said which is told."""
PERCENTILES = (0.5, 99.5)
"""What lies beyond is glare, dead pixels and frames."""


@dataclass(frozen=True)
class Measured:
    """``range`` is a pair for each channel where it is wanted and nobody has said it; ``mean`` and ``std`` are those of 0 to 1,
    ``channels`` those of the files. ``kind`` says what these are; ``outside`` is the share of values beyond a range that was
    said."""

    files: int
    kind: str
    channels: int
    range: Range | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outside: float = 0.0

    def lines(self, said: int) -> Iterator[str]:
        """What to paste; ``said`` is the number of channels that the recipe says."""
        words = [f"data.channels={self.channels}"] if said != self.channels else []
        words += [f"'data.range={[list(pair) for pair in self.range]}'"] if self.range else []
        words += [f"'student.mean={list(self.mean)}'", f"'student.std={list(self.std)}'"]
        about = f", range {PERCENTILES[0]} to {PERCENTILES[1]} %" if self.range else ""
        if self.outside > BEYOND:
            yield f"{self.outside:.0%} of the values lie outside data.range, and become its ends: is it of these files?"
        yield f"measured on {self.files} images ({self.kind}){about}; say in the recipe, or on the command line:"
        yield f"  {' '.join(words)}"


def measure(data: Dataset, names: Sequence[str] = ()) -> Measured | None:
    """Look at the images of a split, of ``names`` alone where there are some; None where they are RGB of 8 bits, or no file can
    be read."""
    numbers = [number for number in range(len(data)) if not names or data.identity(number) in names]
    count = min(len(numbers), FILES)
    paths = [data.files(numbers[place * len(numbers) // count]).image for place in range(count)]
    looks = [look for path in paths if path is not None and (look := _look(path, data.channels)) is not None]
    if not looks:
        return None
    kind, _ = Counter(kind for kind, _ in looks).most_common(1)[0]
    values = np.concatenate([values for own, values in looks if own == kind])
    eight, files = values.dtype == np.uint8, sum(own == kind for own, _ in looks)
    channels, said = values.shape[1], data.bands.range
    if eight and channels == 3:
        return None
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all(1).any():
            raise InputError(
                f"{paths[0]} and the others: channel {int(finite.mean(0).argmin())} holds no number (NaN) in any pixel looked "
                "at; leave it out of the files, or write numbers into it"
            )
        values = values[finite.all(1)]
    fits = said is not None and len(said) in (1, channels) and not eight
    pairs = ((0.0, 255.0),) if eight else said if fits and said else _range(values)
    scaled = mapped(values[:, None], pairs, Path())[:, 0].astype(np.float64)
    mean, std = (tuple(_rounded(one) for one in found) for found in (scaled.mean(0), np.maximum(scaled.std(0), 1e-3)))
    low, high = np.array(pairs, np.float64).T
    outside = float(((values < low) | (values > high)).mean()) if fits else 0.0
    return Measured(files, kind, channels, None if eight or fits else pairs, mean, std, outside)


def _look(path: Path, channels: int) -> tuple[str, NDArray] | None:
    """What a file is, and some pixels of it, ``N C``."""
    try:
        found = raw(path, channels)
    except BrokenFileError:
        return None
    height, width, count = found.values.shape
    step = max(1, int(np.ceil((height * width / PIXELS) ** 0.5)))
    return found.words, np.array(found.values[::step, ::step]).reshape(-1, count)


def _range(values: NDArray) -> Range:
    low, high = np.percentile(values.astype(np.float64), PERCENTILES, axis=0)
    pairs = ((_rounded(one), _rounded(other)) for one, other in zip(low, high, strict=True))
    return tuple((one, other if other > one else one + 1) for one, other in pairs)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
