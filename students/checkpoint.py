"""Checkpoints that survive anything: written aside, flushed, then renamed; the one before is kept."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kd.config import InputError
from kd.distributed import is_main

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``checkpoint.pt``; the old one becomes ``checkpoint.previous.pt``."""
    partial = folder / f".{NAME}.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if (folder / NAME).exists():
        (folder / NAME).replace(folder / PREVIOUS)
    partial.replace(folder / NAME)


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last checkpoint, or None if there is none yet.

    Raises:
        InputError: the file is truncated or no checkpoint; nothing is deleted.
    """
    path = folder / NAME
    if not path.exists() and (folder / PREVIOUS).exists():
        path = folder / PREVIOUS  # killed between the two renames
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch reports damage by many types
        raise InputError(
            f"{path}: is truncated or no checkpoint ({type(error).__name__}). Delete it to resume from {PREVIOUS}"
            f"{'' if (folder / PREVIOUS).exists() else ' (there is none: the run then starts anew)'}"
        ) from None
    return state


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block the directory belongs to this process (rank 0); a dead process holds nothing.

    Raises:
        InputError: another process is writing there.
    """
    if not is_main():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is training there; wait for it, or choose another --output") from None
        yield
