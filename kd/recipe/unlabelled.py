"""The part of a recipe on images without labels."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from kd.config import Config


class Unlabelled(Config):
    """Images without labels in every batch, on which the teacher's soft labels are all there is to learn.

    ``splits`` of the data set, whose labels, where there are any, are never read; ``share`` of each batch that they are, evenly
    spread over it (1: no labels at all). Terms on hard labels see labelled pixels only. ``confidence``: pixels of theirs where
    the teacher's first class has a lower probability, at the grid of its logits, take no part in the others either, but where
    a method looks at whole maps (its card has no ``kd_mask``).
    ``temperature`` divides the teacher's logits there, before all else; below 1 it sharpens them.
    """

    splits: tuple[str, ...] = Field(("unlabelled",), min_length=1)
    share: float = Field(0.5, gt=0, le=1)
    confidence: float = Field(0.0, ge=0, lt=1)
    temperature: float = Field(1.0, gt=0)

    @field_validator("splits")
    @classmethod
    def _each_once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [split for split in splits if splits.count(split) > 1]:
            raise ValueError(f"names {twice[0]} twice; its images would be seen twice as often as others, so name it once")
        return splits


def check_unlabelled(recipe: Any) -> None:
    """Refuse what cannot be learnt or measured without labels, or would be measured on what was trained on.

    Raises:
        ValueError: with the remedy.
    """
    if not recipe.evaluation.measures and recipe.teacher is not None and recipe.teacher.floor:
        raise ValueError(
            f"teacher.floor is {recipe.teacher.floor:g}, but evaluation.select is none, so that nothing measures the teacher; "
            "name a split with labels, or set teacher.floor=0"
        )
    if recipe.unlabelled is not None:
        _check(recipe, recipe.unlabelled, recipe.schedule.batch)


def _check(recipe: Any, asked: Unlabelled, batch: int) -> None:
    if recipe.method is None:
        raise ValueError(
            "unlabelled has splits, but there is no method, and a loss on hard labels learns nothing from images without any; "
            "name a method that distils, e.g. kd or jml_kd, or set unlabelled=null"
        )
    if asked.share == 1 and recipe.loss:
        raise ValueError(
            f"unlabelled.share is 1, so that no pixel has a label, but loss ({', '.join(recipe.loss)}) reads labels; lower the "
            "share, or drop loss and its weights from the recipe"
        )
    if abs(batch * asked.share - round(batch * asked.share)) > 1e-6 or round(batch * asked.share) == 0:
        near = ", ".join(f"{number / batch:g}" for number in _near(batch * asked.share, batch))
        raise ValueError(
            f"unlabelled.share is {asked.share:g}, {batch * asked.share:g} images of a batch of {batch}; set it so that their "
            f"number is whole, e.g. {near}"
        )
    for key in ("select", "report"):
        if (split := getattr(recipe.evaluation, key)) in asked.splits:
            raise ValueError(
                f"unlabelled.splits holds {split}, on which evaluation.{key} measures; nothing is measured on what was trained "
                f"on, labels or not. Take {split} out of unlabelled.splits, or set evaluation.{key} to another split"
            )


def _near(images: float, batch: int) -> list[int]:
    return sorted({max(1, int(images)), min(batch, int(images) + 1)})
