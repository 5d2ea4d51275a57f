"""Keys of recipes that came when there were runs already."""

from __future__ import annotations

from typing import Any

from kd.recipe.merging import Tree

LATER: Tree = {
    "augmentation.resize": "antialiased",
    "data.val_labels": "voc",
    "data.threshold": None,
    "student.initialisation": "torch",
    "student.drop_channels": False,
    "student.pretrained_bgr": False,
    "student.projection": "1x1",
    "student.separable": False,
    "student.pixels": False,
    "student.normed": False,
    "learning_rate.ends_at": 0.0,
    "optimizer.method_multiplier": None,
    "predictor.pad": "corner",
    "evaluation.quick": False,
    "teacher.path": None,
    "members.path": None,
    "teacher.precision": "step",
    "members.precision": "step",
    "teacher.cache": None,
    "members.cache": None,
    "augmentation.views": 0,
    "data.channels": 3,
    "data.range": None,
    "student.channels": 3,
    "teacher.channels": None,
    "members.channels": None,
    "unlabelled": None,
    "data.held_out": [],
    "method.standardise": False,
    "members.standardise": False,
    "teacher.classes": None,
    "members.classes": None,
    **{f"{part}.revision": None for part in ("student", "network", "teacher", "members", "logits", "features")},
}
"""Ends of keys that came when there were runs already, and what those runs did. At that value they are no part of a
fingerprint, so that what was trained before is still known."""

OLDER = {"classes": ("cirkd", "smp", "torchvision"), "revision": ("hf",)}
"""Keys among these that some classes of a recipe, by their names, had from the start."""


def came_later(path: str, value: Any, name: Any = None) -> bool:
    """Whether a dotted key of the class ``name`` is one of ``LATER``, at the value that was the only one before."""
    if name in OLDER.get(path.rpartition(".")[2], ()):
        return False
    return any(f".{path}".endswith(f".{end}") and value == before for end, before in LATER.items())


def known_before(values: Any, path: str = "") -> Any:
    """Without the keys that came later."""
    if isinstance(values, dict):
        name, inner = values.get("name"), {key: (f"{path}.{key}", value) for key, value in values.items()}
        return {key: known_before(value, where) for key, (where, value) in inner.items() if not came_later(where, value, name)}
    return [known_before(value, path) for value in values] if isinstance(values, list) else values
