"""Rebuild in Weights & Biases what a run directory holds, as one run without gaps or repetitions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kd.config import InputError, validate
from kd.plain_yaml import load_yaml
from kd.recipe.schema import Tracking
from kd.sealed import read_sealed
from students.examining.previews import Panel
from students.progress import bar
from students.signals import REQUEUE
from students.tracking.metrics_file import read_metrics
from students.tracking.wandb_facts import About, about, check_id, final_panels, outcome
from students.tracking.wandb_view import View, ViewError, connect, sync_command

ONLINE = "run `wandb login` or set WANDB_API_KEY, choose another --id if this one is taken, or use --mode offline"


def replay(
    folder: Path, mode: str = "offline", project: str | None = None, entity: str | None = None, run_id: str | None = None
) -> str:
    """Send recipe, history, final pictures and results of a run directory to W&B; nothing there is read or resumed.

    Args:
        folder: a run directory; the run may be unfinished. Offline, W&B's files go to ``folder/wandb``.
        mode: ``offline`` or ``online``.
        project: in place of the recipe's; ``entity`` too.
        run_id: default: the run's own and ``-replay``, so that it never mixes with what the training sent.

    Returns:
        What was done, and how an offline run is uploaded.

    Raises:
        InputError: the directory is no run's or holds no metrics, a file is damaged, the replay is there already, or W&B
            cannot be used.
    """
    who, config = _read(folder)
    who = who._replace(id=check_id(run_id or f"{who.id}-replay"))
    config = config.model_copy(update={"project": project or config.project, "entity": entity or config.entity})
    history, pictures = _history(folder), _pictures(folder)
    result = read_sealed(folder / "result.json") if (folder / "result.json").exists() else None
    view = _connect(mode, config, folder, who)
    try:
        _show(view, history, pictures, outcome(result) if result else {})
    except BaseException:
        view.close(1)
        raise
    view.close(0 if result else REQUEUE, preempted=result is None)
    if view.failed:
        raise InputError(f"{folder}: only a part was replayed, see above; remove it in W&B, or choose another --id")
    told = f"{folder}: {len(history)} steps replayed as {who.id}"
    return told if mode == "online" else f"{told}; upload them with: {sync_command(folder.resolve(), who.id)}"


def _read(folder: Path) -> tuple[About, Tracking]:
    """Who the run is, and its recipe's wishes about W&B."""
    for name in ("recipe.yaml", "run.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: is no run directory, it has no {name}; give what `kd train` wrote")
    identity = read_sealed(folder / "run.json")
    if not isinstance(identity, dict) or not {"id", "fingerprint"} <= identity.keys():
        raise InputError(f"{folder / 'run.json'}: holds no id and fingerprint; restore it")
    try:
        recipe = load_yaml((folder / "recipe.yaml").read_text(encoding="utf-8"))
        return about(recipe, identity), validate(Tracking, recipe["run"]["wandb"])
    except (UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(repr(error).split())
        raise InputError(f"{folder / 'recipe.yaml'}: is no resolved recipe ({reason}); restore it") from None


def _history(folder: Path) -> dict[int, dict[str, Any]]:
    """One record a step: of the training and of the evaluation after it."""
    path = folder / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    if not records:
        raise InputError(f"{path}: holds no record; there is nothing to replay before the first is logged")
    if timeless := next((record for record in records if "time" not in record), None):
        raise InputError(f"{path}: its record of step {timeless['step']} has no time; delete that line")
    found: dict[int, dict[str, Any]] = {}
    if (folder / "teacher.json").exists():
        found[0] = {"teacher": read_sealed(folder / "teacher.json"), "_timestamp": records[0]["time"]}
    for record in records:
        values = {key: value for key, value in record.items() if key not in ("step", "time")}
        found.setdefault(record["step"], {}).update(values, _timestamp=record["time"])
    return found


def _connect(mode: str, config: Tracking, folder: Path, who: About) -> View:
    if mode == "offline" and (earlier := [*folder.glob(f"wandb/offline-run-*-{who.id}")]):
        raise InputError(
            f"{earlier[0]}: was recorded before, and W&B would show both as one run; remove it, or choose another --id"
        )
    asked = os.environ.get("WANDB_MODE", "").lower()
    if mode == "online" and asked in ("disabled", "offline"):
        raise InputError(f"--mode online: WANDB_MODE={asked} forbids it; unset that, or use --mode offline")
    try:
        return connect(mode, config, folder.resolve(), who, replayed=True)
    except ViewError as error:
        raise InputError(f"--mode {mode}: {error}" + (f"; {ONLINE}" if mode == "online" else "")) from None


def _pictures(folder: Path) -> tuple[list[Panel], list[str]]:
    """The final samples and the names of the classes."""
    panels = final_panels(folder)
    return panels, load_yaml((folder / "student.yaml").read_text(encoding="utf-8"))["classes"] if panels else []


def _show(
    view: View, history: Mapping[int, Mapping[str, Any]], pictures: tuple[list[Panel], list[str]], summary: Mapping[str, Any]
) -> None:
    panels, classes = pictures
    last = max(history)
    for step, values in bar(sorted(history.items()), "replaying"):
        view.log(step, values, panels if step == last else (), classes)
    if summary:
        view.summary(summary)
