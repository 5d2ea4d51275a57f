"""Counts and calibration bins of each image against hand-computed numbers and a slow oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import Maps, binned, counted, problems, slow_counts

from kd.metrics import calibration as bins_module
from kd.metrics.calibration import BINS, bins, calibrate, ece, sce
from kd.metrics.counts import Counts, confusion, count

# --- counts


def test_confusion_rows_are_labels_and_columns_predictions() -> None:
    prediction = torch.tensor([[0, 1, 1], [2, 2, 0]], dtype=torch.uint8)
    target = torch.tensor([[0, 0, 1], [2, 255, 1]])
    assert confusion(prediction, target, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems())
def test_counts_equal_the_oracle(problem: tuple[Maps, int]) -> None:
    images, k = problem
    counts = counted(images, k)
    for row, (guess, truth) in enumerate(images):
        expected = slow_counts(guess, truth, k)
        assert list(zip(counts.tp[row], counts.fp[row], counts.fn[row], strict=True)) == expected
        assert counts.ignored[row] == truth.count(255)
        assert counts.valid[row] == len(truth) - truth.count(255)
    assert {array.dtype for array in counts.arrays().values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_255_classes_still_leave_room_for_ignored_pixels(dtype: torch.dtype) -> None:
    target = torch.tensor([[254, 255, 0]], dtype=dtype)
    counts = count(torch.tensor([[254, 254, 254]], dtype=dtype), target, 255, "a")
    assert (counts.tp[0, 254], counts.fp[0, 254], counts.fn[0, 0], counts.ignored[0]) == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="classes is 256"):
        count(target, target, 256, "a")


@pytest.mark.parametrize("value", [3, 254, -1, 256])
def test_a_label_that_is_no_class_is_named(value: int) -> None:
    target = torch.tensor([[0, value, 255]])
    with pytest.raises(ValueError, match=rf"image 'street': target holds {value}; labels are 0 to 2, or 255"):
        count(torch.zeros(1, 3, dtype=torch.long), target, 3, "street")


def test_a_prediction_that_is_no_class_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="prediction holds 3"):
        confusion(torch.tensor([[3]]), torch.tensor([[0]]), 3)
    with pytest.raises(ValueError, match="predict at label size"):
        confusion(torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long), 3)


def test_once_sorts_and_drops_repetitions() -> None:
    first = counted([([0, 1], [0, 0]), ([1, 1], [1, 1])], 2)
    again = Counts.concat([first.take([1]), first, Counts.empty(2)])
    once = again.once()
    assert once.ids == ("000", "001")
    assert (once.tp == first.tp).all()
    assert len(Counts.empty(2).once()) == 0


def test_rows_must_match_ids() -> None:
    counts = counted([([0], [0])], 2)
    with pytest.raises(ValueError, match="valid has 1 rows for 2 ids"):
        Counts(("a", "b"), counts.valid, counts.tp, counts.fp, counts.fn, counts.ignored)


@pytest.mark.parametrize("number", [0, 3])
def test_tables_survive_a_file(tmp_path: Any, number: int) -> None:
    images = [([0, 1, 1], [0, 255, 1]), ([1, 0, 0], [255, 255, 255]), ([0, 0, 1], [1, 0, 1])][:number]
    tables = (counted(images, 2), binned(np.full((number, 2, 3), 0.5, np.float32), images, 2)[0])
    for table in tables:
        table.save(tmp_path / "rows.npz")
        back = type(table).load(tmp_path / "rows.npz")
        assert back.ids == table.ids
        for name, array in table.arrays().items():
            assert back.arrays()[name].dtype == array.dtype
            assert (back.arrays()[name] == array).all()
    with pytest.raises(ValueError, match="Counts needs fn, fp, ids"):
        Counts.load(tmp_path / "rows.npz")


# --- calibration


def slow_bin(value: float) -> int:
    edges = [np.float32(b / 10) for b in range(10)]
    return max(b for b in range(10) if edges[b] <= np.float32(value))


def slow_ece(pairs: list[tuple[float, bool]]) -> float:
    total = 0.0
    for b in range(10):
        inside = [(conf, ok) for conf, ok in pairs if slow_bin(conf) == b]
        if inside:
            gap = sum(ok for _, ok in inside) / len(inside) - sum(conf for conf, _ in inside) / len(inside)
            total += len(inside) / len(pairs) * abs(gap)
    return 100 * total


def slow_pairs(maps: np.ndarray, image: tuple[list[int], list[int]], c: int | None, jdt: bool) -> list[tuple[float, bool]]:
    pixels = [(p, g, t) for p, (g, t) in enumerate(zip(*image, strict=True)) if t != 255]
    if c is None:
        return [(float(maps[g, p]), g == t) for p, g, t in pixels]
    return [(float(maps[c, p]), t == c and (not jdt or g == c)) for p, g, t in pixels]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems(), st.integers(0, 1000), st.booleans())
def test_calibration_equals_the_oracle(problem: tuple[Maps, int], seed: int, jdt: bool) -> None:
    images, k = problem
    draws = np.random.default_rng(seed).dirichlet(np.full(k, 0.6), (len(images), len(images[0][0])))
    maps = np.ascontiguousarray(draws.transpose(0, 2, 1).astype(np.float32))
    gaps, images = binned(maps, images, k)
    kept = [(m, image) for m, image in zip(maps, images, strict=True) if set(image[1]) != {255}]
    if not kept:
        assert math.isnan(ece(gaps)) and math.isnan(sce(gaps, "I"))  # noqa: PT018
        return

    def pooled(c: int | None) -> float:
        return slow_ece([pair for m, image in kept for pair in slow_pairs(m, image, c, jdt)])

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    close = {"rel": 1e-9, "abs": 1e-9}
    assert ece(gaps, "D") == pytest.approx(pooled(None), **close)
    assert ece(gaps, "I") == pytest.approx(mean([slow_ece(slow_pairs(m, i, None, jdt)) for m, i in kept]), **close)
    assert sce(gaps, "D", jdt=jdt) == pytest.approx(10 * mean([pooled(c) for c in range(k)]), **close)
    one = [[slow_ece(slow_pairs(m, i, c, jdt)) for c in range(k) if c in i[1]] for m, i in kept]
    assert sce(gaps, "I", jdt=jdt) == pytest.approx(10 * mean([mean(values) for values in one]), **close)


def test_calibration_by_hand() -> None:
    # two pixels, both predicted 0 with 0.85; one is right
    maps = np.array([[[0.85, 0.85], [0.15, 0.15]]], np.float32)
    gaps, _ = binned(maps, [([0, 0], [0, 1])], 2)
    assert ece(gaps) == pytest.approx(35, rel=1e-6)
    assert sce(gaps) == pytest.approx(350, rel=1e-6)
    assert sce(gaps, jdt=True) == pytest.approx((350 + 150) / 2, rel=1e-6)
    assert sce(gaps, binary=True, jdt=True) == pytest.approx(150, rel=1e-6)
    assert sce(gaps, "I", binary=True, jdt=True) == pytest.approx(150, rel=1e-6)


def test_bins_are_closed_on_the_left() -> None:
    edges = torch.tensor([b / 10 for b in range(11)])
    below = torch.nextafter(edges[1:], torch.tensor(0.0))
    assert bins(edges).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert bins(below).tolist() == list(range(10))


def test_both_ways_to_add_up_bins_agree() -> None:
    values = torch.rand(4, 1000, generator=torch.Generator().manual_seed(1))
    by_hand = torch.zeros(4, BINS, dtype=torch.float64).scatter_add_(1, bins(values).long(), values.double())
    assert torch.allclose(bins_module._by_histogram(values), by_hand, rtol=1e-13)
    assert torch.allclose(bins_module._by_passes(values), by_hand, rtol=1e-13)


def test_blocks_and_softmax_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 5, 7, generator=generator)
    target = torch.randint(0, 4, (5, 7), generator=generator).where(torch.rand(5, 7, generator=generator) > 0.2, 255)
    target[target == 3] = 255
    guess = logits.argmax(0)
    whole = calibrate(logits, guess.to(torch.uint8), target, "a")
    direct = calibrate(logits.softmax(0), guess, target, "a", softmax=False)
    monkeypatch.setattr(bins_module, "_BLOCK", 12)
    blocks = calibrate(logits.softmax(0), guess, target, "a", softmax=False)
    for name, array in direct.arrays().items():
        np.testing.assert_allclose(blocks.arrays()[name], array, rtol=1e-12)
        np.testing.assert_allclose(whole.arrays()[name], array, rtol=1e-5)
    assert whole.valid[0] == (target != 255).sum()
    assert whole.present[0].tolist() == [True, True, True]
