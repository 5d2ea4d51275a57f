"""Checkpoints that survive anything: sealed, written aside, flushed, then renamed; the one before is kept, for when this one is
damaged."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from kd.config import InputError
from kd.distributed import is_main
from kd.files import leads_out, write_whole
from kd.sealed import KEY, DamagedError, sealed, unsealed
from students.progress import say

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``checkpoint.pt``; the old one becomes ``checkpoint.previous.pt``."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            torch.save(sealed(state), file)
            file.flush()
            os.fsync(file.fileno())
        if (folder / NAME).exists():
            (folder / NAME).replace(folder / PREVIOUS)

    write_whole(folder / NAME, write)


def load(folder: Path, device: torch.device) -> dict[str, Any] | None:
    """The last checkpoint that is whole, or None if there is none yet.

    Raises:
        DamagedError: there are some, and none is whole; nothing is deleted.
    """
    there = [folder / name for name in (NAME, PREVIOUS) if (folder / name).exists()]
    damage: list[str] = []
    for path in there:
        try:
            state, _ = read(path, device)
        except DamagedError as error:
            damage.append(str(error))
        else:
            if damage:
                say(f"WARNING: {damage[0]}; going on from {path.name}, at step {state['step']}")
            return state
    if damage:
        raise DamagedError(
            f"{'; '.join(damage)}. No checkpoint is whole: restore one, or remove {' and '.join(path.name for path in there)} "
            "to begin this run anew"
        )
    return None


def read(path: Path, device: torch.device) -> tuple[dict[str, Any], bool]:
    """A checkpoint, and whether it carries its digest.

    Raises:
        DamagedError: it does not hold what was written there.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(state, dict) or "step" not in state:
            raise ValueError("it is no checkpoint of a run")
    except Exception as error:  # torch reports damage by many types
        code = "weights_only" in str(error) or "Unsupported" in str(error)
        reason = "it holds code, which is never run" if code else " ".join(str(error).split())[:120] or type(error).__name__
        raise DamagedError(f"{path}: cannot be read ({reason})") from None
    return unsealed(state, path), KEY in state


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block the directory belongs to this process (rank 0); a dead process holds nothing.

    Raises:
        InputError: another process is writing there, or what is written there would land elsewhere.
    """
    if not is_main():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if astray := leads_out(folder):
        raise InputError(
            f"{astray}: is a link that leads out of the run's directory, which training writes to; put the file there"
        )
    with (folder / ".lock").open("a", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process is training there; wait for it, or choose another --output") from None
        HELD.add(handle)
        try:
            yield
        finally:
            HELD.discard(handle)


HELD: set[TextIO] = set()


def _let_go() -> None:
    """Processes that read samples must not keep the directory of a trainer that was killed."""
    for handle in HELD:
        handle.close()


os.register_at_fork(after_in_child=_let_go)
