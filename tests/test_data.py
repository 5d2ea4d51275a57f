"""What a training step sees follows from (seed, step) alone: not from processes, workers, parts or restarts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from kd.config import ConfigError, InputError
from kd.data.augment import Augmentation
from kd.data.build import open_split
from kd.data.dataset import Dataset, LabelError, check_labels
from kd.data.loader import Draw, Order, Portions, training_batches, whole_batches
from kd.data.shapes import Shapes
from kd.types import Batch

CROP = Augmentation(crop=(16, 24), photometric=0.2)


class Tiles(Dataset):
    """Images in memory; image ``i`` starts with the value ``i``."""

    classes, colours = ("a", "b"), ((0, 0, 0), (9, 9, 9))

    def __init__(self, length: int, sizes: tuple[tuple[int, int], ...] = ((20, 30),)) -> None:
        self.length, self.sizes = length, sizes

    def __len__(self) -> int:
        return self.length

    def identity(self, index: int) -> str:
        return f"tile{index}"

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        size = self.sizes[index % len(self.sizes)]
        source = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=source)
        image[0, 0, 0] = index
        return image, image[1] % 2


def training(**knobs: Any) -> list[Batch]:
    return list(training_batches(Tiles(7), CROP, **{"seed": 3, "batch": 4, "first": 0, "last": 4, **knobs}))


def content(batches: list[Batch]) -> list[tuple]:
    """Everything in the batches, comparable byte for byte."""
    return [(b.image.numpy().tobytes(), b.target.numpy().tobytes(), b.ids, b.geometry) for b in batches]


def told(action: Callable[[], object]) -> InputError:
    """The error of an action, without the frames that would keep a loader's workers alive."""
    try:
        action()
    except InputError as error:
        return error.with_traceback(None)
    raise AssertionError("no error was raised")


# --- the order


@pytest.mark.parametrize(("length", "batch"), [(10, 4), (3, 8), (7, 7), (1, 2)])
def test_each_pass_is_a_permutation_and_batches_span_passes(length: int, batch: int) -> None:
    order = Order(length, batch, seed=0)
    stream = list(chain.from_iterable(order.step(step) for step in range(3 * length)))
    assert len(stream) == 3 * length * batch
    for epoch in range(3 * batch):
        part = stream[epoch * length : (epoch + 1) * length]
        assert {draw.epoch for draw in part} == {epoch}
        assert sorted(draw.number for draw in part) == list(range(length))


def test_passes_and_seeds_differ_in_order() -> None:
    def passes(seed: int) -> list[list[int]]:
        order = Order(20, 20, seed)
        return [[draw.number for draw in order.step(step)] for step in range(3)]

    orders = [tuple(one) for seed in (0, 1) for one in passes(seed)]
    assert len(set(orders)) == 6
    assert passes(0) == passes(0)


def test_steps_may_be_asked_for_in_any_order() -> None:
    order, steps = Order(5, 3, seed=1), [4, 0, 2, 9, 2]
    assert [order.step(step) for step in steps] == [Order(5, 3, seed=1).step(step) for step in steps]


# --- portions


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_parts_in_order_are_the_batch_of_one_process(world: int, accumulate: int) -> None:
    order = Order(10, 24, seed=0)
    shares = [list(Portions(order, 0, 5, accumulate, rank, world)) for rank in range(world)]
    assert {len(part) for share in shares for part in share} == {24 // world // accumulate}
    whole: list[Draw] = []
    for parts in zip(*shares, strict=True):  # one accumulated part of every rank
        whole += chain.from_iterable(parts)
    assert whole == list(chain.from_iterable(order.step(step) for step in range(5)))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("first", [0, 1, 4, 6])
def test_starting_late_is_the_tail_of_starting_at_zero(first: int, accumulate: int) -> None:
    late = Portions(Order(10, 4, seed=0), first, 6, accumulate, 1, 2)
    tail = list(Portions(Order(10, 4, seed=0), 0, 6, accumulate, 1, 2))[first * accumulate :]
    assert list(late) == tail
    assert len(late) == len(tail) == (6 - first) * accumulate


@pytest.mark.parametrize(("batch", "accumulate", "world"), [(10, 1, 4), (4, 3, 1), (6, 2, 2), (2, 4, 1)])
def test_a_batch_that_does_not_divide_is_refused(batch: int, accumulate: int, world: int) -> None:
    rule = rf"schedule.batch: is {batch}; {world} processes x {accumulate} .* multiple of {accumulate * world}"
    with pytest.raises(ConfigError, match=rule):
        Portions(Order(9, batch, 0), 0, 1, accumulate, 0, world)


# --- training batches


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    assert content(training(workers=workers)) == content(training())


def test_ranks_and_parts_hold_the_samples_of_the_whole_batch() -> None:
    shares = [training(rank=rank, world=2, accumulate=2) for rank in range(2)]
    images = torch.cat([batch.image for parts in zip(*shares, strict=True) for batch in parts])
    assert torch.equal(images, torch.cat([batch.image for batch in training()]))


def test_a_restart_and_the_global_generator_change_nothing() -> None:
    torch.manual_seed(0)
    full = content(training())
    torch.manual_seed(1)
    assert content(training(first=2)) == full[2:]
    assert content(training(seed=4)) != full


def test_an_image_is_cut_anew_in_each_pass() -> None:
    batches = training(last=14)  # 14 x 4 samples are 8 passes over 7 images
    cuts = [geometry for b in batches for name, geometry in zip(b.ids, b.geometry, strict=True) if name == "tile3"]
    assert len(cuts) == len(set(cuts)) == 8


def test_labels_of_any_data_set_are_looked_at_before_they_train() -> None:
    class Wrong(Tiles):
        def read(self, index: int) -> tuple[Tensor, Tensor]:
            image, labels = super().read(index)
            return image, torch.full_like(labels, 77)

    with pytest.raises(LabelError, match=r"tile\d: .* pixels hold label 77; labels must be 0\.\.1, or 255"):
        list(training_batches(Wrong(7), CROP, seed=3, batch=4, first=0, last=1))


def test_batches_have_the_promised_types() -> None:
    batch = training(last=1)[0]
    assert (batch.image.shape, batch.image.dtype) == ((4, 3, 16, 24), torch.uint8)
    assert batch.target.shape == (4, 16, 24)
    assert batch.to("cpu").target.dtype == torch.int64
    assert len(batch) == len(batch.ids) == len(batch.geometry) == 4


# --- whole images


def read(batches: Any) -> list[int]:
    return [int(image[0, 0, 0]) for batch in batches for image in batch.image]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [7, 8, 1])
def test_two_ranks_see_every_image_exactly_once(length: int, batch: int, workers: int) -> None:
    shares = [read(whole_batches(Tiles(length), batch=batch, rank=r, world=2, workers=workers)) for r in range(2)]
    assert sorted(chain(*shares)) == list(range(length))
    assert shares[0] == list(range(0, length, 2))


@pytest.mark.parametrize(
    ("limit", "seen"),
    [
        (0, list(range(10))),
        (1, [0]),
        (4, [0, 2, 5, 7]),
        (9, list(range(9))),
        (10, list(range(10))),
        (99, list(range(10))),
    ],
)
@pytest.mark.parametrize("world", [1, 2])
def test_a_limit_spreads_over_the_data(limit: int, seen: list[int], world: int) -> None:
    shares = [read(whole_batches(Tiles(10), limit=limit, rank=rank, world=world)) for rank in range(world)]
    assert sorted(chain(*shares)) == seen


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_mixed_size_need_a_batch_of_one(workers: int) -> None:
    mixed = Tiles(4, ((20, 30), (18, 31)))
    assert [b.image.shape[-2:] for b in whole_batches(mixed, workers=workers)] == [(20, 30), (18, 31)] * 2
    error = told(lambda: list(whole_batches(mixed, batch=2, workers=workers)))
    assert type(error) is ConfigError
    assert str(error) == "evaluation.batch: is 2, but images differ in size (18x31, 20x30); set evaluation.batch=1"


# --- labels and splits


@pytest.mark.parametrize("value", [5, 254])
def test_labels_outside_the_classes_are_named(value: int) -> None:
    labels = torch.tensor([[0, 4, 255], [value, value, 1]], dtype=torch.uint8)
    with pytest.raises(LabelError, match=rf"street.png: 2 pixels hold label {value}; labels must be 0..4, or 255"):
        check_labels(labels, 5, "street.png")
    check_labels(labels.clamp(max=4), 5, "street.png")


def test_a_split_that_is_unknown_or_empty_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Shapes.Config(name="shapes", val=3)
    assert len(open_split(config, "val")) == 3
    with pytest.raises(ConfigError, match="no split 'dev'; its splits are train, val, test"):
        open_split(config, "dev")
    monkeypatch.setattr(Shapes, "__len__", lambda self: 0)
    with pytest.raises(ConfigError, match="the split 'val' of shapes is empty"):
        open_split(config, "val")
