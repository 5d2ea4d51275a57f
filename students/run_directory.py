"""Whose a run directory is: this very run, begun or finished, another one, or nobody's yet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from kd import distributed
from kd.config import ConfigError
from kd.files import read_json, write_json, write_text
from kd.recipe.identity import is_run_of
from kd.recipe.loading import describe
from kd.recipe.merging import Origins
from kd.recipe.own_code import changed, code_marks
from kd.recipe.schema import IDENTITY, Recipe, contents, fingerprint, plain
from kd.results.differences import differing
from students import checkpoint
from students.progress import say


def finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The result, if the directory already holds this very run, finished; None if it is free or can be resumed.

    Raises:
        ConfigError: the directory belongs to another recipe or seed; nothing there is touched.
    """
    begun = [name for name in (checkpoint.NAME, checkpoint.PREVIOUS, "result.json") if (folder / name).exists()]
    if begun and (folder / "run.json").exists() and not is_run_of(folder, recipe):
        raise ConfigError(
            f"{folder}: holds another run ({_changed(recipe, folder)}); a run is never overwritten. Choose another "
            "--output, or remove the directory"
        )
    if begun and (folder / "run.json").exists() and (modules := changed(read_json(folder / "run.json"), plain(recipe))):
        say(
            f"WARNING: {', '.join(modules)} has changed since {folder} began, which is, or goes on with, the older code's "
            "work; train anew into another --output to see what the change does"
        )
    result = folder / "result.json"
    return read_json(result) if result.exists() else None


def _changed(recipe: Recipe, folder: Path) -> str:
    try:
        old = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return "its recipe.yaml cannot be read"
    keys = list(differing(old, plain(recipe), ("seed", *IDENTITY)))
    return f"different: {', '.join(keys[:6]) or 'the weights that its recipe names; put the old ones back to go on with it'}"


def identify(recipe: Recipe, origins: Origins, folder: Path, asked: str) -> dict[str, Any]:
    """Who this run is; written once, kept when it is resumed."""
    path = folder / "run.json"
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        known = is_run_of(folder, recipe)
        write_text(folder / "recipe.yaml", describe(recipe, origins))
        if not known:
            mark = fingerprint(recipe)
            (folder / "teacher.json").unlink(missing_ok=True)
            identity = {"id": f"{mark}-s{recipe.seed}-{os.urandom(3).hex()}", "fingerprint": mark, "seed": recipe.seed}
            more = {"asked": asked, "weights": contents(recipe), "code": code_marks(plain(recipe))}
            write_json(path, {**identity, **{key: value for key, value in more.items() if value}})
    distributed.barrier()
    return read_json(path)
