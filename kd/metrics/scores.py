"""Overlap scores as pure functions of counts, in percent and float64; an undefined value is NaN (``summarise``: None).

Definitions: Wang, Berman, Rannen-Triki, Torr, Tuia, Tuytelaars, Van Gool, Yu, Blaschko, "Revisiting Evaluation Metrics
for Semantic Segmentation", NeurIPS 2023, arXiv 2310.19252. With ``i`` images, ``c`` classes:

- D, data set: mean over c of the score of the counts summed over i (the usual mIoU). A class that no label of the data set
  contains counts 0 where it is predicted, and leaves the mean where it is not, as in Cityscapes' script, torchmetrics and
  JDTLosses; the mean over the labelled classes alone has a name of its own;
- I, image: mean over i of the mean over the classes active in image i;
- C, class: mean over c of the mean over the images where class c is active.

A class is active in an image whose labels contain it, so I and C do not punish a class predicted in an image without
it. Images without a labelled pixel are skipped. Where the authors' code differs: I and C are NaN or about 1e8 / K there for
classes that are absent from all labels (here they leave the mean), and it counts in float32.

Two classes with ``binary=True``: background (0) and foreground (1). D, I and C use the foreground only, active where it
is labelled or predicted. For I an image with no foreground, labelled or predicted, is perfect: 100. A recall without
labelled foreground is 0/0 and left out. The authors' code averages background and foreground in C, turns such a recall
into NaN for the data set, and calls the foreground's recall accuracy. With ``binary=False`` two classes are treated
like any other number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kd.metrics.calibration import Calibration, ece, reliability, sce
from kd.metrics.counts import Counts, Integers
from kd.metrics.foreground import of_counts

Floats = NDArray[np.float64]
Score = Literal["iou", "acc", "dice"]
Absent = Literal["drop", "predicted", "zero"]
ENDINGS = (
    "_I: mean over images; _C: mean over classes of each class's images; _q5: of the worst 5 % of them alone, one at least; "
    "_Q: mean of those over the worst 10, 20, ..., 100 %"
)
"""What the ends of the names say, for people."""


def ratio(tp: Integers, fp: Integers, fn: Integers, score: Score = "iou") -> Floats:
    """IoU, recall (``acc``) or Dice of counts of any shape, in percent; NaN where it is 0/0."""
    part, whole = {
        "iou": (tp, tp + fp + fn),
        "acc": (tp, tp + fn),
        "dice": (2 * tp, 2 * tp + fp + fn),
    }[score]
    return np.divide(100.0 * part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def accuracy(counts: Counts) -> float:
    """Share of the labelled pixels that are right, in percent."""
    return float(ratio(counts.tp.sum(), counts.fp.sum(), counts.fn.sum(), "acc"))


def class_scores(counts: Counts, score: Score = "iou", absent: Absent = "predicted") -> Floats:
    """The score of each class over the whole data set, ``K``; NaN where the class leaves the mean.

    ``absent`` says what becomes of a class that no label contains: ``predicted`` leaves it out only if it is not predicted
    either and counts 0 otherwise; ``drop`` leaves it out, so that all models are averaged over the same classes; ``zero``
    counts 0 always (the CIRKD code).
    """
    tp, fp, fn = counts.tp.sum(0), counts.fp.sum(0), counts.fn.sum(0)
    values = ratio(tp, fp, fn, score)
    return {
        "drop": np.where(tp + fn > 0, values, np.nan),
        "predicted": values,
        "zero": np.nan_to_num(values),
    }[absent]


def punished(counts: Counts) -> list[int]:
    """The classes that no label of the data set contains and that are predicted, which therefore count 0."""
    return [int(number) for number in np.flatnonzero((counts.truth.sum(0) == 0) & (counts.fp.sum(0) > 0))]


def image_table(counts: Counts, score: Score = "iou", either: bool = False) -> Floats:
    """The score of each class in each image that has labelled pixels, ``N' K``; NaN where the class is not active.

    Active means that the image's labels contain the class; with ``either``, that its labels or its prediction do.
    """
    counts = counts.take(np.flatnonzero(counts.valid))
    present = counts.truth + counts.fp if either else counts.truth
    return np.where(present > 0, ratio(counts.tp, counts.fp, counts.fn, score), np.nan)


def lowest(values: Floats, q: float = 100) -> float:
    """Mean of the ``max(1, floor(q n / 100))`` lowest of the ``n`` defined values; NaN without any."""
    defined = np.sort(values[~np.isnan(values)])
    if not len(defined):
        return float("nan")
    return float(defined[: max(1, int(q * len(defined) / 100))].mean())


def dataset_mean(counts: Counts, score: Score = "iou", absent: Absent = "predicted", binary: bool = False) -> float:
    """mIoU^D, mAcc^D or mDice^D in percent; ``absent`` as in ``class_scores``."""
    values = class_scores(counts, score, absent)
    return lowest(_foreground(values) if binary else values)


def image_mean(counts: Counts, score: Score = "iou", q: float = 100, binary: bool = False) -> float:
    """mIoU^I, mAcc^I or mDice^I in percent, over the ``q`` percent of the images with the lowest score."""
    table = image_table(counts, score, either=binary)
    if binary:
        scored = counts.take(np.flatnonzero(counts.valid))
        table = _foreground(np.where(scored.truth + scored.fp == 0, 100.0, table))
    return lowest(_row_means(table), q)


def class_mean(counts: Counts, score: Score = "iou", q: float = 100, binary: bool = False) -> float:
    """mIoU^C, mAcc^C or mDice^C in percent, over each class's ``q`` percent of images with the lowest score."""
    table = image_table(counts, score, either=binary)
    table = _foreground(table) if binary else table
    return lowest(np.array([lowest(column, q) for column in table.T]))


def over_q(mean: Callable[..., float], counts: Counts, score: Score = "iou", binary: bool = False) -> float:
    """Average of ``image_mean`` or ``class_mean`` over q = 10, 20, ..., 100: mIoU^{I,Q} and its kin."""
    return float(np.mean([mean(counts, score, q=q, binary=binary) for q in range(10, 101, 10)]))


def _foreground(values: Floats) -> Floats:
    if values.shape[-1] != 2:
        raise ValueError(f"binary scores were asked for {values.shape[-1]} classes; they need 2: set binary to false")
    return values[..., 1:]


def _row_means(table: Floats) -> Floats:
    defined = ~np.isnan(table)
    number = defined.sum(1)
    return np.divide(np.where(defined, table, 0).sum(1), number, out=np.full(len(table), np.nan), where=number > 0)


def summarise(
    counts: Counts,
    calibration: Calibration | None,
    class_names: Sequence[str],
    worst: Sequence[float] = (1, 5),
    binary: bool = False,
) -> dict[str, Any]:
    """All scores under plain keys, ready for JSON; None where a score is undefined.

    In percent, SCE in per mille. ``mIoU``, ``mAcc``, ``mDice`` are the data set's (D), with ``_I`` and ``_C`` the other
    means; ``mIoU_labelled`` is D over the classes that some label contains; ``mIoU_I_q5`` the worst 5 percent for each q of
    ``worst``; ``mIoU_I_Q`` the average over q. ``iou`` maps class names to IoU. ``absent_classes`` counts the classes that no
    label contains, ``absent_but_predicted`` names those of them that are predicted: their IoU is 0, that of the others None.
    ``images`` counts the images with labelled pixels, ``skipped_images`` those without. ``reliability``, only with a
    calibration, holds its bins. Of two classes the second is the ``foreground``, with ``_IoU``, ``_F1``, ``_precision`` and
    ``_recall`` of its own.

    Raises:
        ValueError: the names do not fit the classes, or ``binary`` without two classes.
    """
    if len(set(class_names)) != counts.classes:
        raise ValueError(f"{len(set(class_names))} different class names for {counts.classes} classes; name each class once")
    found: dict[str, float] = {
        "mIoU": dataset_mean(counts, binary=binary),
        "mIoU_labelled": dataset_mean(counts, absent="drop", binary=binary),
    }
    for letter, mean in (("I", image_mean), ("C", class_mean)):
        found[f"mIoU_{letter}"] = mean(counts, binary=binary)
        found |= {f"mIoU_{letter}_q{q:g}": mean(counts, q=q, binary=binary) for q in worst}
        found[f"mIoU_{letter}_Q"] = over_q(mean, counts, binary=binary)
    found["accuracy"] = accuracy(counts)
    scores: tuple[tuple[str, Score], ...] = (("mAcc", "acc"), ("mDice", "dice"))
    for name, score in scores:
        found[name] = dataset_mean(counts, score, binary=binary)
        found[f"{name}_I"] = image_mean(counts, score, binary=binary)
        found[f"{name}_C"] = class_mean(counts, score, binary=binary)
    if counts.classes == 2:
        found |= {f"foreground_{name}": value for name, value in of_counts(counts).items()}
    found |= _calibration(calibration, binary)
    bins = {} if calibration is None else {"reliability": reliability(calibration)}
    return {
        **{name: _plain(value) for name, value in found.items()},
        "iou": {name: _plain(value) for name, value in zip(class_names, class_scores(counts), strict=True)},
        "absent_classes": int((counts.truth.sum(0) == 0).sum()),
        "absent_but_predicted": ", ".join(class_names[number] for number in punished(counts) if number or not binary),
        "images": int((counts.valid > 0).sum()),
        "skipped_images": int((counts.valid == 0).sum()),
        **bins,
    }


def unit(name: str) -> str:
    """The unit of a score of ``summarise``; "" for counts."""
    if name in ("absent_classes", "images", "skipped_images"):
        return ""
    return "per mille" if name.startswith("SCE") else "%"


def _calibration(calibration: Calibration | None, binary: bool) -> dict[str, float]:
    if calibration is None:
        return dict.fromkeys(("ECE", "ECE_I", "SCE", "SCE_I"), float("nan"))
    return {
        "ECE": ece(calibration, "D"),
        "ECE_I": ece(calibration, "I"),
        "SCE": sce(calibration, "D", binary=binary),
        "SCE_I": sce(calibration, "I", binary=binary),
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
