"""A sweep of runs of a second or two: its recipes and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tiny import WEIGHTS, tiny

from kd.recipe import plain

TAUGHT = {"teacher": {"name": "run", "path": "runs/tiny/teacher/seed0"}}
TOKENS = {"token_ce": 1.0, "token_dice": 1.0, "mask": 1.0, "mask_aux": 0.4}


def write_recipes(folder: Path, **changes: Any) -> None:
    """``recipes/tiny/{a_ce,a_kd,a_jml_kd,a_maskd,teacher}.yaml``, eight steps for a student and six for the teacher."""
    student: dict[str, Any] = {"schedule": {"steps": 8}, **changes}
    found = {
        "a_ce": tiny("ce", **student),
        "a_kd": tiny("kd", **student, **TAUGHT),
        "a_jml_kd": tiny("jml_kd", **student, **TAUGHT),
        "a_maskd": tiny("ce", **student, **TAUGHT, method={"name": "maskd"}, weights={**WEIGHTS["ce"], **TOKENS}),
        "teacher": tiny("ce", **changes),
    }
    (folder / "recipes" / "tiny").mkdir(parents=True)
    for name, recipe in found.items():
        (folder / "recipes" / "tiny" / f"{name}.yaml").write_text(yaml.safe_dump(plain(recipe)))


def write(folder: Path, **keys: Any) -> Path:
    """``recipes/sweeps/x.yaml``: CE and KD with two seeds, unless told otherwise."""
    path = folder / "recipes" / "sweeps" / "x.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"recipe": "tiny/a_{method}", "axes": {"method": ["ce", "kd"], "seed": [0, 1]}, **keys}))
    return path
