"""Predictors and the evaluator, with networks small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny
from torch import Tensor

from kd.config import ConfigError, validate
from kd.evaluate import evaluator
from kd.evaluate.build import build_predictor
from kd.evaluate.evaluator import Evaluation, evaluate
from kd.evaluate.logits import labels
from kd.evaluate.multi_scale import MultiScale
from kd.evaluate.predictor import Predictor
from kd.evaluate.sliding import Sliding, offsets
from kd.evaluate.whole import Whole
from kd.lookup import options
from kd.metrics.agreement import CASES, tell
from kd.recipe.schema import build, fingerprint, plain
from kd.types import Batch, Outputs

K = 3
WHOLE = Whole(Whole.Config())


def pixelwise(image: Tensor) -> Outputs:
    """Logits that depend on the pixel alone: its channels."""
    return Outputs(image.float() / 32)


def sliding(window: tuple[int, int], stride: tuple[int, int] | None = None) -> Sliding:
    return Sliding(Sliding.Config(window=window, stride=stride))


def pictures(number: int, height: int = 5, width: int = 7, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, K, (number, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return Batch(image, target, tuple(f"image{(7 * i) % number}" for i in range(number)))


def part(batch: Batch, rows: slice) -> Batch:
    return replace(batch, image=batch.image[rows], target=batch.target[rows], ids=batch.ids[rows])


# --- predictors


def test_predictors_are_found_by_file_name() -> None:
    found = options("kd.evaluate", "Predictor")
    assert found["whole"] == "Whole"
    assert found["sliding"] == "Sliding"
    assert "predictor" not in found


def test_whole_follows_the_networks_grid() -> None:
    coarse = torch.tensor([[[[0.0, 6.0]]]])
    image = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    corners = WHOLE(lambda x: Outputs(coarse.half(), align_corners=True), image)
    assert corners.dtype == torch.float32
    assert corners.flatten().tolist() == [0, 2, 4, 6]
    assert WHOLE(lambda x: Outputs(coarse), image).flatten().tolist() == [0, 1.5, 4.5, 6]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_a_window_makes_no_difference_to_a_pixelwise_network(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    window = data.draw(st.tuples(st.integers(1, 11), st.integers(1, 11)))
    strides = st.tuples(*(st.integers(1, side) for side in window))
    stride = data.draw(st.one_of(st.none(), strides))
    image = pictures(2, height, width).image
    found = sliding(window, stride)(pixelwise, image)
    assert found.shape == (2, 3, height, width)
    assert torch.allclose(found, WHOLE(pixelwise, image), rtol=1e-6)


def test_overlapping_logits_are_averaged() -> None:
    def ramp(image: Tensor) -> Outputs:
        return Outputs(torch.arange(3.0).expand(1, 1, 1, 3))

    image = torch.zeros(1, 3, 1, 6, dtype=torch.uint8)
    # windows at 0, 2 and 3: the ramp 0 1 2 begins at each
    found = sliding((1, 3))(ramp, image)
    assert found.flatten().tolist() == [0, 1, (2 + 0) / 2, (1 + 0) / 2, (2 + 1) / 2, 2]


def test_a_small_image_is_padded_with_the_mean_colour_and_seen_once() -> None:
    seen: list[Tensor] = []

    def network(image: Tensor) -> Outputs:
        seen.append(image)
        return pixelwise(image)

    image = pictures(2, 2, 3).image
    found = sliding((4, 5))(network, image)
    assert len(seen) == 1
    assert seen[0].shape == (2, 3, 4, 5)
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0][..., :2, :3], image)
    assert (seen[0][:, :, 2:] == torch.tensor([124, 116, 104])[:, None, None]).all()
    assert (seen[0][:, :, :, 3:] == torch.tensor([124, 116, 104])[:, None, None]).all()
    assert torch.equal(found, pixelwise(image).logits)


def test_default_stride_is_two_thirds_rounded_up() -> None:
    assert Sliding.Config(window=(512, 1024)).steps == (342, 683)
    assert Sliding.Config(window=(3, 1)).steps == (2, 1)
    assert offsets(1024, 512, 342) == [0, 342, 512]
    assert offsets(1024, 512, 512) == [0, 512]
    assert offsets(5, 5, 2) == [0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": (4, 4), "stride": (5, 1)}, r"stride is \(5, 1\) for a window of \(4, 4\)"),
        ({"window": (4, 4), "stride": (0, 1)}, "between 1 and the window"),
        ({"window": (0, 4)}, "must be positive"),
        ({"window": (4, 4), "fill": (0, 0, 256)}, "values from 0 to 255"),
        ({}, "window: is required"),
    ],
)
def test_windows_that_cannot_cover_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Sliding.Config, values)


def test_labels_are_the_first_of_the_highest() -> None:
    logits = torch.randint(0, 3, (5, 6, 7), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(labels(logits).long(), logits.argmax(0))
    assert labels(torch.tensor([[[-torch.inf]], [[0.0]]])).item() == 1
    for bad in (torch.nan, torch.inf):
        logits[3, 2, 2] = bad
        with pytest.raises(FloatingPointError, match="NaN or infinity"):
            labels(logits)


def multi_scale(scales: tuple[float, ...] = (1.0,), flip: bool = False, **inner: Any) -> MultiScale:
    return MultiScale(validate(MultiScale.Config, {"scales": scales, "flip": flip, "predictor": inner or {"name": "whole"}}))


def lopsided(image: Tensor) -> Outputs:
    """Neither pixelwise nor symmetric: each pixel minus its left neighbour, at half the resolution."""
    values = image.float() / 32
    return Outputs((values - values.roll(1, -1))[..., ::2, ::2])


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture that survives resizing."""
    coarse = torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 9), st.booleans())
def test_scale_one_without_flip_is_the_inner_predictor(height: int, width: int, seed: int, windows: bool) -> None:
    inner = {"name": "sliding", "window": [5, 4]} if windows else {"name": "whole"}
    image = pictures(2, height, width, seed).image
    alone = (sliding((5, 4)) if windows else WHOLE)(lopsided, image)
    found = multi_scale(**inner)(lopsided, image)
    torch.testing.assert_close(found.softmax(1), alone.softmax(1))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, height, width))
    best, second = alone.topk(2, 1).values.unbind(1)
    clear = best - second > 1e-4
    assert torch.equal(found.argmax(1)[clear], alone.argmax(1)[clear])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(2, 15), st.integers(2, 15), st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.6]), min_size=1, unique=True))
def test_with_flip_a_mirrored_image_has_a_mirrored_answer(height: int, width: int, scales: list[float]) -> None:
    predictor, image = multi_scale(tuple(scales), True), pictures(1, height, width).image
    straight, mirrored = predictor(lopsided, image), predictor(lopsided, image.flip(-1)).flip(-1)
    # resizing a mirrored image rounds some pixels to the neighbouring value: 1/32 in logits, twice
    torch.testing.assert_close(straight.softmax(1), mirrored.softmax(1), atol=0.03 if scales != [1.0] else 1e-6, rtol=0)
    if scales == [1.0]:
        without = multi_scale()(lopsided, image), multi_scale()(lopsided, image.flip(-1)).flip(-1)
        assert not torch.allclose(*without)


def test_probabilities_are_averaged_not_logits() -> None:
    answers = iter([torch.tensor([4.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])])

    def network(image: Tensor) -> Outputs:
        return Outputs(next(answers).view(1, 3, 1, 1).expand(1, 3, *image.shape[-2:]))

    found = multi_scale((1.0, 2.0))(network, pictures(1, 2, 3).image).exp()
    expected = (torch.tensor([4.0, 0.0, 0.0]).softmax(0) + torch.tensor([0.0, 1.0, 0.0]).softmax(0)) / 2
    torch.testing.assert_close(found, expected.view(1, 3, 1, 1).expand(1, 3, 2, 3))


def test_impossible_classes_stay_finite() -> None:
    certain = Outputs(torch.tensor([500.0, 0.0, -500.0]).view(1, 3, 1, 1))
    found = multi_scale()(lambda image: certain, pictures(1, 2, 3).image)
    assert found.isfinite().all()
    assert (found.argmax(1) == 0).all()


def test_copies_have_the_scaled_sizes_and_the_pictures_bytes() -> None:
    seen: list[Tensor] = []

    def network(image: Tensor) -> Outputs:
        seen.append(image)
        return pixelwise(image)

    image = smooth(30, 41)
    found = multi_scale((0.5, 1.0, 1.5, 0.01), True)(network, image)
    sizes = [(15, 20), (15, 20), (30, 41), (30, 41), (45, 62), (45, 62), (1, 1), (1, 1)]
    assert [tuple(copy.shape[-2:]) for copy in seen] == sizes
    assert {copy.dtype for copy in seen} == {torch.uint8}
    assert all(torch.equal(left, right.flip(-1)) for left, right in zip(seen[::2], seen[1::2], strict=True))
    assert torch.equal(seen[2], image)
    assert (seen[0].float().mean() - image.float().mean()).abs() < 2
    assert found.shape == (1, 3, 30, 41)
    near = multi_scale((0.75, 1.0, 1.5), True)(pixelwise, image).softmax(1)
    torch.testing.assert_close(near, WHOLE(pixelwise, image).softmax(1), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": []}, "scales: is .*at least 1"),
        ({"scales": [0]}, "scales.0: is 0; .* greater than 0"),
        ({"scales": [1, 1.0]}, "a repeated scale would count twice"),
        ({"predictor": {"name": "slidin"}}, "predictor: 'slidin' is no Predictor here. Did you mean 'sliding'"),
        ({"predictor": {"name": "sliding"}}, "predictor.window: is required"),
        ({"predictor": {"name": "sliding", "window": [4, 4], "strid": [2, 2]}}, "predictor.strid: .* did you mean 'stride'"),
        ({"predictor": {"window": [4, 4]}}, "predictor: needs a name"),
        ({"predictor": {"name": "multi_scale"}}, "predictor: is multi_scale again"),
    ],
)
def test_wrong_copies_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_predictor({"name": "multi_scale", **values})


def test_a_recipe_keeps_the_nested_predictor() -> None:
    recipe = tiny(evaluation={"predictor": {"name": "multi_scale", "predictor": {"name": "sliding", "window": [16, 24]}}})
    again = build(plain(recipe))
    assert again == recipe
    assert again.evaluation.predictor.predictor.window == (16, 24)
    assert fingerprint(again) == fingerprint(recipe) != fingerprint(tiny())


# --- read by rows


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_rows_are_those_of_the_whole_map(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 19), st.integers(1, 19)))
    window = data.draw(st.tuples(st.integers(1, 21), st.integers(1, 21)))
    stride = data.draw(st.one_of(st.none(), st.tuples(*(st.integers(1, side) for side in window))))
    pad = data.draw(st.sampled_from(["corner", "centre"]))
    corners = data.draw(st.booleans())

    def coarse(image: Tensor) -> Outputs:
        return Outputs(lopsided(image).logits, align_corners=corners)

    image = pictures(2, height, width).image
    for predictor in (WHOLE, Sliding(Sliding.Config(window=window, stride=stride, pad=pad)), multi_scale((1.0, 0.5))):
        expected, found = predictor(coarse, image), predictor.read(coarse, image)
        for one, logits in zip(expected, found, strict=True):
            assert logits.shape == one.shape
            for rows in (slice(0, height), slice(height // 2, height // 2 + 1)):
                torch.testing.assert_close(logits.at(rows), one[:, rows])
            best, second = one.topk(2, 0).values
            assert torch.equal(logits.labels()[best - second > 1e-5], labels(one)[best - second > 1e-5])


def test_evaluation_holds_no_map_of_the_images_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def large(*_: object) -> Tensor:
        raise AssertionError("a map of the image's size")

    batch = pictures(3, 40, 60)
    split = replace(batch, ids=("a", "b", "c"))
    expected = [evaluate(lopsided, [split], K, p, teacher=contrary) for p in (WHOLE, sliding((16, 24)))]
    monkeypatch.setattr(Outputs, "at", large)
    monkeypatch.setattr("kd.evaluate.logits.PART", 200)
    found = [evaluate(lopsided, [split], K, p, teacher=contrary) for p in (WHOLE, sliding((16, 24)))]
    for one, other in zip(found, expected, strict=True):
        assert tell(one.agreement, "abc") == tell(other.agreement, "abc")  # type: ignore[arg-type]
        numbers = [{key: value for key, value in of.scores("abc").items() if isinstance(value, float)} for of in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


def test_a_predictor_of_ones_own_is_read_as_it_predicts() -> None:
    class Negative(Whole):
        def __call__(self, network: Any, image: Tensor) -> Tensor:
            return -super().__call__(network, image)

    image = pictures(1).image
    assert torch.equal(Negative(Whole.Config()).read(pixelwise, image)[0].whole(), -WHOLE(pixelwise, image)[0])


def test_a_class_that_is_never_meant_is_no_trouble() -> None:
    def certain(image: Tensor) -> Outputs:
        maps = lopsided(image).logits.clone()
        maps[:, 1] = -torch.inf
        return Outputs(maps.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :6, :8])

    assert (WHOLE.read(certain, pictures(1, 6, 8).image)[0].labels() != 1).all()


# --- the evaluator


def equal(one: Evaluation, other: Evaluation) -> None:
    assert one.counts.ids == other.counts.ids
    for table, twin in ((one.counts, other.counts), (one.calibration, other.calibration)):
        assert table is not None
        assert twin is not None
        for name, array in table.arrays().items():
            np.testing.assert_array_equal(array, twin.arrays()[name])


def test_counts_are_those_of_the_argmax() -> None:
    batch = pictures(2)
    found = evaluate(pixelwise, [batch], K, WHOLE)
    assert found.counts.ids == ("image0", "image1")
    for row, name in enumerate(found.counts.ids):
        where = batch.ids.index(name)
        guess, truth = batch.image[where].long().argmax(0), batch.target[where]
        for c in range(K):
            kept = truth != 255
            assert found.counts.tp[row, c] == ((guess == c) & (truth == c)).sum()
            assert found.counts.fp[row, c] == ((guess == c) & (truth != c) & kept).sum()
            assert found.counts.fn[row, c] == ((guess != c) & (truth == c)).sum()
    assert found.calibration is not None
    assert found.calibration.ids == found.counts.ids


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batch_size_makes_no_difference(size: int) -> None:
    batch = pictures(5)
    split = [part(batch, slice(start, start + size)) for start in range(0, 5, size)]
    equal(evaluate(pixelwise, split, K, WHOLE), evaluate(pixelwise, [batch], K, WHOLE))


def contrary(image: Tensor) -> Outputs:
    """A teacher that thinks the opposite."""
    return Outputs(-image.float())


def test_processes_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pictures(5)
    alone = evaluate(pixelwise, [batch], K, WHOLE, teacher=contrary)
    shares = [[part(batch, slice(0, 3))], [part(batch, slice(2, 5))], []]  # one image twice, one process without any
    tables = [evaluate(pixelwise, share, K, WHOLE, teacher=contrary) for share in shares]
    others = {
        "Counts": [t.counts for t in tables[1:]],
        "Calibration": [t.calibration for t in tables[1:]],
        "Agreement": [t.agreement for t in tables[1:]],
    }
    monkeypatch.setattr(evaluator, "gather", lambda table: [table, *others[type(table).__name__]])
    together = evaluate(pixelwise, shares[0], K, WHOLE, teacher=contrary)
    equal(together, alone)
    assert together.agreement is not None
    assert alone.agreement is not None
    assert tell(together.agreement, "abc") == tell(alone.agreement, "abc")
    names = ("road", "sky", "bus")
    assert together.scores(names) == alone.scores(names)


def test_one_id_for_two_images_is_refused() -> None:
    batch = pictures(2)
    same = replace(batch, ids=("a", "a"))
    with pytest.raises(ValueError, match="id 'a' names images with different labels"):
        evaluate(pixelwise, [same], K, WHOLE)
    with pytest.raises(ValueError, match="a batch of 2 images has 0 ids"):
        evaluate(pixelwise, [replace(batch, ids=())], K, WHOLE)


def test_a_strange_label_is_named_with_its_image() -> None:
    batch = pictures(2)
    batch.target[1, 0, 0] = K
    with pytest.raises(ValueError, match=f"image 'image1': target holds {K}; labels are 0 to {K - 1}"):
        evaluate(pixelwise, [batch], K, WHOLE)


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits are \(1, 3, 5, 7\), expected \(1, 4, 5, 7\)"):
        evaluate(pixelwise, [pictures(1)], K + 1, WHOLE)


def test_broken_weights_are_told() -> None:
    with pytest.raises(FloatingPointError, match="NaN"):
        evaluate(lambda image: Outputs(pixelwise(image).logits * torch.nan), [pictures(1)], K, WHOLE)


def test_no_graph_is_built_and_calibration_is_optional() -> None:
    weight = torch.ones((), requires_grad=True)
    graphs: list[bool] = []

    class Watch(Predictor):
        def __call__(self, network: object, image: Tensor) -> Tensor:
            logits = pixelwise(image).logits * weight
            graphs.append(logits.requires_grad)
            return logits

    batch = pictures(3)
    split = [part(batch, slice(0, 2)), part(batch, slice(2, 3))]
    found = evaluate(pixelwise, split, K, Watch(Predictor.Config()), calibration=False)
    assert graphs == [False, False]
    assert found.calibration is None
    assert found.scores(("a", "b", "c"))["ECE"] is None


def test_a_teacher_is_compared_pixel_by_pixel() -> None:
    batch, more = pictures(3), pictures(5, seed=1)
    more = replace(more, ids=tuple(f"other{i}" for i in range(5)))
    found = evaluate(pixelwise, [batch, more], K, WHOLE, teacher=contrary)
    assert found.agreement is not None
    expected = {name: dict.fromkeys(CASES, 0) for name in "abc"}
    same = labelled = 0
    for image, target in [*zip(batch.image, batch.target, strict=True), *zip(more.image, more.target, strict=True)]:
        mine, theirs = image.float().argmax(0), (-image.float()).argmax(0)
        for own, other, label in zip(*(values.flatten().tolist() for values in (mine, theirs, target)), strict=True):
            if label != 255:
                case = {(1, 1): "both", (0, 1): "teacher", (1, 0): "student", (0, 0): "neither"}[own == label, other == label]
                expected["abc"[label]][case] += 1
                same, labelled = same + (own == other), labelled + 1
    assert tell(found.agreement, "abc") == {"same": pytest.approx(100 * same / labelled), "classes": expected}
    for number, name in enumerate("abc"):  # the counts know the student's side
        cases = expected[name]
        assert cases["both"] + cases["student"] == found.counts.tp[:, number].sum()
        assert sum(cases.values()) == found.counts.truth[:, number].sum()
    assert evaluate(pixelwise, [batch], K, WHOLE).agreement is None


def test_reliability_bins_know_accuracy_and_confidence() -> None:
    batch = pictures(6)
    found = evaluate(pixelwise, [batch], K, WHOLE)
    told = found.scores("abc")["reliability"]
    confidence, guess = (batch.image.float() / 32).softmax(1).max(1)
    keep = batch.target != 255
    confidence, right = confidence[keep], (guess == batch.target)[keep].float()
    places = (confidence * 10).int().clamp(max=9)
    for number in range(10):
        inside = places == number
        assert told["pixels"][number] == int(inside.sum())
        if told["pixels"][number]:
            assert told["accuracy"][number] == pytest.approx(100 * right[inside].mean().item(), abs=1e-3)
            assert told["confidence"][number] == pytest.approx(100 * confidence[inside].mean().item(), abs=1e-3)
        else:
            assert told["accuracy"][number] is told["confidence"][number] is None
    assert sum(told["pixels"]) == int(keep.sum())
    gaps = [n * abs(a - c) for n, a, c in zip(*told.values(), strict=True) if n]
    assert sum(gaps) / sum(told["pixels"]) == pytest.approx(found.scores("abc")["ECE"])


def test_perfect_blank_and_absent() -> None:
    image = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    image[:, 0] = 255  # certain of class 0
    target = torch.tensor([[[0, 0], [0, 255]], [[255, 255], [255, 255]]])
    found = evaluate(lambda x: Outputs(x.float()), [Batch(image, target, ("a", "b"))], K, WHOLE)
    scores = found.scores(("road", "sky", "bus"))
    assert (scores["mIoU"], scores["mIoU_I"], scores["mIoU_C"], scores["accuracy"]) == (100, 100, 100, 100)
    assert (scores["ECE"], scores["SCE"], scores["ECE_I"], scores["SCE_I"]) == (0, 0, 0, 0)
    assert (scores["absent_classes"], scores["images"], scores["skipped_images"]) == (2, 1, 1)
    blank = evaluate(lambda x: Outputs(x.float()), [Batch(image[1:], target[1:], ("b",))], K, WHOLE)
    assert blank.scores(("road", "sky", "bus"))["mIoU"] is None
