"""What the directory of a run is called, and whether it holds the run that a recipe describes."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from kd.config import InputError
from kd.content import POINT
from kd.recipe.loading import RUN_RECIPE, load
from kd.recipe.schema import Recipe, fingerprint
from kd.sealed import read_sealed


def is_run_of(folder: Path, recipe: Recipe) -> bool:
    """Whether ``folder`` holds this run, begun or finished, however the paths to its weights are spelled.

    Runs from when weights were known by their path, and those whose weights have gone since, are known by their recipe.
    """
    known = read_sealed(folder / "run.json") if (folder / "run.json").exists() else {}
    if known.get("seed") != recipe.seed:
        return False
    wanted = fingerprint(recipe)
    if known.get("fingerprint") in (wanted, fingerprint(recipe, remembered=known.get("weights", {}))):
        return True
    try:
        begun = load(folder / RUN_RECIPE)[0]
    except (InputError, OSError):
        return False
    gone = wanted == fingerprint(recipe, spelled=True)
    return fingerprint(begun) == wanted and (gone or known.get("fingerprint") == fingerprint(begun, spelled=True))


def name_of(recipe: Recipe, label: str, root: Path) -> str:
    """``LABEL-FINGERPRINT-sSEED``; where ``root`` holds this very run under an older fingerprint, the name that it has."""
    name = f"{label}-{fingerprint(recipe)}-s{recipe.seed}"
    if (root / name).exists():
        return name
    others = sorted(root.glob(f"{escape(label)}-*-s{recipe.seed}"))
    return next((other.name for other in others if POINT.fullmatch(other.name) and is_run_of(other, recipe)), name)
