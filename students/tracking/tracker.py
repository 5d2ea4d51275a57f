"""What a run records: ``metrics.jsonl`` in its directory is the truth, Weights & Biases a view of it that may fail."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from kd.distributed import is_main
from kd.files import naming
from kd.recipe.schema import Tracking
from students.examining.previews import Panel
from students.signals import Interrupted
from students.tracking.metrics_file import encode, plain, read_metrics, rewind
from students.tracking.wandb_facts import About, check_id
from students.tracking.wandb_view import View, start

__all__ = ["Tracker", "read_metrics"]

METRICS = "metrics.jsonl"
STOPPED = 130  # what shells say after Ctrl-C
TOLD = 5  # lines of an error that an alert tells


class Tracker:
    """The one object that a trainer reports to. On ranks other than 0 every method does nothing.

    Args:
        config: whether and where W&B is used.
        directory: the run directory; ``metrics.jsonl`` and W&B's files lie in it.
        about: who the run is; its ``id`` stays when it is resumed. Letters, digits, ``_``, ``-`` and ``.``.
        resume_step: the step that the training goes on from: later lines of ``metrics.jsonl`` are dropped, they will be
            written again. None is a fresh start: an earlier file is set aside as ``metrics.old.jsonl``.

    Raises:
        ConfigError: ``about.id`` has other characters; with ``strict``, W&B cannot be used as asked.
    """

    def __init__(self, config: Tracking, directory: Path, about: About, resume_step: int | None = None) -> None:
        self._name, self._resumed, self._path = about.name, resume_step is not None, directory / METRICS
        self._lines: IO[str] | None = None
        self._view = View()
        if not is_main():
            return
        check_id(about.id)
        directory.mkdir(parents=True, exist_ok=True)
        self._view = start(config, directory.resolve(), about)
        rewind(self._path, resume_step)
        self._lines = self._path.open("a", encoding="utf-8")

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
        with naming(self._path):
            self._lines.write(encode({"step": step, "time": round(time.time(), 3), **values}))
            self._lines.flush()
        self._view.log(step, values)

    def teacher(self, scores: Mapping[str, Any]) -> None:
        """Show the teacher's scores beside the student's, in W&B only, when a run begins: ``teacher.json`` holds them."""
        if scores and not self._resumed:
            self._view.log(0, {"teacher": scores})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final values in W&B's table of runs. Nothing is written here: ``result.json`` holds them."""
        self._view.summary(values)

    def images(self, step: int, panels: Sequence[Panel], classes: Sequence[str]) -> None:
        """Show images with masks that can be switched on and off, in W&B only.

        Args:
            step: optimizer steps done.
            panels: (caption, image uint8 H W 3, {name of the mask: class indices uint8 H W, 255 = ignore}).
            classes: names, in order of the indices.
        """
        self._view.log(step, {}, panels, classes)

    def close(self, exit_code: int = 0, preempted: bool = False) -> None:
        """Finish; any exit code but 0 marks the run as failed in W&B, unless it was preempted. May be called twice."""
        if self._lines is not None:
            with suppress(OSError):  # what could not be written was told when it was tried
                self._lines.close()
        self._view.close(exit_code, preempted)
        self._lines = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """A run that was asked to stop has not failed: it will be resumed. Of any other error W&B tells the user."""
        if error is None:
            self.close()
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            self.close(int(error.code or 0) if isinstance(error, Interrupted) else STOPPED, preempted=True)
        else:
            self._view.alert(
                f"{type(error).__name__}: {self._name}", "\n".join((str(error) or repr(error)).splitlines()[:TOLD])
            )
            self.close(1)
