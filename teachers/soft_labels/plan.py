"""Before a teacher is asked: what is to be kept, whether the method can live on it, whether there is room for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from kd.config import ConfigError, InputError
from kd.data.dataset import Dataset
from kd.methods.build import build_method
from kd.networks.build import build_network
from kd.recipe.schema import Recipe
from kd.sealed import write_sealed
from teachers.soft_labels.card import NAME, Card, augmentation_of, data_mark, read_card, teacher_mark
from teachers.teacher import Teacher


def begin(recipe: Recipe, data: Dataset, teacher: Teacher, folder: Path, whole: bool, for_any: bool = False) -> Card:
    """Write the card of a directory, or see that the one there is the same.

    ``for_any`` method that reads logits, not just the recipe's: auxiliary ones are kept where there are any.

    Raises:
        ConfigError: the teacher has no logits, the method reads more than those, or the directory holds other soft labels.
        InputError: the directory is none, or holds something else.
    """
    if not teacher.knows_classes:
        raise ConfigError(
            f"teacher: {teacher.source} knows no classes, and so has no soft labels to keep; ask one that does, e.g. the "
            "teacher of a pair's logits"
        )
    _check_place(folder)
    card = Card(
        kind="images" if whole else "crops",
        views=1 if whole else recipe.augmentation.views,
        teacher=teacher_mark(teacher),
        data=data_mark(recipe, data),
        augmentation={} if whole else augmentation_of(recipe),
        classes=teacher.classes,
        stride=teacher.sizes.stride,
        align_corners=_align_corners(teacher, data.channels),
        aux=teacher.sizes.aux if for_any else _reads_aux(recipe, teacher),
    )
    if (folder / NAME).exists():
        _check_same(card, read_card(folder), folder)
    else:
        write_sealed(folder / NAME, card.model_dump(mode="json"))
    return card


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--to {folder}: is a file; name a directory")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NAME).exists():
        raise InputError(f"--to {folder}: holds something else than soft labels; name a new or an empty directory")


def check_room(card: Card, size: tuple[int, int], images: int, folder: Path) -> float:
    """About how many bytes will be written; ``size`` (H, W) of a crop, or of one of the images.

    Raises:
        InputError: the disk cannot hold them.
    """
    cells = -(-size[0] // card.stride) * -(-size[1] // card.stride)
    needed = images * card.views * len(card.classes) * cells * (2 if card.aux else 1)
    if needed > (free := shutil.disk_usage(folder).free):
        raise InputError(
            f"--to {folder}: {images} images need about {needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are free there. Name a "
            "directory on a larger disk, lower --views, or keep whole images: --whole"
        )
    return needed


def _reads_aux(recipe: Recipe, teacher: Teacher) -> bool:
    """Whether the recipe's method reads auxiliary logits; builds it for the pair, which checks that it reads no more."""
    student = build_network(recipe.student.model_copy(update={"pretrained": False}), len(teacher.classes)).sizes
    given = replace(teacher.sizes, embedding=0, pyramid=(), pyramid_strides=())
    crop = recipe.augmentation.crop
    return "aux_logits" in build_method(recipe.method, student.on_crop(*crop), given.on_crop(*crop)).needs


@torch.no_grad()
def _align_corners(teacher: Teacher, channels: int) -> bool:
    image = torch.zeros(1, channels, 64, 64, dtype=torch.uint8, device=teacher.order.device)
    return teacher.look(image).align_corners


def _check_same(new: Card, old: Card, folder: Path) -> None:
    mine, there = (card.model_dump() for card in (new, old))
    if keys := [key for key in mine if mine[key] != there[key]]:
        long = ("augmentation", "classes")
        told = "; ".join(key if key in long else f"{key}: {there[key]} there, {mine[key]} asked" for key in keys)
        raise ConfigError(f"--to {folder}: holds other soft labels ({told}); name another directory, or delete it")
