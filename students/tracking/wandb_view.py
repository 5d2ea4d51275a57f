"""A run in Weights & Biases. The one file that imports wandb, and only once a run is to be shown there."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from PIL import Image

from kd.config import ConfigError
from kd.reachability import reachable
from kd.recipe.schema import Tracking
from students.examining.previews import Panel
from students.progress import say
from students.tracking.wandb_facts import About, numbers

STEP = "iter"  # our own step in W&B: its built-in one starts again at 0 whenever an offline run is resumed
LONGEST_SIDE = 1024  # pixels of an image sent to W&B
LONGEST_TITLE = 63  # characters
REMEDY = "run `wandb login`, set WANDB_API_KEY or use run.wandb.mode=offline"
COMPLETE = "metrics.jsonl stays complete"


class ViewError(Exception):
    """W&B cannot be used as asked; the text says why."""


class View:
    """Shows a run. What fails is told once, and nothing is sent from then on; without a run every method does nothing.

    Args:
        run: of wandb, or None.
        images: panels that are sent at a time, at most.
    """

    def __init__(self, run: Any = None, images: int = 0) -> None:
        self._run, self._images = run, images
        self.failed = False

    def log(self, step: int, values: Mapping[str, Any], panels: Sequence[Panel] = (), classes: Sequence[str] = ()) -> None:
        """One row of the history: numbers (names may nest, what is no number is left out) and images.

        Masks of the images can be switched on and off; ``classes`` are names in order of the masks' indices.
        """
        shown = panels[: self._images]
        if values or shown:
            self._send(lambda run: run.log({STEP: step, **numbers(values), **_images(shown, classes)}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final numbers, for W&B's table of runs."""
        self._send(lambda run: run.summary.update(numbers(values)))

    def alert(self, title: str, text: str) -> None:
        """Have W&B notify the user of an error."""
        self._send(lambda run: run.alert(title[:LONGEST_TITLE], text, level="ERROR"))

    def close(self, exit_code: int = 0, preempted: bool = False) -> None:
        """Finish; any exit code but 0 marks the run as failed in W&B, unless it was preempted. May be called twice."""
        if preempted:
            self._send(lambda run: run.mark_preempting())
        self._send(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def _send(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # whatever breaks in a view, the training goes on
            say(f"WARNING: W&B failed ({error!r}) and is off from here on; {COMPLETE}.")
            self._run, self.failed = None, True


def start(config: Tracking, directory: Path, about: About) -> View:
    """A view as the recipe asks for it: offline where online is impossible, without a run where that is impossible too.

    Raises:
        ConfigError: with ``strict``, W&B cannot be used as asked.
    """
    asked, trouble = os.environ.get("WANDB_MODE", "").lower(), ""
    mode = asked if asked in ("disabled", "offline") else config.mode
    if mode == "disabled":
        return View()
    if mode == "online":
        try:
            return connect("online", config, directory, about)
        except ViewError as error:
            trouble = str(error)
        if config.strict:
            raise ConfigError(f"run.wandb.mode is 'online' but {trouble}; {REMEDY}, or drop run.wandb.strict")
    try:
        view = connect("offline", config, directory, about)
    except ViewError as error:
        if config.strict:
            raise ConfigError(f"{error}; or use run.wandb.mode=disabled") from None
        say(f"WARNING: {error}; it is off, {COMPLETE}.")
        return View()
    why = f"WARNING: {trouble}. This run is recorded" if trouble else "W&B records this run"
    say(f"{why} offline in {directory / 'wandb'}; upload it with: {sync_command(directory, about.id)}")
    return view


def connect(mode: str, config: Tracking, directory: Path, about: About, replayed: bool = False) -> View:
    """A run ``offline`` (its files go to ``directory/wandb``) or ``online``.

    Args:
        replayed: the run must be new, and W&B is told nothing of this machine and of what the process prints.

    Raises:
        ViewError: W&B does not take it.
    """
    for kind in ("DATA", "CACHE", "ARTIFACT"):  # by default in the home directory, often on a small quota
        os.environ.setdefault(f"WANDB_{kind}_DIR", str(directory / "wandb" / kind.lower()))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its reports hold up the exit where nobody takes them
    import wandb

    if mode == "online" and (trouble := _obstacle(wandb)):
        raise ViewError(trouble)
    try:
        return View(_open(wandb, mode, config, directory, about, replayed), config.images)
    except Exception as error:
        if mode == "offline":
            raise ViewError(f"W&B cannot record in {directory} ({error})") from error
        wandb.teardown()  # its service would refuse the same run_id a second time
        raise ViewError(f"W&B refused the run: {' '.join(str(error).split())}") from error


def server() -> str:
    """Where online runs go: ``WANDB_BASE_URL``, W&B's settings files, or its default."""
    import wandb

    return wandb.setup().settings.base_url


def sync_command(directory: Path, run_id: str) -> str:
    """What uploads a run that was recorded offline; each resumption has added a directory."""
    return f"wandb sync {quote(str(directory / 'wandb'))}/offline-run-*-{run_id}"


def _open(wandb: Any, mode: str, config: Tracking, directory: Path, about: About, replayed: bool) -> Any:
    aloof = {"console": "off", "x_disable_stats": True, "x_disable_meta": True} if replayed else {}
    run = wandb.init(
        mode=mode,
        dir=str(directory),
        resume="never" if replayed else "allow",
        settings=wandb.Settings(init_timeout=10, finish_timeout=60, silent=mode == "offline", **aloof),
        project=config.project,
        entity=config.entity,
        id=about.id,
        name=about.name,
        group=about.group,
        job_type=about.job_type,
        tags=list(about.tags),
        config=dict(about.config),
    )
    run.define_metric(STEP, hidden=True)
    run.define_metric("*", step_metric=STEP)
    run.define_metric(f"{about.select}/mIoU", step_metric=STEP, summary="max,last")
    return run


def _obstacle(wandb: Any) -> str | None:
    """Why W&B cannot be used online, told in seconds: ``wandb.init`` may need minutes, or ask for a key and wait."""
    address = server()
    if not reachable(address):
        return f"W&B at {address} does not answer"
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        return f"the W&B key is not usable: {error}"
    return None if known else f"there is no W&B key for {address} (run `wandb login`)"


def _images(panels: Sequence[Panel], classes: Sequence[str]) -> dict[str, Any]:
    labels = {**dict(enumerate(classes)), 255: "ignore"}
    return {"images": [_image(*panel, labels) for panel in panels]} if panels else {}


def _image(caption: str, image: np.ndarray, masks: Mapping[str, np.ndarray], labels: dict[int, str]) -> Any:
    import wandb

    shrink = math.ceil(max(image.shape[:2]) / LONGEST_SIDE)
    overlays = {name: {"mask_data": mask[::shrink, ::shrink], "class_labels": labels} for name, mask in masks.items()}
    return wandb.Image(Image.fromarray(image).reduce(shrink), caption=caption, masks=overlays, file_type="jpg")
