"""A teacher that was asked before: its answers to training batches are read, everything else it answers itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.config import ConfigError
from kd.data.dataset import Dataset
from kd.recipe.schema import Recipe
from kd.types import Batch, Geometry, Outputs
from teachers.soft_labels.card import REMEDY, augmentation_of, data_mark, read_card, teacher_mark
from teachers.soft_labels.codes import decode
from teachers.soft_labels.files import FIELDS, names, read
from teachers.soft_labels.windows import window
from teachers.steps import Asked
from teachers.teacher import Teacher


class CachedTeacher(Teacher):
    """The teacher ``inner`` with its soft labels from a directory that ``kd cache-teacher`` wrote.

    A batch is answered from there with logits, and auxiliary logits where they were kept; embedding and pyramid are not there,
    so methods that read them are refused. Images alone (evaluation, previews) are answered by ``inner``.

    Raises:
        ConfigError: the directory holds none, or those of another teacher.
    """

    def __init__(self, inner: Teacher, folder: Path) -> None:
        card = read_card(folder)
        sizes = replace(inner.sizes, embedding=0, pyramid=(), pyramid_strides=(), aux=card.aux, stride=card.stride)
        config = inner.config.model_copy(update={"classes": None})  # the answers are in the data set's already
        super().__init__(config, inner.classes, inner.classes, sizes, f"{inner.source}, cached ({card.words})")
        self.mark, self.cached, self.inner, self.folder, self.card = inner.mark, card.words, inner, folder, card
        self.shown, self.takes = None, None  # the inner one chooses
        if card.teacher != teacher_mark(inner):
            raise ConfigError(
                f"teacher.cache: {folder} holds the soft labels of another teacher than {inner.source}, or of other weights of "
                f"it. {REMEDY}"
            )
        if card.classes != inner.classes:
            raise ConfigError(
                f"teacher.cache: {folder} was written for the classes {', '.join(card.classes)}; the data set has "
                f"{', '.join(inner.classes)}. {REMEDY}"
            )
        self.train(False)

    def check_channels(self, there: int, key: str = "teacher") -> None:
        """The teacher's own."""
        self.inner.check_channels(there, key)

    def answer(self, image: Tensor) -> Outputs:
        """The teacher's own."""
        return self.inner.look(image)

    def for_steps(self, precision: torch.dtype, channels_last: bool = True, compiled: bool = False) -> Asked:  # noqa: ARG002
        """Itself: reading knows no number format."""
        return self

    def check_training(self, recipe: Recipe, data: Dataset) -> None:
        """Refuse training on other images, or on other crops of them, than those that are there.

        Raises:
            ConfigError: with the remedy.
        """
        card, asked = self.card, augmentation_of(recipe)
        if card.kind == "crops" and asked["views"] != card.views:
            raise ConfigError(
                f"augmentation.views: is {asked['views']}, but {self.folder} holds {card.words}; set "
                f"augmentation.views={card.views}, or cache whole images: kd cache-teacher RECIPE --whole --to DIR"
            )
        if card.augmentation and card.augmentation != asked:
            keys = ", ".join(key for key in asked if asked[key] != card.augmentation.get(key))
            raise ConfigError(f"augmentation: the crops of {self.folder} were made otherwise ({keys}). {REMEDY}")
        if card.data != data_mark(recipe, data):
            raise ConfigError(
                f"teacher.cache: {self.folder} was written for other images than those of this data set's train split (names, "
                f"files and configuration are compared). {REMEDY}"
            )
        wanted = {data.identity(number) for number in range(len(data))}
        if missing := wanted - names(self.folder):
            raise ConfigError(
                f"teacher.cache: {self.folder} is not complete, {len(missing)} of {len(wanted)} images are missing or damaged, "
                f"e.g. {min(missing)}. Run the kd cache-teacher again that wrote it: it goes on where it stopped"
            )

    @torch.no_grad()
    def forward(self, batch: Batch | Tensor) -> Outputs:
        """Of a training batch what is on disk, on the batch's device; of images the teacher's own.

        Raises:
            InputError: a file is damaged.
        """
        if isinstance(batch, Tensor):
            return super().forward(batch)
        crop = (int(batch.image.shape[-2]), int(batch.image.shape[-1]))
        samples = [self._read(name, geometry, crop) for name, geometry in zip(batch.ids, batch.geometry, strict=True)]
        fields = {name: torch.stack([sample[name] for sample in samples]).to(batch.image.device) for name in samples[0]}
        if self.card.kind == "crops":
            fields = {name: decode(codes) for name, codes in fields.items()}
        return Outputs(fields["logits"], fields.get("aux_logits"), align_corners=self.card.align_corners)

    def _read(self, name: str, geometry: Geometry, crop: tuple[int, int]) -> dict[str, Tensor]:
        """Codes of a fixed crop, or the logits of any crop out of the image's, by field."""
        kind, fields = self.card.kind, FIELDS if self.card.aux else FIELDS[:1]
        view = geometry.view if kind == "crops" else 0
        codes, image = read(self.folder, name, kind, view, fields)
        if kind == "crops":
            return codes
        cells: Any = tuple(-(-side // self.sizes.stride) for side in crop)
        return {field: window(maps, image, geometry, crop, cells, self.card.align_corners) for field, maps in codes.items()}
