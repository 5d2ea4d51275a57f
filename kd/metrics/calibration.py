"""Calibration: how far stated confidence lies from the frequency of being right.

Ten bins of equal width, closed on the left; 1.0 belongs to the last. A bin's part of the error is
``n_b / n * |mean ok_b - mean conf_b| = |sum ok_b - sum conf_b| / n``, so the signed difference of the two sums is all
that needs to be kept for each bin: it adds up over pixels, blocks and images.

ECE: Naeini, Cooper, Hauskrecht, AAAI 2015. SCE: Nixon et al., CVPR Workshops 2019, arXiv 1904.01685, with bins of the
class's own probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd.metrics.counts import Integers, PerImage
from kd.types import IGNORE

Floats = NDArray[np.float64]
BINS = 10
_BLOCK = 2**20  # probabilities at a time: small enough for the cache of a CPU


@dataclass(frozen=True, eq=False)
class Calibration(PerImage):
    """Signed gaps ``sum ok - sum conf`` of the pixels that fall into each of ``M`` bins.

    ``top``      float64 ``N M``: conf is the predicted class's probability, ok whether the prediction is right
    ``hits``     int64 ``N M``: pixels of which the prediction is right, by the predicted class's probability
    ``pixels``   int64 ``N M``: all labelled pixels, by the predicted class's probability
    ``classes``  float64 ``N K M``: conf is the class's probability at every pixel, ok whether it is the label
    ``missed``   int32 ``N K M``: pixels of the class, by its probability, where another class is predicted
    ``present``  bool ``N K``: the image's labels contain the class
    """

    top: Floats
    hits: Integers
    pixels: Integers
    classes: Floats
    missed: NDArray[np.int32]
    present: NDArray[np.bool_]

    @classmethod
    def empty(cls, classes: int) -> Calibration:
        """No images yet."""
        table = np.zeros((0, classes, BINS))
        none = np.zeros(0, np.int64)
        column = np.zeros((0, BINS), np.int64)
        missed, present = table.astype(np.int32), np.zeros((0, classes), bool)
        return cls((), none, column.astype(np.float64), column, column, table, missed, present)


def calibrate(logits: Tensor, prediction: Tensor, target: Tensor, name: str, *, softmax: bool = True) -> Calibration:
    """The gaps of one image called ``name``.

    ``logits`` float ``K H W`` (probabilities with ``softmax=False``), ``prediction`` integers ``H W``, the class with
    the highest logit; ``target`` integers ``H W``, 255 = ignored; all on one device. Works block by block, so that
    beside the logits no second map of their size is kept.
    """
    classes, step = logits.shape[0], max(1, _BLOCK // logits.shape[0])
    flat, guess, labels = logits.flatten(1), prediction.flatten().long(), target.flatten().long()
    table = torch.zeros(classes + 1, BINS, dtype=torch.float64, device=logits.device)
    ok, missed = (torch.zeros(classes + 1, BINS, dtype=torch.int64, device=logits.device) for _ in range(2))
    pixels = torch.zeros(BINS, dtype=torch.int64, device=logits.device)
    for start in range(0, flat.shape[1], step):
        block = slice(start, start + step)
        probabilities = flat[:, block].float().softmax(0) if softmax else flat[:, block].float()
        sums, right, wrong, seen = _block(probabilities, guess[block], labels[block])
        table, ok, missed, pixels = table + sums, ok + right, missed + wrong, pixels + seen
    gaps = (ok - table).cpu().numpy()
    return Calibration(
        ids=(name,),
        valid=np.array([int((labels != IGNORE).sum())]),
        top=gaps[None, -1],
        hits=ok[None, -1].cpu().numpy(),
        pixels=pixels[None].cpu().numpy(),
        classes=gaps[None, :-1],
        missed=missed[None, :-1].int().cpu().numpy(),
        present=ok[None, :-1].sum(-1).gt(0).cpu().numpy(),
    )


def _block(probabilities: Tensor, guess: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums of confidence, hits and missed pixels, ``K+1 M`` each; the last row is that of the predicted class. Its pixels.

    An ignored pixel's probabilities are set to 0: it falls into the first bin and adds nothing.
    """
    classes, keep = probabilities.shape[0], labels != IGNORE
    right = keep & (guess == labels)
    top = probabilities.gather(0, guess[None])
    own = labels * BINS + bins(probabilities.gather(0, labels.clamp(max=classes - 1)[None])[0])
    sums = torch.cat([bin_sums(probabilities * keep), bin_sums(top * keep)])
    hits = torch.bincount(own[keep], minlength=classes * BINS)
    stated = bins(top[0])
    top_hits, seen = (torch.bincount(stated[chosen], minlength=BINS) for chosen in (right, keep))
    missed = torch.bincount(own[keep & ~right], minlength=(classes + 1) * BINS)
    return sums, torch.cat([hits, top_hits]).view(-1, BINS), missed.view(-1, BINS), seen


def bins(probabilities: Tensor) -> Tensor:
    """The bin of each probability, int32: the last one whose lower edge ``b / 10`` (in float32) does not exceed it."""
    return probabilities.mul(BINS).to(torch.int32).clamp_(max=BINS - 1)


def bin_sums(probabilities: Tensor) -> Tensor:
    """Sums of ``R n`` probabilities by bin, float64 ``R M``."""
    return _by_passes(probabilities) if probabilities.is_cuda else _by_histogram(probabilities)


def _by_histogram(probabilities: Tensor) -> Tensor:
    rows = probabilities.shape[0]
    index = bins(probabilities) + torch.arange(0, rows * BINS, BINS, dtype=torch.int32, device=probabilities.device)[:, None]
    weights = probabilities.double().flatten()
    return torch.bincount(index.flatten(), weights, minlength=rows * BINS).view(rows, BINS)


def _by_passes(probabilities: Tensor) -> Tensor:
    """On a GPU a weighted histogram adds in no fixed order (and is refused in deterministic mode); ten sums are not."""
    index = bins(probabilities)
    sums = [torch.where(index == number, probabilities, 0).sum(1, dtype=torch.float64) for number in range(BINS)]
    return torch.stack(sums, 1)


def reliability(calibration: Calibration) -> dict[str, list[Any]]:
    """The reliability diagram of the whole data set: ``pixels``, ``accuracy`` and mean ``confidence`` of each bin.

    Accuracy and confidence are those of the predicted class, in percent; None where no pixel falls into the bin.
    """
    pixels, hits, gaps = calibration.pixels.sum(0), calibration.hits.sum(0), calibration.top.sum(0)
    rows = [
        (int(n), *((100 * ok / n, 100 * (ok - gap) / n) if n else (None, None)))
        for n, ok, gap in zip(pixels, hits, gaps, strict=True)
    ]
    return {name: [row[column] for row in rows] for column, name in enumerate(("pixels", "accuracy", "confidence"))}


def ece(calibration: Calibration, by: Literal["D", "I"] = "D") -> float:
    """Expected calibration error in percent: ``D`` of all pixels in one set of bins, ``I`` the mean over images.

    Images without a labelled pixel are skipped (the code of the JDT losses counts them as 0 in ``I``). NaN without any.
    """
    used = calibration.take(np.flatnonzero(calibration.valid))
    if not len(used):
        return float("nan")
    if by == "D":
        return float(100 * np.abs(used.top.sum(0)).sum() / used.valid.sum())
    return float(100 * np.mean(np.abs(used.top).sum(1) / used.valid))


def sce(calibration: Calibration, by: Literal["D", "I"] = "D", *, jdt: bool = False, binary: bool = False) -> float:
    """Static (class-wise) calibration error in per mille.

    ``D`` is the mean over all K classes, absent ones included: probability given to them is an error. ``I`` is the mean
    over images of the mean over the classes present in the image. With ``binary`` (K = 2) only class 1 counts, in every
    image.
    ``jdt`` reproduces the published code of the JDT losses, where ok asks not only that the class is the label but also
    that it is predicted. NaN without a labelled pixel.
    """
    used = calibration.take(np.flatnonzero(calibration.valid))
    if not len(used):
        return float("nan")
    gaps = used.classes - used.missed if jdt else used.classes
    if by == "D":
        errors = np.abs(gaps.sum(0)).sum(1) / used.valid.sum()
        return float(1000 * (errors[1] if binary else errors.mean()))
    errors = np.abs(gaps).sum(2) / used.valid[:, None]
    if binary:
        return float(1000 * errors[:, 1].mean())
    return float(1000 * np.mean((errors * used.present).sum(1) / used.present.sum(1)))
