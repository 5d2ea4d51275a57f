"""A sweep of runs of a second or two: its recipes and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tiny import LOSSES, WEIGHTS, tiny

from kd.recipe.schema import plain

TAUGHT = {"teacher": {"name": "run", "path": "runs/tiny/teacher/seed0"}}
TOKENS = {"token_ce": 1.0, "token_dice": 1.0, "mask": 1.0, "mask_aux": 0.4}


LOSS = {"loss": LOSSES["ce"]["loss"], "weights": WEIGHTS["ce"]}
PARTS: dict[str, dict[str, Any]] = {
    "loss/ce": LOSS,
    "method/kd": {"method": {"name": "kd"}, "weights": {"kl": 1.0}},
    "method/jml_kd": {"loss": {}, "method": {"name": "jml_kd"}, "weights": WEIGHTS["jml_kd"]},
    "method/maskd": {"method": {"name": "maskd"}, "weights": TOKENS},
}


def write_recipes(folder: Path, **changes: Any) -> None:
    """``recipes/tiny/{a,teacher}.yaml``, eight steps for a student and six for the teacher, and the methods beside ``a``."""
    pair = plain(tiny("kd", **{"schedule": {"steps": 8}, **changes}, **TAUGHT))
    found = {
        "tiny/a": {key: value for key, value in pair.items() if key not in ("loss", "method", "weights", "labels")},
        "tiny/teacher": plain(tiny("ce", **changes)),
        **{f"_parts/{name}": part for name, part in PARTS.items()},
    }
    for name, values in found.items():
        file = folder / "recipes" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(values))


def write(folder: Path, **keys: Any) -> Path:
    """``recipes/sweeps/x.yaml``: CE and KD with two seeds, unless told otherwise."""
    path = folder / "recipes" / "sweeps" / "x.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"recipe": "tiny/a", "axes": {"method": ["ce", "kd"], "seed": [0, 1]}, **keys}))
    return path
