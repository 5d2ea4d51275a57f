"""The procedural data set: pure, complete, valid, at any size."""

from __future__ import annotations

import pytest
import torch

from kd.config import ConfigError, validate
from kd.data.dataset import check_labels
from kd.data.shapes import KINDS, SHARES, Shapes
from kd.types import IGNORE


def shapes(split: str = "train", **knobs: object) -> Shapes:
    return Shapes(Shapes.Config(**{"size": (48, 64), **knobs}), split)


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_same_question_same_bytes() -> None:
    first = shapes().read(7)
    asked_in_between = shapes()
    asked_in_between.read(3)
    assert same(first, asked_in_between.read(7))


def test_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    shapes().read(0)
    assert torch.equal(before, torch.get_rng_state())


def test_an_image_does_not_depend_on_the_number_of_images() -> None:
    assert same(shapes(train=10).read(3), shapes(train=1000).read(3))


@pytest.mark.parametrize(("split", "seed", "index"), [("train", 0, 8), ("val", 0, 7), ("test", 0, 7), ("train", 1, 7)])
def test_other_question_other_bytes(split: str, seed: int, index: int) -> None:
    image, _ = shapes().read(7)
    assert not torch.equal(image, shapes(split, seed=seed).read(index)[0])


def test_every_class_occurs_and_labels_are_valid() -> None:
    data, counts = shapes(), torch.zeros(256, dtype=torch.long)
    for index in range(200):
        _, labels = data.read(index)
        check_labels(labels, len(data.classes), data.identity(index))
        counts += torch.bincount(labels.flatten().long(), minlength=256)
    assert (counts[: len(data.classes)] > 0).all()
    assert 0.4 < counts[0] / counts.sum() < 0.85
    assert counts[1:8].max() > 1.5 * counts[1:8].min()


def test_the_tables_are_parallel() -> None:
    assert len(Shapes.classes) == len(Shapes.colours) == len(KINDS) == len(set(Shapes.colours))
    assert sum(SHARES) == pytest.approx(1)


@pytest.mark.parametrize("size", [(32, 32), (33, 77), (120, 41), (96, 128)])
def test_any_size(size: tuple[int, int]) -> None:
    image, labels = shapes(size=size).read(0)
    assert image.shape == (3, *size)
    assert labels.shape == size
    assert image.dtype == labels.dtype == torch.uint8
    assert image.float().std() > 5


def ignored(**knobs: object) -> int:
    data = shapes(**knobs)
    return sum(int((data.read(index)[1] == IGNORE).sum()) for index in range(10))


def test_border_width() -> None:
    assert ignored(border=0) == 0
    assert 0 < ignored(border=1) < ignored(border=2) < ignored(border=4)


def test_border_leaves_the_image_alone() -> None:
    plain, bordered = shapes(border=0).read(5), shapes(border=3).read(5)
    assert torch.equal(plain[0], bordered[0])
    kept = bordered[1] != IGNORE
    assert torch.equal(plain[1][kept], bordered[1][kept])


def test_a_border_parts_every_pair_of_labels() -> None:
    for index in range(20):
        _, labels = shapes(border=2).read(index)
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert not ((one != other) & (one != IGNORE) & (other != IGNORE)).any()


def test_knobs_of_difficulty() -> None:
    few, many = shapes(objects=1), shapes(objects=12)
    assert sum((few.read(i)[1] == 0).sum() for i in range(10)) > sum((many.read(i)[1] == 0).sum() for i in range(10))
    assert not torch.equal(shapes(noise=0).read(0)[0], shapes(noise=30).read(0)[0])
    assert torch.equal(shapes(noise=0).read(0)[1], shapes(noise=30).read(0)[1])


@pytest.mark.parametrize("size", [(16, 64), (64, 31), (0, 0)])
def test_too_small_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"^data\.size: is .* at least 32 pixels.*Write"):
        validate(Shapes.Config, {"size": size}, "data")


def test_splits_and_range() -> None:
    assert [len(shapes(split, train=5, val=3, test=2)) for split in Shapes.splits] == [5, 3, 2]
    assert len({shapes("val").identity(index) for index in range(64)}) == 64
    with pytest.raises(ValueError, match="no split 'dev'"):
        shapes("dev")
    for index in (-1, 3):
        with pytest.raises(IndexError, match=r"0\.\.2"):
            shapes("val", val=3).read(index)
