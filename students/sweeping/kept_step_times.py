"""Step times that a sweep asks for: measured once, one recipe at a time, and kept, so that its points never change."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from kd.config import InputError
from kd.files import read_json, write_text
from kd.recipe.schema import Recipe, plain
from kd.sealed import read_sealed, write_sealed
from kd.sweep.points import to_measure
from kd.sweep.schema import Sweep
from students.progress import say
from students.signals import REQUEUE, Interrupted, StopSignals

CLOCK = "clock.json"


def read_clock(root: Path) -> dict[str, Any]:
    """Step times measured earlier, see :data:`kd.sweep.budget.Clock`; delete ``clock.json`` to have them measured anew."""
    return dict(read_sealed(root / CLOCK)) if (root / CLOCK).exists() else {}


def measured(sweep: Sweep, root: Path, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The clock with all that the sweep asks for. ``command`` measures: a recipe's file, ``--json`` and a file are added.

    Raises:
        InputError: a recipe cannot be measured, with what its process said.
        Interrupted: a signal came; what is measured is kept.
    """
    if not to_measure(sweep, read_clock(root)):
        return read_clock(root)
    with _alone(root):
        clock = read_clock(root)
        wanted = to_measure(sweep, clock)
        for number, (key, recipe) in enumerate(wanted.items(), 1):
            method = recipe.method.name if recipe.method else "+".join(recipe.loss or {})
            say(f"measuring step times, {number}/{len(wanted)}: {method}")
            clock[key] = {"method": method, **_measure(recipe, root, key, command, environment)}
            write_sealed(root / CLOCK, clock)
    return clock


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Two at a time would slow each other down."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".clock.lock").open("a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _measure(recipe: Recipe, root: Path, key: str, command: Sequence[str], environment: Mapping[str, str]) -> Any:
    source, answer, log = (root / f".clock-{key}.{kind}" for kind in ("yaml", "json", "txt"))
    write_text(source, yaml.safe_dump(plain(recipe), sort_keys=False))
    with log.open("wb") as file, StopSignals() as signals:
        process = subprocess.Popen(
            [*command, str(source), "--json", str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
        while process.poll() is None:
            if signals.asked:
                process.kill()
            time.sleep(0.1)
    if signals.asked:
        raise Interrupted(REQUEUE)
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing was said"]
        raise InputError(f"{source}: the step time cannot be measured ({said[-1]}); see {log}")
    times = read_json(answer)
    for path in (source, answer, log):
        path.unlink(missing_ok=True)
    return times
