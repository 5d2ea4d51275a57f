"""What a run records: ``metrics.jsonl`` in its directory is the truth, Weights & Biases a view of it that may fail."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from socket import create_connection
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import numpy as np
from PIL import Image

from kd.config import ConfigError
from kd.distributed import is_main
from kd.recipe import Tracking
from students.progress import say
from students.records import encode, flat, plain, read_metrics, rewind

__all__ = ["Tracker", "read_metrics"]

METRICS = "metrics.jsonl"
STEP = "iter"  # our own step in W&B: its built-in one starts again at 0 whenever an offline run is resumed
LONGEST_SIDE = 1024  # pixels of an image sent to W&B
REMEDY = "run `wandb login`, set WANDB_API_KEY or use run.wandb.mode=offline"

Panel = tuple[str, np.ndarray, Mapping[str, np.ndarray]]


class Tracker:
    """The one object that a trainer reports to. On ranks other than 0 every method does nothing.

    Args:
        config: whether and where W&B is used.
        directory: the run directory; ``metrics.jsonl`` and W&B's files lie in it.
        run_id: W&B's identity of the run, the same when it is resumed. Letters, digits, ``_``, ``-`` and ``.``.
        name: W&B's display name.
        recipe: the resolved recipe as plain values.
        resume_step: the step that the training goes on from: later lines of ``metrics.jsonl`` are dropped, they will be
            written again. None is a fresh start: an earlier file is set aside as ``metrics.old.jsonl``.

    Raises:
        ConfigError: ``run_id`` has other characters; with ``strict``, W&B cannot be used as asked.
    """

    def __init__(
        self,
        config: Tracking,
        directory: Path,
        run_id: str,
        name: str,
        recipe: Mapping[str, Any],
        resume_step: int | None = None,
    ) -> None:
        self._config = config
        self._lines: IO[str] | None = None
        self._run: Any = None
        if not is_main():
            return
        if not re.fullmatch(r"[\w.-]{1,128}", run_id, re.ASCII):
            raise ConfigError(f"run_id is {run_id!r}; use 1 to 128 of the characters A-Z a-z 0-9 _ - .")
        directory.mkdir(parents=True, exist_ok=True)
        about = {"id": run_id, "name": name, "config": dict(recipe)}
        self._run = _start(config, directory.resolve(), about)
        rewind(directory / METRICS, resume_step)
        self._lines = (directory / METRICS).open("a", encoding="utf-8")

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Append a line to ``metrics.jsonl``, with ``step`` and ``time`` (seconds since 1970); send its numbers to W&B.

        Args:
            record: names to numbers, texts or such mappings again; tensors and arrays of one element count as numbers.
            step: optimizer steps done.

        Raises:
            ValueError: a name is taken.
        """
        if self._lines is None:
            return
        if taken := {"step", "time"} & record.keys():
            raise ValueError(f"a record may not hold {sorted(taken)}: every line has them already; rename them")
        values = plain(record)
        self._lines.write(encode({"step": step, "time": round(time.time(), 3), **values}))
        self._lines.flush()
        numbers = {key: value for key, value in flat(values) if isinstance(value, int | float)}
        self._send(lambda run: run.log({STEP: step, **numbers}))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final values in W&B's table of runs. Nothing is written here: ``result.json`` holds them."""
        self._send(lambda run: run.summary.update(dict(flat(plain(values)))))

    def images(self, step: int, panels: Sequence[Panel], classes: Sequence[str]) -> None:
        """Show images with masks that can be switched on and off, in W&B only.

        Args:
            step: optimizer steps done.
            panels: (caption, image uint8 H W 3, {name of the mask: class indices uint8 H W, 255 = ignore}).
            classes: names, in order of the indices.
        """
        labels = {**dict(enumerate(classes)), 255: "ignore"}
        chosen = panels[: self._config.images]
        self._send(lambda run: run.log({STEP: step, "images": [_image(*panel, labels) for panel in chosen]}))

    def alert(self, title: str, text: str) -> None:
        """Have W&B notify the user."""
        self._send(lambda run: run.alert(title=title, text=text))

    def close(self, exit_code: int = 0) -> None:
        """Finish; any exit code but 0 marks the run as failed in W&B. May be called twice."""
        if self._lines is not None:
            self._lines.close()
        self._send(lambda run: run.finish(exit_code=exit_code))
        self._lines = self._run = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(0 if kind is None else 1)

    def _send(self, action: Callable[[Any], object]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # whatever breaks in a view, the training goes on
            say(f"WARNING: W&B failed ({error!r}) and is off from here on; {METRICS} stays complete.")
            self._run = None


def _image(caption: str, image: np.ndarray, masks: Mapping[str, np.ndarray], labels: dict[int, str]) -> Any:
    import wandb

    shrink = math.ceil(max(image.shape[:2]) / LONGEST_SIDE)
    overlays = {name: {"mask_data": mask[::shrink, ::shrink], "class_labels": labels} for name, mask in masks.items()}
    return wandb.Image(Image.fromarray(image).reduce(shrink), caption=caption, masks=overlays, file_type="jpg")


def _start(config: Tracking, directory: Path, about: dict[str, Any]) -> Any:
    """The W&B run, or None where it is disabled or cannot even be recorded."""
    asked = os.environ.get("WANDB_MODE", "").lower()
    mode = asked if asked in ("disabled", "offline") else config.mode
    if mode == "disabled":
        return None
    for kind in ("DATA", "CACHE", "ARTIFACT"):  # by default in the home directory, often on a small quota
        os.environ.setdefault(f"WANDB_{kind}_DIR", str(directory / "wandb" / kind.lower()))
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its reports hold up the exit where nobody takes them
    import wandb

    trouble = _obstacle(wandb) if mode == "online" else None
    if mode == "online" and trouble is None:
        try:
            return _open(wandb, "online", config, directory, about)
        except Exception as error:
            trouble = f"W&B refused the run: {' '.join(str(error).split())}"
            wandb.teardown()  # its service would refuse the same run_id a second time
    if trouble and config.strict:
        raise ConfigError(f"run.wandb.mode is 'online' but {trouble}; {REMEDY}, or drop run.wandb.strict")
    return _offline(wandb, trouble, config, directory, about)


def _offline(wandb: Any, trouble: str | None, config: Tracking, directory: Path, about: dict[str, Any]) -> Any:
    try:
        run = _open(wandb, "offline", config, directory, about)
    except Exception as error:
        if config.strict:
            raise ConfigError(f"W&B cannot record in {directory}: {error}; or use run.wandb.mode=disabled") from None
        say(f"WARNING: W&B cannot record in {directory} ({error}); it is off, {METRICS} stays complete.")
        return None
    segments = f"{quote(str(directory / 'wandb'))}/offline-run-*-{about['id']}"  # each resumption adds a directory
    why = f"WARNING: {trouble}. This run is recorded" if trouble else "W&B records this run"
    say(f"{why} offline in {directory / 'wandb'}; upload it with: wandb sync {segments}")
    return run


def _open(wandb: Any, mode: str, config: Tracking, directory: Path, about: dict[str, Any]) -> Any:
    run = wandb.init(
        mode=mode,
        dir=str(directory),
        resume="allow",
        settings=wandb.Settings(init_timeout=10, finish_timeout=60, silent=mode == "offline"),
        tags=list(config.tags),
        **config.model_dump(include={"project", "entity", "group", "job_type"}),
        **about,
    )
    run.define_metric(STEP, hidden=True)
    for part in ("train", "val", "test", "teacher", "perf"):
        run.define_metric(f"{part}/*", step_metric=STEP)
    run.define_metric("images", step_metric=STEP)
    run.define_metric("val/mIoU", step_metric=STEP, summary="max,last")
    return run


def _obstacle(wandb: Any) -> str | None:
    """Why W&B cannot be used online, told in seconds: ``wandb.init`` may need minutes, or ask for a key and wait."""
    server = wandb.setup().settings.base_url
    if not reachable(server):
        return f"W&B at {server} does not answer"
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        return f"the W&B key is not usable: {error}"
    return None if known else f"there is no W&B key for {server} (run `wandb login`)"


def reachable(url: str, seconds: float = 2.0) -> bool:
    """Whether the server, or the proxy on the way to it, accepts connections."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    answered = threading.Event()

    def connect() -> None:
        with suppress(OSError), create_connection(address, timeout=seconds):
            answered.set()

    caller = threading.Thread(target=connect, daemon=True)  # a thread, because looking a name up knows no timeout
    caller.start()
    caller.join(seconds)
    return answered.is_set()
