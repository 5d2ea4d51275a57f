"""A recipe as a run of seconds, to see whether all parts fit."""

from __future__ import annotations

import os

from kd.recipe.channels import channels_of
from kd.recipe.merging import Tree
from kd.recipe.schema import Recipe, plain

SPLITS = ("train", "val", "test")
"""Those of procedural images."""


def shrunk(recipe: Recipe) -> Tree:
    """What turns a recipe into a run of seconds on the CPU, without files: tiny procedural images, four steps, an untrained
    teacher of the student's own kind. Losses, method, weights and optimizer stay."""
    overlay: Tree = {
        "data": {"name": "shapes", "size": [64, 96], "train": 16, "val": 2, "test": 2, "channels": channels_of(recipe.data)},
        "augmentation": {"crop": [64, 64]},
        "student": {"pretrained": False},
        "schedule": {"steps": 4, "batch": 2 * recipe.schedule.accumulate * int(os.environ.get("WORLD_SIZE", "1"))},
        "evaluation": {"every": 4 if recipe.evaluation.measures else 0, "predictor": {"name": "whole"}},
        "run": {
            "workers": 0,
            "log_every": 1,
            "checkpoint_every": 4,
            "previews": 2,
            "wandb": {"mode": "disabled"},
            "absent_classes": "allow",
        },
    }
    for key in ("select", "report"):
        if recipe.evaluation.measures and getattr(recipe.evaluation, key) not in SPLITS:
            overlay["evaluation"][key] = "val"
    if recipe.unlabelled is not None:
        overlay["unlabelled"] = {"splits": ["train"], "share": 1.0 if recipe.unlabelled.share == 1 else 0.5}
    if recipe.teacher is not None:
        overlay["teacher"] = {"name": "fresh", "network": {**plain(recipe)["student"], "pretrained": False}, "channels": None}
    return overlay
