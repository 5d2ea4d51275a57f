"""Whose a run directory is: this very run, begun or finished, another one, or nobody's yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kd import distributed
from kd.config import ConfigError
from kd.data.dataset import Dataset
from kd.files import write_text
from kd.plain_yaml import load_yaml
from kd.recipe.identity import is_run_of
from kd.recipe.loading import describe
from kd.recipe.merging import Origins
from kd.recipe.own_code import changed, code_marks
from kd.recipe.schema import IDENTITY, Recipe, contents, fingerprint, plain
from kd.results.differences import differing
from kd.sealed import read_sealed, write_sealed
from students import checkpoint
from students.progress import say


def finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The result, if the directory already holds this very run, finished; None if it is free or can be resumed.

    Raises:
        ConfigError: the directory belongs to another recipe or seed; nothing there is touched.
    """
    begun = [name for name in (checkpoint.NAME, checkpoint.PREVIOUS, "result.json") if (folder / name).exists()]
    if not begun:
        return None
    if not (folder / "run.json").exists():
        raise ConfigError(
            f"{folder}: holds {begun[0]}, but no run.json, so that nobody can tell which run it is of; put run.json back, "
            "choose another --output, or remove the directory"
        )
    if not is_run_of(folder, recipe):
        raise ConfigError(
            f"{folder}: holds another run ({_changed(recipe, folder)}); a run is never overwritten. Choose another "
            "--output, or remove the directory"
        )
    if modules := changed(read_sealed(folder / "run.json"), plain(recipe)):
        say(
            f"WARNING: {', '.join(modules)} has changed since {folder} began, which is, or goes on with, the older code's "
            "work; train anew into another --output to see what the change does"
        )
    result = folder / "result.json"
    return read_sealed(result) if result.exists() else None


def _changed(recipe: Recipe, folder: Path) -> str:
    try:
        old = load_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return "its recipe.yaml cannot be read"
    keys = list(differing(old, plain(recipe), ("seed", *IDENTITY)))
    return f"different: {', '.join(keys[:6]) or 'the weights that its recipe names; put the old ones back to go on with it'}"


def check_owner(found: str | None, wanted: str, folder: Path) -> None:
    """Refuse a checkpoint that another run has written; older ones do not say whose they are.

    Raises:
        ConfigError: with the remedy.
    """
    if found and found != wanted:
        raise ConfigError(
            f"{folder}: its checkpoint is of the run {found}, the directory that of {wanted} (run.json); put the checkpoint of "
            "this run back, or remove the strange one to begin anew"
        )


def data_marks(train_data: Dataset, splits: Mapping[str, Dataset]) -> dict[str, str]:
    """For each split what it consists of: how many images, a hash of their names, and one of the sizes of their files."""
    return {name: _data_mark(data) for name, data in {"train": train_data, **splits}.items()} if distributed.is_main() else {}


def _data_mark(data: Dataset) -> str:
    names, files = hashlib.sha256(), hashlib.sha256()
    for index in range(len(data)):
        sizes = [path.stat().st_size if path is not None and path.exists() else 0 for path in data.files(index)[:2]]
        names.update(f"{data.identity(index)}\n".encode())
        files.update(f"{sizes}\n".encode())
    return f"{len(data)} images, names {names.hexdigest()[:12]}, files {files.hexdigest()[:12]}"


def _moved(known: Mapping[str, str], marks: Mapping[str, str], folder: Path) -> str:
    """What is wrong with going on with other images than a run began on, if it is. Files that were mended are told only."""
    for split, before in known.items():
        now = marks.get(split, before)
        (old, _, sizes), (new, _, other) = before.rpartition(", "), now.rpartition(", ")
        if old != new:
            return (
                f"{folder}: the data has changed since this run began: {split} was {old}, it is {new}; put the data back as it "
                "was, or train anew into another --output"
            )
        if sizes != other:
            say(
                f"WARNING: {folder}: files of {split} have other sizes than when this run began; steps before saw those of then"
            )
    return ""


def identify(recipe: Recipe, origins: Origins, folder: Path, facts: Mapping[str, Any], resumed: bool) -> dict[str, Any]:
    """Who this run is; written once, kept when it is resumed. Before the first checkpoint its data may still change.

    ``facts``: the word that ``asked`` for it, ``pretrained``, what its weights of the hub are, and the marks of its ``data``.

    Raises:
        ConfigError: it began on other data than the marks tell.
    """
    path, problem, marks = folder / "run.json", "", facts["data"]
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        known = is_run_of(folder, recipe)
        if known and resumed:
            problem = _moved(read_sealed(path).get("data", {}), marks, folder)
        elif known:
            write_sealed(path, {**read_sealed(path), **({"data": dict(marks)} if marks else {})})
        write_text(folder / "recipe.yaml", describe(recipe, origins))
        if not known:
            mark = fingerprint(recipe)
            (folder / "teacher.json").unlink(missing_ok=True)
            identity = {"id": f"{mark}-s{recipe.seed}-{os.urandom(3).hex()}", "fingerprint": mark, "seed": recipe.seed}
            more = {**facts, "weights": contents(recipe), "code": code_marks(plain(recipe)), "data": dict(marks)}
            write_sealed(path, {**identity, **{key: value for key, value in more.items() if value}})
    if problem := distributed.gather(problem)[0]:
        raise ConfigError(problem)
    return read_sealed(path)
