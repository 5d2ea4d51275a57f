"""Looking at all that runs, sweeps and caches have left: whether each file holds what was written to it. Samples of stores are
looked at when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
import yaml
from safetensors import SafetensorError, safe_open

from kd.config import InputError
from kd.metrics.counts import Counts
from kd.networks.build import read_card
from kd.plain_yaml import load_yaml
from kd.results.result import problem_of
from kd.sealed import KEY, digest, load_tensors, read_sealed
from students import checkpoint
from teachers.soft_labels import files as soft_labels
from teachers.soft_labels.card import NAME
from teachers.soft_labels.card import read_card as read_card_of_cache

DAMAGE = (InputError, OSError, ValueError, KeyError, EOFError, BadZipFile, SafetensorError, yaml.YAMLError)


@dataclass
class Verdict:
    """Of some files: how many are as they were written, those of which that cannot be told, and a line for each damaged one."""

    sound: int = 0
    unsealed: list[Path] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def files_below(paths: list[Path]) -> list[Path]:
    """The files that can be verified, sorted, each once.

    Raises:
        InputError: a path is not there, or there is no such file.
    """
    if missing := [path for path in paths if not path.exists()]:
        raise InputError(f"{missing[0]}: does not exist; give run directories, or folders of them")
    inside = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    found = sorted({file for file in inside if file.is_file() and not file.is_symlink() and _looker(file) is not None})
    if not found:
        told = f"holds no file of a run, a sweep or a cache; such are {', '.join(LOOKERS)}"
        raise InputError(f"{', '.join(map(str, paths))}: {told}")
    return found


def verify(files: Iterable[Path]) -> Verdict:
    """Read each file as a whole."""
    found = Verdict()
    for path in files:
        look = _looker(path)
        assert look is not None
        try:
            sealed = look(path)
        except DAMAGE as error:
            reason = " ".join(str(error).split())[:240] or type(error).__name__
            found.damaged.append(reason if reason.startswith(str(path)) else f"{path}: is damaged ({reason})")
        else:
            found.sound += 1
            found.unsealed += [] if sealed else [path]
    return found


def _looker(path: Path) -> Callable[[Path], bool] | None:
    if path.name in LOOKERS:
        return LOOKERS[path.name]
    return LOOKERS.get(f"*{path.suffix}")


def _json(path: Path) -> bool:
    read_sealed(path)
    return _has_seal(path)


def _has_seal(path: Path) -> bool:
    return f'"{KEY}"' in path.read_text(encoding="utf-8")


def _result(path: Path) -> bool:
    result = read_sealed(path)
    if problem := problem_of(result):
        raise InputError(f"{path}: is damaged ({problem})")
    if (mark := result.get("recipe")) and mark != digest(load_yaml((path.parent / "recipe.yaml").read_text(encoding="utf-8"))):
        raise InputError(f"{path.parent / 'recipe.yaml'}: is damaged, it is not the recipe of {path}")
    return _has_seal(path)


def _recipe(path: Path) -> bool:
    if not isinstance(load_yaml(path.read_text(encoding="utf-8")), dict):
        raise InputError(f"{path}: is damaged (it holds no mapping)")
    return True  # whether it is the run's says result.json


def _card(path: Path) -> bool:
    read_card(path)
    return f"{KEY}:" in path.read_text(encoding="utf-8")


def _tensors(path: Path) -> bool:
    if (path.parent / NAME).exists():
        return _soft_labels(path)
    load_tensors(path)
    with safe_open(path, "pt") as file:
        return KEY in (file.metadata() or {})


def _soft_labels(path: Path) -> bool:
    card = read_card_of_cache(path.parent)
    for view in range(card.views):
        soft_labels.read(path.parent, path.stem, card.kind, view, ())
    return True


def _checkpoint(path: Path) -> bool:
    return checkpoint.read(path, torch.device("cpu"))[1]


def _counts(path: Path) -> bool:
    Counts.load(path)  # each array has its own check sum
    return True


LOOKERS: dict[str, Callable[[Path], bool]] = {
    "result.json": _result,
    "run.json": _json,
    "teacher.json": _json,
    "sweep.json": _json,
    "clock.json": _json,
    NAME: _json,
    "store.json": _json,
    "recipe.yaml": _recipe,
    "student.yaml": _card,
    "best.yaml": _card,
    "counts.npz": _counts,
    checkpoint.NAME: _checkpoint,
    checkpoint.PREVIOUS: _checkpoint,
    "*.safetensors": _tensors,
}
"""How each kind of file is read; whether it carries its digest."""


def lines(found: Verdict, shown: int = 20) -> list[str]:
    """The verdict for people."""
    told = [*found.damaged[:shown], *([f"... and {len(found.damaged) - shown} more"] if len(found.damaged) > shown else [])]
    unsealed = f", {len(found.unsealed)} of them written before files carried a digest" if found.unsealed else ""
    return [*told, f"{found.sound} files are as they were written{unsealed}; {len(found.damaged)} are damaged"]


def plain(found: Verdict) -> dict[str, Any]:
    """For JSON."""
    return {"sound": found.sound, "unsealed": list(map(str, found.unsealed)), "damaged": found.damaged}
