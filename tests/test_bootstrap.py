"""The bootstrap against closed forms, against Student's t, and by how often its interval covers the truth."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import numpy as np
import pytest
from helpers_results import counts

from kd.metrics.counts import Counts
from kd.metrics.scores import dataset_mean
from kd.results.bootstrap import CELLS, Delta, difference, quantile, resampled, widening
from kd.results.holm import survivors


def random_counts(rng: np.random.Generator, images: int, classes: int) -> Counts:
    tp, fp, fn = rng.integers(0, 50, (3, images, classes)) * rng.integers(0, 2, (3, images, classes))
    return Counts(tuple(map(str, range(images))), (tp + fn).sum(1), tp, fp, fn, np.zeros(images, np.int64))


def test_each_resample_is_the_data_set_mean_of_the_drawn_images() -> None:
    rng = np.random.default_rng(5)
    runs = [random_counts(rng, 6, 4) for _ in range(3)]
    found = resampled(runs, resamples=40, seed=3)
    drawn = np.random.default_rng(3).multinomial(6, [1 / 6] * 6, 40)  # the documented draws
    for run, values in zip(runs, found, strict=True):
        expected = [dataset_mean(run.take(np.repeat(np.arange(6), times))) for times in drawn]
        np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_a_class_without_labels_counts_alike_in_every_resample() -> None:
    """Else one pixel of it in one image would move the interval away from the score."""
    table = counts([80.0] * 6)
    stray = np.zeros((6, 2), np.int64)
    stray[0, 1] = 1
    run = replace(table, fp=table.fp + stray)
    assert dataset_mean(run) == 40.0
    (values,) = resampled([run], resamples=200)
    np.testing.assert_allclose(values, 40.0)


def test_draws_do_not_depend_on_what_is_resampled_along_or_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    runs = [random_counts(rng, 10, 3) for _ in range(4)]
    together = resampled(runs, 100)
    np.testing.assert_array_equal(together[2:3], resampled(runs[2:3], 100))
    monkeypatch.setattr("kd.results.bootstrap.CELLS", 360)
    np.testing.assert_allclose(resampled(runs, 100), together, rtol=1e-12)
    assert CELLS > 360


def test_one_seed_against_the_binomial_distribution() -> None:
    """Differences of 0 or 10 points in N images: the resampled mean is 10 / N times a binomial number."""
    images, wins = 50, 20
    ours, theirs = counts([60.0] * wins + [50.0] * (images - wins)), counts([50.0] * images)
    draws = resampled([ours, theirs], 100_000)
    found = difference({0: (54.0, draws[0])}, {0: (50.0, draws[1])})
    p = wins / images
    below = np.cumsum([comb(images, k) * p**k * (1 - p) ** (images - k) for k in range(images + 1)])
    low, high = (10 / images * int(np.searchsorted(below, tail)) for tail in (0.025, 0.975))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert found.value == pytest.approx(4.0)
    assert found.sign == 0, "one seed says nothing about seeds"


def test_seeds_alone_against_all_their_resamples() -> None:
    """Images agree; three seeds give 27 equally likely draws, whose quantiles are the extremes, widened."""
    gains = (1.0, 2.0, 6.0)
    ours = {seed: (50 + gain, np.full(20_000, 50 + gain)) for seed, gain in enumerate(gains)}
    theirs = {seed: (50.0, np.full(20_000, 50.0)) for seed in range(3)}
    found = difference(ours, theirs)
    c = (3 / 2) ** 0.5 * 4.302653 / 1.959964
    assert found.low == pytest.approx(3 + c * (1 - 3), rel=1e-6)
    assert found.high == pytest.approx(3 + c * (6 - 3), rel=1e-6)
    assert found.sign == 0
    assert difference(ours, theirs, level=0.5).low == pytest.approx(
        3 + (3 / 2) ** 0.5 * 0.816497 / 0.674490 * -(4 / 3), rel=1e-5
    )


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.70620), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (200, 1.97190)],
)
def test_students_quantile(freedom: int, expected: float) -> None:
    assert quantile(freedom) == pytest.approx(expected, abs=1e-5)  # printed tables of the distribution


def test_widening_tends_to_one() -> None:
    factors = [widening(seeds) for seeds in (2, 3, 4, 5, 20, 400)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(1, abs=0.005)


def test_shared_seeds_are_paired_and_others_left_out() -> None:
    draws = np.zeros(10)
    found = difference({0: (51.0, draws), 1: (62.0, draws), 7: (99.0, draws)}, {0: (50.0, draws), 1: (60.0, draws)})
    assert found.value == pytest.approx(1.5)
    assert found.seeds == (0, 1)


def test_seeds_that_differ_are_compared_unpaired() -> None:
    rng = np.random.default_rng(1)
    ours = {seed: (55.0, 55 + rng.normal(0, 0.1, 4000)) for seed in range(3)}
    theirs = {seed: (50.0, 50 + rng.normal(0, 0.1, 4000)) for seed in range(3, 7)}
    found = difference(ours, theirs)
    assert found.value == pytest.approx(5.0)
    assert found.seeds == ()
    assert 4 < (found.low or 0) < 5 < (found.high or 0) < 6
    assert found.sign == 1


def test_the_chance_is_where_the_interval_begins_to_hold_zero() -> None:
    rng = np.random.default_rng(1)
    ours = {seed: (50 + gain, 50 + gain + rng.normal(0, 0.2, 4000)) for seed, gain in enumerate((0.4, 1.0, 1.3, 0.8, 1.1))}
    theirs = {seed: (50.0, np.full(4000, 50.0)) for seed in range(5)}
    found = difference(ours, theirs)
    assert found.sign == 1
    assert found.chance is not None
    assert 2 / 4000 < found.chance < 0.05
    for share, inside in ((found.chance * 0.98, True), (found.chance * 1.02, False)):
        held = difference(ours, theirs, level=1 - share)
        assert ((held.low or 0) <= 0 <= (held.high or 0)) == inside


def test_the_chance_is_no_finer_than_the_resamples_and_of_one_seed_there_is_none() -> None:
    far, near = np.full(1000, 60.0), np.full(1000, 50.0)
    assert difference({0: (60.0, far), 1: (60.0, far)}, {0: (50.0, near), 1: (50.0, near)}).chance == 2 / 1000
    assert difference({0: (50.0, near), 1: (50.0, near)}, {0: (50.0, near), 1: (50.0, near)}).chance == pytest.approx(1)
    assert difference({0: (60.0, far)}, {0: (50.0, near)}).chance is None


def test_of_chances_that_stand_together() -> None:
    """Holm's own procedure: 0.05 / 4, / 3, / 2, / 1, until one fails."""
    assert survivors({"a": 0.012, "b": 0.016, "c": 0.024, "d": 0.05}) == {"a", "b", "c", "d"}
    assert survivors({"a": 0.012, "b": 0.017, "c": 0.024, "d": 0.05}) == {"a"}
    assert survivors({"a": 0.013, "b": 0.013}) == {"a", "b"}
    assert survivors({"a": 0.02, "b": None, "c": None}) == frozenset()
    assert survivors({}) == frozenset()


def test_without_counts_there_is_no_interval() -> None:
    found = difference({0: (51.0, None)}, {0: (50.0, np.zeros(5))})
    assert found == Delta(pytest.approx(1.0), None, None, (0,), False)
    assert found.sign == 0


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 1.0, 1), (-1.0, -0.1, -1), (-0.1, 0.1, 0), (0.0, 1.0, 0)])
def test_a_mark_needs_an_interval_without_zero(low: float, high: float, sign: int) -> None:
    assert Delta(0.5, low, high, (0, 1), True).sign == sign
    assert Delta(0.5, low, high, (0,), False).sign == 0


def covered(seeds: int, of_images: float, of_seeds: float, of_both: float, experiments: int = 1000, images: int = 60) -> float:
    """How often the interval holds the truth, 2 points, where differences vary with image, seed and both (points)."""
    rng = np.random.default_rng(1)
    shape = (experiments, seeds, images)
    gain = 2 + rng.normal(0, of_images, (experiments, 1, images)) + rng.normal(0, of_seeds, (experiments, seeds, 1))
    theirs = np.broadcast_to(50 + rng.normal(0, 5, (experiments, 1, images)), shape)
    ours = theirs + gain + rng.normal(0, of_both, shape)
    tables = [counts(scores, 10**6) for scores in np.concatenate([ours, theirs]).reshape(-1, images)]
    first, second = resampled(tables, 800).reshape(2, experiments, seeds, -1)
    hits = 0
    for mine, other in zip(first, second, strict=True):
        rows = [{seed: (0.0, draws) for seed, draws in enumerate(side)} for side in (mine, other)]
        found = difference(*rows)
        hits += (found.low or 0) <= 2 <= (found.high or 0)
    return hits / experiments


@pytest.mark.parametrize(
    ("seeds", "of_images", "of_seeds", "of_both"),
    [(1, 10.0, 0.0, 0.0), (3, 10.0, 0.25, 2.0), (5, 10.0, 0.5, 2.0), (10, 2.0, 2.0, 2.0)],
)
def test_the_interval_covers_the_truth(seeds: int, of_images: float, of_seeds: float, of_both: float) -> None:
    assert 0.93 <= covered(seeds, of_images, of_seeds, of_both) <= 0.97


def test_it_covers_where_three_seeds_are_all_that_varies() -> None:
    assert 0.91 <= covered(3, 0.0, 1.0, 0.0) <= 0.97  # 0.70 without the widening


def test_it_errs_on_the_wide_side_where_runs_differ_image_by_image() -> None:
    assert covered(3, 0.0, 0.0, 10.0, experiments=300) > 0.97
