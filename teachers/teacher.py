"""What a teacher is: frozen, in eval mode, with its own normalisation; its classes come in the data set's order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.config import ConfigError, Named
from kd.content import ContentPath
from kd.data.bands import Bands
from kd.types import Batch, Outputs, Sizes, check_image
from teachers.class_groups import Groups, channels_of, merged
from teachers.foreign import ClassesError
from teachers.steps import Asked, quickened


class Teacher(nn.Module, ABC):
    """Base of the teachers: callable, a batch or its images to ``Outputs``; never trained, never in train mode.

    ``mark`` identifies weights that come from a file, so that a replaced teacher is noticed; ``cached`` says how its soft
    labels were kept, where they were. ``sizes`` says what the outputs look like; ``classes`` what the channels mean, which is
    the data set's order. A subclass loads its network, passes its own classes on, and implements :meth:`answer` in its own
    order; it ``takes`` images of so many channels (None: its parts tell), ``learned`` is how those were read, where that is
    known. Where only its features are asked for no ``classes``
    are wanted, and its own stay.

    Raises:
        ConfigError: the classes are not those of the data set.
    """

    class Config(Named):
        """``floor``: the least mIoU (percent, on ``evaluation.select``) below which a run refuses to distil.

        ``precision``: what it computes in while it teaches; ``step`` is the steps' own, ``schedule.precision``. ``cache``: the
        directory of its soft labels, where ``kd cache-teacher`` has written them. ``channels``: which of the images' it is
        shown, in its order, e.g. ``[0, 1, 2]`` (null: all).

        ``classes``: which of the teacher's classes make one of the data set's, ``{road: [road, lane marking]}``, where it has
        more or others: their probabilities are summed. A class without an entry is the teacher's of its own name; what no class
        takes is dropped, and the rest renormalised, in each pixel of the teacher's own grid.
        """

        floor: float = Field(default=0.0, ge=0, le=100)
        precision: Literal["step", "fp32", "bf16"] = "step"
        cache: ContentPath | None = None
        channels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
        classes: Groups | None = None

    order: Tensor
    takes: int | None = 3
    learned: Bands | None = None

    def __init__(self, config: Any, own: tuple[str, ...], classes: tuple[str, ...], sizes: Sizes, source: str) -> None:
        super().__init__()
        own, classes = tuple(own), tuple(classes) or tuple(own)
        self.config, self.classes, self.sizes, self.source = config, classes, sizes, source
        self.shown = config.channels
        self.mark: str | None = None
        self.cached: str | None = None
        groups = getattr(config, "classes", None)
        self.groups = channels_of(own, classes, groups, source) if isinstance(groups, Mapping) else None
        if self.groups is not None:
            own, self.sizes = classes, replace(sizes, classes=len(classes))
        self.reorders = own != classes
        self.register_buffer("order", torch.tensor(class_order(own, classes, source)), persistent=False)

    @property
    def knows_classes(self) -> bool:
        """Whether it has logits, by which it can be scored; a teacher without gives features alone."""
        return self.sizes.classes > 0

    @abstractmethod
    def answer(self, image: Tensor) -> Outputs:
        """The source's own outputs for images ``B 3 H W``, uint8 or floats in [0, 1], of the channels that it is shown."""

    @torch.no_grad()
    def look(self, image: Tensor) -> Outputs:
        """Outputs for images ``B 3 H W``, uint8 or floats in [0, 1], classes in the data set's order."""
        outputs = self.answer(image if self.shown is None else image[:, list(self.shown)])
        if not self.reorders and self.groups is None:
            return outputs
        aux = None if outputs.aux_logits is None else self._in_order(outputs.aux_logits)
        return replace(outputs, logits=self._in_order(outputs.logits), aux_logits=aux)

    def _in_order(self, logits: Tensor) -> Tensor:
        return logits[:, self.order] if self.groups is None else merged(logits, self.groups)

    if TYPE_CHECKING:  # torch's own says nothing about what comes in and out

        def __call__(self, batch: Batch | Tensor) -> Outputs:
            """See :meth:`forward`."""

    def forward(self, batch: Batch | Tensor) -> Outputs:
        """Outputs, without gradient, for a batch or for images ``B 3 H W``, RGB, uint8 or floats in [0, 1].

        Raises:
            ValueError: the images have another shape, or floats outside [0, 1].
        """
        image = _image(batch)
        check_image(image, self.takes if self.shown is None else None)
        return self.look(image)

    def check_channels(self, there: int, key: str = "teacher") -> None:
        """Refuse images of ``there`` channels where its network takes others than it would be shown of them.

        Raises:
            ConfigError: with the remedy; ``key`` is where the teacher stands in the recipe.
        """
        if self.shown is not None and max(self.shown) >= there:
            raise ConfigError(f"{key}.channels: is {list(self.shown)}; the images have {there}, which are 0 to {there - 1}")
        seen = there if self.shown is None else len(self.shown)
        if self.takes is not None and seen != self.takes:
            choice = f"which with {key}.channels={list(range(self.takes))}" if there > self.takes else f"{key}.channels"
            raise ConfigError(
                f"{key}: {self.source} takes images of {self.takes} channels and is shown {seen}; say {choice}, in the order "
                "that it was trained on, or train a teacher on this data"
            )

    def remarks(self, bands: Bands) -> Iterator[str]:
        """What is worth knowing where it, or one inside it, is shown such images."""
        seen = bands.picked(self.shown)
        if self.learned is not None and (told := self.learned.strange(seen)):
            yield f"teacher {self.source} {told}"
        for inner in self.children():
            if isinstance(inner, Teacher):
                yield from inner.remarks(seen)

    def for_steps(self, precision: torch.dtype, channels_last: bool = True, compiled: bool = False) -> Asked:
        """This teacher as training steps ask it, see :func:`teachers.steps.quickened`; ``precision`` is the steps' own."""
        own = {"step": precision, "fp32": torch.float32, "bf16": torch.bfloat16}[self.config.precision]
        return quickened(self, own, channels_last, compiled)

    def check_training(self, recipe: Any, data: Any) -> None:
        """Refuse what it cannot answer, before anything is written: ``data`` is the split whose crops the steps will show.

        Raises:
            ConfigError: with the remedy. Most teachers answer any image.
        """

    def probabilities(self, batch: Batch | Tensor, temperature: float = 1.0, size: tuple[int, int] | None = None) -> Tensor:
        """Soft labels ``softmax(z / T)``, ``B K H W``; at the images' resolution unless ``size`` says otherwise."""
        height, width = size or _image(batch).shape[-2:]
        return (self(batch).at((int(height), int(width))) / temperature).softmax(1)

    def check_floor(self, miou: float | None) -> None:
        """Refuse to teach with less than the floor (percent).

        Raises:
            ConfigError: with the usual reasons.
        """
        if (miou or 0.0) < self.config.floor:
            raise ConfigError(
                f"teacher.floor: {self.source} reaches {miou if miou is None else round(miou, 2)} mIoU on this data, below the "
                f"floor of {self.config.floor}. Check that it was trained on these classes, in this order, and with this "
                "normalisation; or lower teacher.floor"
            )

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002
        """Stays in eval mode, whatever is asked: batch norm and dropout must not move."""
        return super().train(False)


def _image(batch: Batch | Tensor) -> Tensor:
    return batch if isinstance(batch, Tensor) else batch.image


def class_order(own: tuple[str, ...], wanted: tuple[str, ...], source: str) -> list[int]:
    """For each class of the data set the teacher's channel.

    Raises:
        ClassesError: a class is missing on either side.
    """
    if sorted(own) != sorted(wanted):
        missing = ", ".join(sorted(set(wanted) - set(own))) or "none"
        foreign = ", ".join(sorted(set(own) - set(wanted))) or "none"
        raise ClassesError(
            f"teacher: {source} knows {len(own)} classes, the data set has {len(wanted)} (missing in the teacher: {missing}; "
            f"unknown to the data set: {foreign}). Train a teacher on this data set, or choose another checkpoint; or say "
            "which of its classes make each of the data set's: 'teacher.classes={road: [road, lane marking]}', {} to drop the "
            "unknown ones"
        )
    if own == wanted:
        return list(range(len(own)))
    return [own.index(name) for name in wanted]
