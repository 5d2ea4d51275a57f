"""A run of a second or two: tiny images, a tiny student, everything else real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kd.data.build import open_training
from kd.lookup import lookup
from kd.recipe.schema import Recipe, build, method_config
from kd.seeds import seed_everything
from students.run import train
from students.run_directory import finished
from teachers.load import load_teacher

STUDENT = {
    "name": "deeplabv3",
    "backbone": "test_resnet",
    "pretrained": False,
    "output_stride": 32,
    "width": 8,
    "aux": 8,
    "rates": [1, 2],
}
LOSSES = {
    "ce": {"loss": {"ce": {"name": "cross_entropy"}, "ce_aux": {"name": "cross_entropy", "field": "aux_logits"}}},
    "kd": {"method": {"name": "kd"}},
    "jml_kd": {"loss": None, "method": {"name": "jml_kd"}},
}
WEIGHTS = {
    "ce": {"ce": 1.0, "ce_aux": 0.4},
    "kd": {"ce": 1.0, "ce_aux": 0.4, "kl": 1.0},
    "jml_kd": {"ce": 0.06, "kl": 0.06, "ce_aux": 0.06, "kl_aux": 0.06, "jaccard_hard": 0.4, "jaccard_soft": 0.4},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested update; the changes win, and another ``name`` replaces."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        nested = isinstance(old, dict) and isinstance(value, dict) and old.get("name") == value.get("name", old.get("name"))
        result[key] = merged(old, value) if nested else value
    return result


def tiny(kind: str = "ce", **changes: Any) -> Recipe:
    """A recipe of six steps; ``kind`` is one of ``LOSSES``."""
    base: dict[str, Any] = {
        "data": {"name": "shapes", "size": [32, 48], "train": 10, "val": 3, "test": 3},
        "augmentation": {"crop": [32, 32], "scale": [0.8, 1.5]},
        "student": STUDENT,
        "schedule": {"steps": 6, "batch": 4, "optimizer": {"kind": "adamw", "lr": 0.001, "head_multiplier": 2}},
        "evaluation": {"every": 3, "select": "val", "report": "test"},
        "run": {"workers": 0, "log_every": 1, "checkpoint_every": 2, "previews": 0, "device": "cpu"},
        "weights": WEIGHTS[kind],
        **LOSSES["ce"],
        **LOSSES[kind],
    }
    if "method" in base:
        base["teacher"] = {"name": "fresh", "network": STUDENT}
    tree = merged(base, changes)
    if "method" in changes:
        method = method_config(tree["method"])
        terms = [*(tree["loss"] or {}), *lookup("kd.methods", method.name, "Method").terms_of(method)]
        tree["weights"] = {term: tree["weights"].get(term, 1.0) for term in terms}
    return build(tree)


def execute(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What ``tools/train.py`` does."""
    if (result := finished(recipe, folder)) is not None:
        return result
    data = open_training(recipe.data, recipe.unlabelled)
    seed_everything(recipe.seed, "teacher")
    teacher = load_teacher(recipe.teacher, data.classes, channels=data.channels) if recipe.teacher is not None else None
    return train(recipe, {}, folder, teacher, data, torch.device("cpu"))
