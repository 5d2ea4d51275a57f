"""From batches to scores: every image is predicted, counted and forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.distributed import gather
from kd.evaluate.logits import Logits, labels
from kd.evaluate.predictor import Network, Predictor
from kd.metrics.agreement import Agreement, agree
from kd.metrics.calibration import Calibration, calibrate
from kd.metrics.counts import Counts, P, count
from kd.metrics.foreground import Levels, levels
from kd.metrics.scores import summarise
from kd.types import Batch, Outputs


@dataclass(frozen=True)
class Evaluation:
    """What is known after one pass over a data set: a row for each image, sorted by id."""

    counts: Counts
    calibration: Calibration | None = None
    agreement: Agreement | None = None
    levels: Levels | None = None

    def scores(self, class_names: Sequence[str], worst: Sequence[float] = (1, 5), binary: bool = False) -> dict[str, Any]:
        """Plain values by name, see ``kd.metrics.scores.summarise``."""
        return summarise(self.counts, self.calibration, class_names, worst, binary)


@torch.no_grad()
def evaluate(
    network: Network,
    batches: Iterable[Batch],
    classes: int,
    predictor: Predictor,
    *,
    calibration: bool = True,
    teacher: Network | None = None,
    thresholds: bool = False,
) -> Evaluation:
    """Predict and count every image. A collective call: all processes take part, each with its own batches.

    Args:
        network: already in eval mode.
        batches: on the network's device; each sample has an id, unique in the data set. Images that several processes (or a
            sampler's padding) repeat count once, so that results do not depend on the number of processes.
        classes: number of classes K, at most 255.
        calibration: also collect bins of confidence, for about the price of a softmax.
        teacher: a network to compare with, pixel by pixel; it sees the same images through the same predictor.
        thresholds: also collect the foreground's probabilities; only for two classes.

    Raises:
        TypeError: a batch is no ``Batch``, or the network gives no ``Outputs``.
        ValueError: the network is in train mode, a label is no class and not 255, ids are missing or shared by different
            images, the logits have another shape than ``B K H W``, or ``thresholds`` are asked of more than two classes.
        FloatingPointError: logits are not finite.
    """
    network, teacher = _resting(network), None if teacher is None else _resting(teacher)
    wanted = {"calibration": calibration, "thresholds": thresholds}
    counts, gaps, cases = [Counts.empty(classes)], [Calibration.empty(classes)], [Agreement.empty(classes)]
    shares = [Levels.empty()]
    for batch in batches:
        read = _read(network, batch, classes, predictor)
        taught = _read(teacher, batch, classes, predictor) if teacher else [None] * len(batch)
        for image, other, target, name in zip(read, taught, batch.target, batch.ids, strict=True):
            for tables, found in zip((counts, gaps, shares, cases), _look(image, other, target, name, **wanted), strict=True):
                tables += found  # type: ignore[operator]
    everywhere = _everywhere(counts)
    _check_repetitions(everywhere)
    return Evaluation(
        everywhere.once(),
        _everywhere(gaps).once() if calibration else None,
        _everywhere(cases).once() if teacher else None,
        _everywhere(shares).once() if thresholds else None,
    )


def _look(
    image: Logits, other: Logits | None, target: Tensor, name: str, calibration: bool, thresholds: bool
) -> tuple[list[Counts], list[Calibration], list[Levels], list[Agreement]]:
    """The tables of one image, none or one of each, made of its blocks; ``other`` is what a teacher says."""
    parts: tuple[list[Any], ...] = ([], [], [], [])
    counts, gaps, shares, cases = parts
    classes, taught = image.shape[0], None if other is None else other.labels()
    for rows, logits in image.blocks():
        found, truth = labels(logits), target[rows]
        counts.append(count(found, truth, classes, name))
        if calibration:
            gaps.append(calibrate(logits, found, truth, name))
        if thresholds:
            shares.append(levels(logits, truth, name))
        if taught is not None:
            cases.append(agree(found, taught[rows], truth, classes, name))
    return tuple([type(some[0]).joined(some)] if some else [] for some in parts)  # type: ignore[return-value]


def _resting(network: Network) -> Network:
    """The network, once it is clear that looking does not change it; what it gives is looked at."""
    if getattr(network, "training", False):
        raise ValueError("the network is in train mode, in which it would learn statistics of these images; call .eval() first")

    def look(image: Tensor) -> Outputs:
        found = network(image)
        if not isinstance(found, Outputs):
            raise TypeError(f"the network gives a {type(found).__name__}; wrap its logits: kd.types.Outputs(logits)")
        return found

    return look


def _everywhere(parts: Sequence[P]) -> P:
    """One table of all processes' images, repetitions included."""
    kind = type(parts[0])
    return kind.concat(gather(kind.concat(parts)))


def _read(network: Network, batch: Batch, classes: int, predictor: Predictor) -> list[Logits]:
    if not isinstance(batch, Batch):
        raise TypeError(f"a batch is a {type(batch).__name__}; give kd.types.Batch(image, target, ids=names)")
    if len(batch.ids) != len(batch):
        raise ValueError(f"a batch of {len(batch)} images has {len(batch.ids)} ids; name each image, so that it counts once")
    found = predictor.read(network, batch.image)
    shape = (len(found), *found[0].shape)
    expected = (len(batch), classes, *batch.target.shape[-2:])
    if shape != expected:
        problem = f"logits are {shape}, expected {expected} (images, classes, height, width of the labels)"
        raise ValueError(f"{problem}; give the network and the data set the same classes, and labels the images' size")
    return found


def _check_repetitions(counts: Counts) -> None:
    """A repeated id must be a repeated image; its labels' pixels per class tell."""
    _, first, row = np.unique(np.array(counts.ids, dtype=str), return_index=True, return_inverse=True)
    differs = (counts.truth != counts.truth[first][row]).any(1)
    if differs.any():
        name = counts.ids[int(differs.argmax())]
        raise ValueError(f"id '{name}' names images with different labels; an id must be unique: correct the data set's names")
