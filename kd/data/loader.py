"""Order and batches. What a training step sees is a pure function of (seed, step): workers and restarts change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from kd.config import ConfigError
from kd.data.augment import Augmentation, augment
from kd.data.dataset import Dataset, check_labels, has_strangers
from kd.data.joined import Joined
from kd.data.workers import Loader, at, prepare, settle
from kd.seeds import derive, generator
from kd.types import Batch, Geometry


class Draw(NamedTuple):
    """One sample of the stream: which image, in which pass over the data."""

    epoch: int
    number: int


class Order:
    """An endless stream of samples: one seeded permutation of the data set after the other.

    Batches may span two passes, so every batch is full. A step's samples do not depend on the number of processes.
    """

    def __init__(self, length: int, batch: int, seed: int) -> None:
        self.length, self.batch, self.seed = length, batch, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def _at(self, position: int) -> Draw:
        epoch, offset = divmod(position, self.length)
        if epoch != self._epoch:
            source = generator(self.seed, "order", epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.length, generator=source)
        return Draw(epoch, int(self._permutation[offset]))

    def step(self, step: int) -> list[Draw]:
        """The whole global batch of a step."""
        return [self._at(position) for position in range(step * self.batch, (step + 1) * self.batch)]


class Blend:
    """The order of a data set of ``known`` samples with labels and ``free`` ones behind them, each an endless stream.

    Of each batch ``share`` is of the latter, spread evenly over it, so that parts and processes get as many.
    """

    def __init__(self, known: int, free: int, batch: int, share: float, seed: int) -> None:
        self.batch, self.number, self.first = batch, round(batch * share), known
        self.known, self.free = Order(known, batch - self.number, seed), Order(free, self.number, derive(seed, "unlabelled"))

    def step(self, step: int) -> list[Draw]:
        """The whole global batch of a step."""
        known, free = iter(self.known.step(step)), iter(self.free.step(step))
        behind = (draw._replace(number=draw.number + self.first) for draw in free)
        before = [place * self.number // self.batch for place in range(self.batch + 1)]
        return [next(behind if later > now else known) for now, later in pairwise(before)]


def order_of(data: Dataset, batch: int, seed: int) -> Order | Blend:
    """How training goes through a data set."""
    if not isinstance(data, Joined):
        return Order(len(data), batch, seed)
    return Blend(data.known, len(data) - data.known, batch, data.share, seed)


def images_of_part(batch: int, accumulate: int, world: int) -> int:
    """Images that one of ``world`` processes sees at once, in each of its ``accumulate`` parts of a step.

    Raises:
        ConfigError: the global batch does not divide evenly.
    """
    if batch % (accumulate * world):
        raise ConfigError(
            f"schedule.batch: is {batch}; {world} processes x {accumulate} accumulated parts need a multiple of "
            f"{accumulate * world}, so that every part is equal"
        )
    return batch // (accumulate * world)


class Portions:
    """Batch sampler: this process's share of each step, in ``accumulate`` equal parts."""

    def __init__(self, order: Order | Blend, first: int, last: int, accumulate: int, rank: int, world: int) -> None:
        self.size = images_of_part(order.batch, accumulate, world)
        self.order, self.first, self.last = order, first, last
        self.accumulate, self.rank, self.world = accumulate, rank, world

    def __len__(self) -> int:
        return (self.last - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.first, self.last):
            draws = self.order.step(step)
            for part in range(self.accumulate):
                start = (part * self.world + self.rank) * self.size
                yield draws[start : start + self.size]


class Crops(TorchDataset[tuple[Tensor, Tensor, str, Geometry]]):
    """Augmented samples by :class:`Draw`."""

    def __init__(self, data: Dataset, config: Augmentation, seed: int) -> None:
        self.data, self.config, self.seed, self.classes = data, config, seed, len(data.classes)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor, str, Geometry]:
        name, views = self.data.identity(draw.number), self.config.views
        at(name)
        image, labels = self.data.read(draw.number)
        view = draw.epoch % views if views else 0
        fixed = ("view", view, name) if views else (self.seed, "augment", draw.epoch, draw.number)
        crop, target, geometry = augment(self.config, image, labels, generator(*fixed))
        if has_strangers(target, self.classes) and self.data.labelled(draw.number):
            check_labels(target, self.classes, name)
        return crop, target, name, geometry._replace(view=view)


class Whole(TorchDataset[tuple[Tensor, Tensor, str, Geometry]]):
    """Samples as they are, by number."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str, Geometry]:
        name = self.data.identity(index)
        at(name)
        image, labels = self.data.read(index)
        return image.contiguous(), labels, name, Geometry(int(labels.shape[0]), int(labels.shape[1]), 0, 0, False, 1.0)


def collate(samples: Sequence[tuple[Tensor, Tensor, str, Geometry]]) -> Batch:
    """Samples of one size to a batch; labels stay uint8 until they reach the device."""
    images, targets, ids, geometry = zip(*samples, strict=True)
    if len({image.shape for image in images}) > 1:
        found = ", ".join(sorted({f"{image.shape[1]}x{image.shape[2]}" for image in images}))
        raise ConfigError(f"evaluation.batch: is {len(images)}, but images differ in size ({found}); set evaluation.batch=1")
    return Batch(torch.stack(images), torch.stack(targets), ids, geometry)


def training_batches(
    data: Dataset,
    augmentation: Augmentation,
    *,
    seed: int,
    batch: int,
    first: int,
    last: int,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> Loader:
    """Batches of steps ``first`` to ``last - 1``, ``accumulate`` a step.

    Raises:
        ConfigError: the global batch does not divide evenly.
    """
    prepare(workers)
    portions = Portions(order_of(data, batch, seed), first, last, accumulate, rank, world)
    return Loader(
        Crops(data, augmentation, derive(seed, "crops")),
        batch_sampler=portions,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=settle,
    )


def numbered_batches(
    data: Dataset, numbers: Sequence[int], augmentation: Augmentation | None, batch: int = 1, workers: int = 0
) -> Loader:
    """Images by number, whole or (with ``augmentation``) all their fixed crops; no batch holds two images."""
    prepare(workers)
    views = range(augmentation.views if augmentation else 1)
    parts = [views[start : start + batch] for start in range(0, len(views), batch)]
    return Loader(
        Crops(data, augmentation, 0) if augmentation else Whole(data),
        batch_sampler=[[Draw(view, one) if augmentation else one for view in part] for one in numbers for part in parts],
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=settle,
    )


def whole_batches(
    data: Dataset, *, batch: int = 1, limit: int = 0, rank: int = 0, world: int = 1, workers: int = 0, pin: bool = False
) -> Loader:
    """Every image once over all processes, un-augmented, in order. ``limit`` spreads that many evenly over the data set."""
    prepare(workers)
    length = len(data)
    chosen = range(length) if not 0 < limit < length else [index * length // limit for index in range(limit)]
    return Loader(
        Whole(data),
        sampler=list(chosen)[rank::world],
        batch_size=batch,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=settle,
    )
