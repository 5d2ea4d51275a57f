"""What Weights & Biases is told about a run besides its history; read from plain values, so that files will do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd.config import ConfigError
from kd.data.reading import read_image, read_labels
from kd.results.names import dataset_label, pair_label, row_label, student_label
from students.examining.previews import Panel
from students.tracking.metrics_file import flat, plain

TAG, GROUP = 64, 128  # characters
ORDER = ("target", "teacher", "student")


class About(NamedTuple):
    """Who a run is. ``select`` is the split whose mIoU chooses the best checkpoint."""

    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    select: str


def about(recipe: Mapping[str, Any], identity: Mapping[str, Any]) -> About:
    """From a resolved recipe and ``run.json``; what ``run.wandb`` leaves null is made of the recipe's content."""
    asked, method, student = recipe["run"]["wandb"], row_label(recipe), student_label(recipe)
    tags = (method, dataset_label(recipe), student, identity["fingerprint"][:8], *asked["tags"])
    return About(
        id=identity["id"],
        name=f"{method}-{student}-s{recipe['seed']}",
        group=(asked["group"] or pair_label(recipe))[:GROUP],
        job_type=asked["job_type"] or "train",
        tags=tuple(dict.fromkeys(tag[:TAG] for tag in tags if tag)),
        config=recipe,
        select=recipe["evaluation"]["select"],
    )


def check_id(run_id: str) -> str:
    """The id, if W&B takes it.

    Raises:
        ConfigError: it has other characters, or too many.
    """
    if not re.fullmatch(r"[\w.-]{1,128}", run_id, re.ASCII):
        raise ConfigError(f"run_id is {run_id!r}; use 1 to 128 of the characters A-Z a-z 0-9 _ - .")
    return run_id


def numbers(values: Mapping[str, Any]) -> dict[str, int | float]:
    """``{"val": {"mIoU": 1}}`` as ``{"val/mIoU": 1}``; texts, lists and None are left out."""
    return {key: value for key, value in flat(plain(values)) if isinstance(value, int | float)}


def outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``result.json`` holds, for W&B's table of runs: ``final`` and ``best`` are scores on the reported split."""
    split, best = result["reported_on"], result["best"]
    found = {"final": result["last"].get(split, {}), "cost": result["cost"]}
    return {**found, "best": {"step": best["step"], **best[split]}} if best else found


def final_panels(folder: Path) -> list[Panel]:
    """The pictures in ``previews/final`` of a run directory; none where it holds none.

    Raises:
        BrokenFileError: a picture cannot be read.
    """
    places = sorted(path.parent for path in (folder / "previews" / "final").glob("*/image.jpg"))
    return [(place.name.partition("_")[2], _pixels(place), _masks(place)) for place in places]


def _pixels(place: Path) -> np.ndarray:
    return read_image(place / "image.jpg").permute(1, 2, 0).numpy()


def _masks(place: Path) -> dict[str, np.ndarray]:
    return {name: read_labels(file).numpy() for name in ORDER if (file := place / f"{name}.png").exists()}
