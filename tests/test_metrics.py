"""Scores against hand-computed numbers and a slow oracle."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.metrics.calibration import Calibration, calibrate, ece, sce
from kd.metrics.counts import Counts, count
from kd.metrics.scores import (
    Score,
    accuracy,
    class_mean,
    class_scores,
    dataset_mean,
    image_mean,
    image_table,
    lowest,
    over_q,
    summarise,
)

SCORES: tuple[Score, ...] = ("iou", "acc", "dice")
Maps = list[tuple[list[int], list[int]]]


def counted(images: Maps, classes: int) -> Counts:
    """Counts of images given as flat lists (prediction, target)."""
    rows = [
        count(torch.tensor([guess]), torch.tensor([truth]), classes, f"{number:03d}")
        for number, (guess, truth) in enumerate(images)
    ]
    return Counts.concat([Counts.empty(classes), *rows])


def binned(probabilities: np.ndarray, images: Maps, classes: int) -> tuple[Calibration, Maps]:
    """Gaps of ``N K P`` probabilities, and the images with the prediction that belongs to them."""
    rows, predicted = [Calibration.empty(classes)], []
    for number, (maps, (_, truth)) in enumerate(zip(torch.from_numpy(probabilities), images, strict=True)):
        guess = maps.argmax(0)
        rows.append(calibrate(maps[:, None], guess[None], torch.tensor([truth]), f"{number:03d}", softmax=False))
        predicted.append((guess.tolist(), truth))
    return Calibration.concat(rows), predicted


# --- the oracle: loops over pixels, lists and None


def slow_counts(guess: list[int], truth: list[int], classes: int) -> list[tuple[int, int, int]]:
    found = []
    for c in range(classes):
        pairs = [(g, t) for g, t in zip(guess, truth, strict=True) if t != 255]
        tp = sum(g == c and t == c for g, t in pairs)
        fp = sum(g == c and t != c for g, t in pairs)
        fn = sum(g != c and t == c for g, t in pairs)
        found.append((tp, fp, fn))
    return found


def slow_score(score: str, tp: int, fp: int, fn: int) -> float | None:
    part = {"iou": tp, "acc": tp, "dice": 2 * tp}[score]
    whole = {"iou": tp + fp + fn, "acc": tp + fn, "dice": 2 * tp + fp + fn}[score]
    return 100 * part / whole if whole else None


def slow_mean(values: list[float | None], q: float = 100) -> float | None:
    defined = sorted(v for v in values if v is not None)
    if not defined:
        return None
    n = max(1, math.floor(q * len(defined) / 100))
    return sum(defined[:n]) / n


def slow_tables(images: Maps, classes: int, score: str) -> list[list[float | None]]:
    tables = []
    for guess, truth in images:
        if all(t == 255 for t in truth):
            continue
        rows = slow_counts(guess, truth, classes)
        tables.append([slow_score(score, *row) if row[0] + row[2] else None for row in rows])
    return tables


def slow_dataset(images: Maps, classes: int, score: str) -> float | None:
    values = []
    for c in range(classes):
        rows = [slow_counts(guess, truth, classes)[c] for guess, truth in images]
        tp, fp, fn = (sum(column) for column in zip(*rows, strict=True))
        values.append(slow_score(score, tp, fp, fn))
    return slow_mean(values)


def same(found: float, expected: float | None) -> bool:
    return math.isnan(found) if expected is None else found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@st.composite
def problems(draw: st.DrawFn, classes: int | None = None) -> tuple[Maps, int]:
    k = classes or draw(st.integers(1, 5))
    pixels = draw(st.integers(1, 6))
    label = st.one_of(st.integers(0, k - 1), st.just(255))
    row = st.tuples(
        st.lists(st.integers(0, k - 1), min_size=pixels, max_size=pixels),
        st.lists(label, min_size=pixels, max_size=pixels),
    )
    return draw(st.lists(row, min_size=1, max_size=7)), k


# --- scores


def test_three_means_by_hand() -> None:
    # image 0: class 0 IoU 2/3, class 1 IoU 1/2; image 1: only class 0 labelled, IoU 3/4, class 1 predicted in error
    counts = counted([([0, 0, 1, 0], [0, 0, 1, 1]), ([0, 0, 0, 1], [0, 0, 0, 0])], 2)
    assert class_scores(counts).tolist() == pytest.approx([100 * 5 / 7, 100 * 1 / 3])
    assert dataset_mean(counts) == pytest.approx(100 * (5 / 7 + 1 / 3) / 2)
    assert image_mean(counts) == pytest.approx(100 * ((2 / 3 + 1 / 2) / 2 + 3 / 4) / 2)
    assert class_mean(counts) == pytest.approx(100 * ((2 / 3 + 3 / 4) / 2 + 1 / 2) / 2)
    assert accuracy(counts) == pytest.approx(100 * 6 / 8)
    assert dataset_mean(counts, "acc") == pytest.approx(100 * (5 / 6 + 1 / 2) / 2)
    assert dataset_mean(counts, "dice") == pytest.approx(100 * (10 / 12 + 2 / 4) / 2)
    assert np.isnan(image_table(counts)[1, 1])


@settings(derandomize=True, deadline=None, max_examples=80)
@given(problems(), st.sampled_from(SCORES), st.sampled_from([1, 5, 30, 50, 70, 100]))
def test_means_equal_the_oracle(problem: tuple[Maps, int], score: Score, q: int) -> None:
    images, k = problem
    counts = counted(images, k)
    tables = slow_tables(images, k, score)
    columns = [[table[c] for table in tables] for c in range(k)]
    assert same(dataset_mean(counts, score), slow_dataset(images, k, score))
    assert same(image_mean(counts, score, q), slow_mean([slow_mean(table) for table in tables], q))
    assert same(class_mean(counts, score, q), slow_mean([slow_mean(column, q) for column in columns]))


def test_worst_images_by_hand() -> None:
    values = np.array([50.0, 10.0, np.nan, 40.0, 20.0, 30.0])
    assert lowest(values, 1) == 10
    assert lowest(values, 59) == 15
    assert lowest(values, 60) == 20
    assert lowest(values) == 30
    assert np.isnan(lowest(np.array([np.nan])))


def test_average_over_q_by_hand() -> None:
    counts = counted([([0, 0], [0, 0]), ([1, 0], [0, 0])], 2)  # images score 100 and 50
    assert over_q(image_mean, counts) == pytest.approx((9 * 50 + 75) / 10)
    assert over_q(class_mean, counts) == pytest.approx((9 * 50 + 75) / 10)


@pytest.mark.parametrize(
    ("images", "drop", "predicted", "zero"),
    [
        ([([0, 1], [0, 0])], 50, 25, 50 / 3),  # class 1 predicted only, class 2 nowhere
        ([([0, 0], [0, 0])], 100, 100, 100 / 3),
    ],
)
def test_a_class_without_labels(images: Maps, drop: float, predicted: float, zero: float) -> None:
    counts = counted(images, 3)
    with np.errstate(all="raise"):
        assert dataset_mean(counts) == dataset_mean(counts, absent="predicted") == predicted
    assert dataset_mean(counts, absent="drop") == drop
    assert dataset_mean(counts, absent="zero") == pytest.approx(zero)
    assert class_mean(counts) == class_mean(counts, q=1) == drop
    assert over_q(class_mean, counts) == drop
    found = summarise(counts, None, ("road", "sky", "bus"))
    assert found["absent_classes"] == 2
    assert found["iou"] == {"road": drop, "sky": 0 if predicted < drop else None, "bus": None}
    assert found["absent_but_predicted"] == ("sky" if predicted < drop else "")
    assert (found["mIoU"], found["mIoU_labelled"]) == (predicted, drop)


def test_an_ignored_image_changes_no_score() -> None:
    images: Maps = [([0, 1, 1], [0, 0, 255]), ([1, 1, 0], [1, 1, 1])]
    blank: Maps = [([0, 1, 1], [255, 255, 255])]
    names = ("road", "sky")
    with_blank, without = (summarise(counted(part, 2), None, names) for part in (images + blank, images))
    assert (with_blank.pop("skipped_images"), without.pop("skipped_images")) == (1, 0)
    assert with_blank == without


def test_binary_uses_the_foreground() -> None:
    # fg IoU 1/2; no foreground anywhere; foreground predicted in error; all foreground
    images: Maps = [([1, 1, 0], [1, 0, 0]), ([0, 0], [0, 0]), ([1, 0], [0, 0]), ([1, 1], [1, 1])]
    counts = counted(images, 2)
    assert dataset_mean(counts, binary=True) == pytest.approx(100 * 3 / 5)
    assert image_mean(counts, binary=True) == pytest.approx((50 + 100 + 0 + 100) / 4)
    assert class_mean(counts, binary=True) == pytest.approx((50 + 0 + 100) / 3)
    assert image_mean(counts, "acc", binary=True) == pytest.approx(100)
    assert class_mean(counts, "dice", q=34, binary=True) == 0
    assert image_mean(counts) != image_mean(counts, binary=True)
    assert over_q(image_mean, counts, binary=True) == pytest.approx((4 * 0 + 3 * 25 + 2 * 50 + 62.5) / 10)
    with pytest.raises(ValueError, match="they need 2"):
        dataset_mean(counted([([0], [0])], 3), binary=True)


def test_binary_without_any_foreground_is_undefined_not_nan() -> None:
    found = summarise(counted([([0, 0], [0, 0])], 2), None, ("ground", "thing"), binary=True)
    assert (found["mIoU"], found["mIoU_I"], found["mIoU_C"], found["mAcc"]) == (None, 100, None, None)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems(classes=2), st.booleans())
def test_a_summary_is_plain_json(problem: tuple[Maps, int], binary: bool) -> None:
    images, k = problem
    gaps, _ = binned(np.full((len(images), k, len(images[0][0])), 1 / k, np.float32), images, k)
    found = summarise(counted(images, k), gaps, ("a", "b"), binary=binary)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_keys_of_a_summary() -> None:
    counts = counted([([0, 1, 1], [0, 0, 1])], 3)
    found = summarise(counts, None, ("road", "sky", "bus"), worst=(1, 5))
    wanted = "mIoU mIoU_I mIoU_C mIoU_I_q1 mIoU_I_q5 mIoU_C_q1 mIoU_C_q5 mIoU_I_Q mIoU_C_Q accuracy mAcc mDice ECE SCE"
    assert set(wanted.split()) <= found.keys()
    assert found["iou"] == {"road": 50, "sky": 50, "bus": None}
    assert (found["absent_classes"], found["images"], found["ECE"]) == (1, 1, None)
    assert found["mAcc"] == pytest.approx(75)
    assert found["mDice"] == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="2 different class names for 3 classes"):
        summarise(counts, None, ("road", "sky", "sky"))


def test_a_summary_holds_each_score_under_its_own_name() -> None:
    images: Maps = [([0, 1, 1], [0, 0, 1]), ([0, 0, 0], [0, 255, 0])]
    maps = np.array([[[0.9, 0.3, 0.1], [0.1, 0.7, 0.9]], [[0.6, 0.8, 0.7], [0.4, 0.2, 0.3]]], np.float32)
    gaps, images = binned(maps, images, 2)
    found = summarise(counted(images, 2), gaps, ("a", "b"))
    assert (found["ECE"], found["ECE_I"]) == (ece(gaps, "D"), ece(gaps, "I"))
    assert (found["SCE"], found["SCE_I"]) == (sce(gaps, "D"), sce(gaps, "I"))
    assert len({found[key] for key in ("ECE", "ECE_I", "SCE", "SCE_I")}) == 4


def test_no_images_at_all() -> None:
    found = summarise(Counts.empty(2), Calibration.empty(2), ("a", "b"))
    assert found["images"] == 0
    assert {found[key] for key in ("mIoU", "mIoU_I", "mIoU_C_q5", "accuracy", "ECE", "ECE_I", "SCE", "SCE_I")} == {None}
