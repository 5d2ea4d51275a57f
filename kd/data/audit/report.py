"""An audit in words and numbers: a text for people, plain values for JSON, suggested class weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd.data.audit.scan import Audit, Offence
from kd.types import IGNORE

SHOWN = 20


def median_frequency(pixels: NDArray[np.int64], classes: int) -> list[float]:
    """Median of the frequencies over a class's own: pixels of the class by labelled pixels of the images that have it.

    ``pixels`` counts labels per image, ``N 256``. A class that never occurs gets 1. Eigen and Fergus, "Predicting depth,
    surface normals and semantic labels", ICCV 2015, section 6.3.2 (there by all pixels of these images).
    """
    counts = pixels[:, :classes].astype(np.float64)
    present = counts > 0
    room = (present * counts.sum(1, keepdims=True)).sum(0)
    seen = room > 0
    frequency = counts.sum(0)[seen] / room[seen]
    weights = np.ones(classes)
    if seen.any():
        weights[seen] = np.median(frequency) / frequency
    return _rounded(weights)


def inverse_log(pixels: NDArray[np.int64], classes: int) -> list[float]:
    """``1 / ln(1.02 + p)`` with a class's share ``p`` of all labelled pixels. Paszke et al., "ENet", 2016, section 5.2."""
    totals = pixels[:, :classes].sum(0).astype(np.float64)
    return _rounded(1 / np.log(1.02 + totals / max(totals.sum(), 1)))


def _rounded(weights: NDArray[np.float64]) -> list[float]:
    """Four significant digits."""
    return [float(f"{weight:.4g}") for weight in weights]


def weights(found: Audit) -> dict[str, list[float]]:
    """Suggested class weights by name, from the training split; empty if that has no labels."""
    pixels = found.pixels("train") if "train" in found.samples else np.zeros((0, 256), np.int64)
    if not pixels[:, : len(found.classes)].any():
        return {}
    count = len(found.classes)
    return {"median frequency": median_frequency(pixels, count), "inverse log": inverse_log(pixels, count)}


def plain(found: Audit) -> dict[str, Any]:
    """Everything, JSON-able."""
    return {
        "classes": list(found.classes),
        "files": {what: dict(kinds.most_common()) for what, kinds in found.kinds.items()},
        "turned_by_exif": {str(orientation): count for orientation, count in sorted(found.turned.items())},
        "splits": {split: _split(found, split) for split in found.samples},
        "class_weights": weights(found),
        "offences": [vars(offence) for offence in found.offences],
        "notes": found.notes,
    }


def _split(found: Audit, split: str) -> dict[str, Any]:
    pixels, samples = found.pixels(split), found.samples[split]
    totals = pixels.sum(0)
    return {
        "images": len(samples),
        "sizes": _sizes(found, split),
        "pixels": {name: int(totals[number]) for number, name in enumerate(found.classes)},
        "images_with": {name: int((pixels[:, number] > 0).sum()) for number, name in enumerate(found.classes)},
        "ignored_share": float(totals[IGNORE] / max(totals.sum(), 1)),
        "only_ignored": [sample.name for sample in samples if sample.pixels is not None and not sample.pixels[:IGNORE].any()],
    }


def _sizes(found: Audit, split: str) -> dict[str, int]:
    """``HxW`` to the number of images, the most frequent first."""
    counted = Counter(f"{height}x{width}" for height, width in (sample.size for sample in found.samples[split]))
    return dict(counted.most_common())


def lines(found: Audit) -> list[str]:
    """The report for people: splits, classes, weights, notes, offences."""
    text = [line for split in found.samples for line in _about(found, split)]
    text += _files(found) + _table(found) + _advice(found)
    if found.notes:
        text += ["", "To know:", *(f"  {note}" for note in found.notes[:SHOWN]), *_rest(found.notes)]
    if found.offences:
        told = _causes(found.offences)
        text += ["", f"To mend ({len(found.offences)}):", *told[:SHOWN], *_rest(told)]
    return text


def _causes(offences: Sequence[Offence]) -> list[str]:
    """A line for each cause: the first message of those that differ in names and numbers only, and whom else it concerns."""
    alike: dict[tuple[str, str], list[Offence]] = {}
    for offence in offences:
        cause = re.sub(r"\d+", "#", offence.message.partition(": ")[2] or offence.message)
        alike.setdefault((offence.split, cause), []).append(offence)
    return [f"  [{split}] {first.message}{_others(others)}" for (split, _), (first, *others) in alike.items()]


def _others(offences: Sequence[Offence]) -> str:
    names = ", ".join(offence.name for offence in offences[:4]) + (", ..." if len(offences) > 4 else "")
    return f" ({len(offences)} more like it: {names})" if offences else ""


def _rest(told: list[str]) -> list[str]:
    return [f"  ... and {len(told) - SHOWN} more (--json FILE holds all)"] if len(told) > SHOWN else []


def _files(found: Audit) -> list[str]:
    """What images and masks are, and how many EXIF turns."""
    text = []
    for what, kinds in found.kinds.items():
        told = "; ".join(f"{count} {kind}" for kind, count in kinds.most_common(6)) + ("; ..." if len(kinds) > 6 else "")
        text += [f"{what}: {told}"] if kinds else []
    if turned := found.turned.total():
        text.append(f"EXIF turns {turned} images; they are read upright, as viewers show them, and masks must fit them so")
    return text


def _about(found: Audit, split: str) -> list[str]:
    facts, sizes = _split(found, split), _sizes(found, split)
    shown = ", ".join(f"{size} ({count})" for size, count in list(sizes.items())[:6])
    more = f" and {len(sizes) - 6} other sizes" if len(sizes) > 6 else ""
    labels = "no labels" if split in found.free else f"{facts['ignored_share']:.2%} ignored pixels"
    return [f"{split}: {facts['images']} readable images, {labels}; sizes {shown or '-'}{more}"]


def _table(found: Audit) -> list[str]:
    """Share of labelled pixels and number of images, by class and split."""
    splits = [split for split in found.samples if split not in found.free]
    if not (found.classes and splits):
        return []
    width = max(5, *(len(name) for name in found.classes))
    rows = ["", f"{'class':{width}s}" + "".join(f"{split + ' px%':>{_wide(split)}s}{'images':>8s}" for split in splits)]
    facts = {split: _split(found, split) for split in splits}
    for name in found.classes:
        shares = {split: 100 * fact["pixels"][name] / max(sum(fact["pixels"].values()), 1) for split, fact in facts.items()}
        cells = [f"{shares[split]:{_wide(split)}.3f}{fact['images_with'][name]:8d}" for split, fact in facts.items()]
        rows.append(f"{name:{width}s}" + "".join(cells))
    return rows


def _wide(split: str) -> int:
    return max(12, len(split) + 6)


def _advice(found: Audit) -> list[str]:
    suggested = weights(found)
    if not suggested:
        return []
    rows = [f"  class_weights: [{', '.join(f'{value:g}' for value in values)}]  # {name}" for name, values in suggested.items()]
    return [
        "",
        "Class weights from train, for a loss that takes them (loss: {ce: {name: cross_entropy, class_weights: ...}}):",
        *rows,
    ]
