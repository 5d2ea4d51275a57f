"""What soft labels on disk were made of: whoever reads them checks that it is what they are asked for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from kd.config import Config, ConfigError
from kd.content import Contents, described
from kd.data.dataset import Dataset
from kd.networks.weight_files import weights_mark
from kd.recipe.later import known_before
from kd.recipe.schema import Recipe
from kd.sealed import read_sealed
from teachers.teacher import Teacher

NAME = "cache.json"
EDGE = 4096
"""Bytes of an image's file that are looked at, at either end."""
REMEDY = "Write them anew into another directory: kd cache-teacher RECIPE --to DIR"


class Card(Config):
    """``kind``: of fixed ``crops``, or of whole ``images``. ``aux``: whether the auxiliary head's are there too.

    ``teacher`` changes with its weights and configuration; ``data`` with the split's images; ``augmentation`` is how crops are
    made, {} where it does not matter; ``views`` of them an image.
    """

    version: Literal[1] = 1
    kind: Literal["crops", "images"]
    views: int
    teacher: str
    data: str
    augmentation: dict[str, Any]
    classes: tuple[str, ...]
    stride: int
    align_corners: bool
    aux: bool

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.views} crops an image" if self.kind == "crops" else "whole images"


def read_card(folder: Path) -> Card:
    """The card of a directory.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    file = folder / NAME
    if not file.is_file():
        raise ConfigError(
            f"teacher.cache: {folder} holds no soft labels. Write them: kd cache-teacher RECIPE --to {quote(str(folder))}"
        )
    try:
        return Card.model_validate(read_sealed(file))
    except ValueError:
        raise ConfigError(f"teacher.cache: {file} cannot be read as what kd cache-teacher writes. {REMEDY}") from None


def teacher_mark(teacher: Teacher) -> str:
    """16 hex digits that change with any weight, and with the configuration but for what does not change the answers."""
    config = teacher.config.model_dump(mode="json", context=Contents(), exclude={"floor", "cache", "precision"})
    return _digest([weights_mark(teacher), json.dumps(known_before(config, "teacher"), sort_keys=True)])


def data_mark(recipe: Recipe, data: Dataset) -> str:
    """16 hex digits that change with the data set's configuration, the images' names, and what their files hold."""
    files = (data.files(number).image for number in range(len(data)))
    lines = (f"{data.identity(number)} {_glance(file) if file else ''}" for number, file in enumerate(files))
    return _digest([json.dumps(described(recipe.data), sort_keys=True), *lines])


def _glance(file: Path) -> str:
    """Of a file's size, beginning and end: where an image was changed, its checksums there have too (PNG), or its size."""
    size = file.stat().st_size
    with file.open("rb") as content:
        begins = content.read(EDGE)
        content.seek(max(0, size - EDGE))
        return _digest([str(size), begins.hex(), content.read().hex()])


def augmentation_of(recipe: Recipe) -> dict[str, Any]:
    """How the recipe makes its crops, as a card holds it."""
    values: dict[str, Any] = json.loads(recipe.augmentation.model_dump_json())
    return values


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
