"""The procedural data set: pure, complete, of any size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd.config import ConfigError, validate
from kd.data.shapes import Shapes
from kd.types import IGNORE


def shapes(split: str = "train", **knobs: Any) -> Shapes:
    return Shapes(validate(Shapes.Config, {"name": "shapes", "size": (40, 56), **knobs}), split)


def test_reading_is_a_function_of_seed_split_and_number() -> None:
    image, labels = shapes().read(3)
    again = shapes().read(3)
    assert torch.equal(image, again[0])
    assert torch.equal(labels, again[1])
    others = [shapes().read(4), shapes("val").read(3), shapes(seed=1).read(3)]
    assert all(not torch.equal(image, other[0]) for other in others)


@pytest.mark.parametrize("size", [(32, 32), (37, 61), (64, 96), (131, 40)])
def test_types_sizes_and_labels(size: tuple[int, int]) -> None:
    data = shapes(size=size, val=5)
    image, labels = data.read(0)
    assert image.dtype == labels.dtype == torch.uint8
    assert image.shape == (3, *size)
    assert labels.shape == size
    assert set(labels.unique().tolist()) <= {*range(len(data.classes)), IGNORE}
    assert len({data.identity(k) for k in range(5)}) == 5


def test_every_class_occurs_and_some_are_rare() -> None:
    counts = sum(torch.bincount(shapes().read(k)[1].flatten().long(), minlength=256) for k in range(150))
    shares = counts[: len(Shapes.classes)] / counts.sum()
    assert (shares > 0).all()
    assert shares[1:].max() > 3 * shares[1:].min()
    assert len(Shapes.classes) == len(Shapes.colours) == len(set(Shapes.colours))


def test_the_border_can_be_left_out() -> None:
    with_border = torch.stack([shapes().read(k)[1] for k in range(10)])
    without = torch.stack([shapes(border=0).read(k)[1] for k in range(10)])
    assert (with_border == IGNORE).any()
    assert not (without == IGNORE).any()


@pytest.mark.parametrize("size", [(31, 64), (64, 8)])
def test_too_small_is_told(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"size: is .* at least 32 pixels.*size: \[64, 96\]"):
        shapes(size=size)


def test_numbers_outside_the_split_are_refused() -> None:
    with pytest.raises(IndexError, match=r"val has images 0\.\.3, but 4"):
        shapes("val", val=4).read(4)
