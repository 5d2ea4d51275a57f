"""A point as a process of its own, locked while it runs: what every launcher starts."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from kd.config import InputError
from kd.files import write_text
from kd.sealed import read_sealed
from students.progress import say
from students.sweeping.state import is_finished

LOG, RECIPE, LOCK = "log.txt", "point.yaml", ".point.lock"


def begun(
    folder: Path, text: str, command: Sequence[str], environment: Mapping[str, str], lock: IO[str], apart: bool = False
) -> subprocess.Popen[bytes]:
    """The process of a point with a resolved recipe; what it says is added to ``log.txt`` of its directory.

    ``command`` trains: a recipe's file, ``--output`` and a directory are added. ``apart``: signals to the group of this process
    do not reach it, and SIGUSR2 is not heard.
    """
    for name in (RECIPE, LOG):
        _own(folder / name)
    write_text(folder / RECIPE, text)
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [*command, str(folder / RECIPE), "--output", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            pass_fds=[lock.fileno()],  # an orphan goes on holding its point
            start_new_session=apart,
            preexec_fn=_deaf if apart else None,
        )


def _deaf() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def claimed(folder: Path, wait: bool = False) -> IO[str] | None:
    """A point's lock, or None while another process holds it; with ``wait`` once it is free. It says who holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    _own(folder / LOCK)
    handle = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    handle.truncate(0)
    handle.write(f"{socket.gethostname()} {os.getpid()}")
    handle.flush()
    return handle


def _own(path: Path) -> None:
    """Remove a link, or what it leads to would be written to; refuse what is no file."""
    if path.is_symlink():
        path.unlink()
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file; remove it, so that the point can write one")


def holder(folder: Path) -> tuple[str, int] | None:
    """The machine and the process that hold a point, "?" and 0 where the lock does not say; None where none does."""
    if not (folder / LOCK).is_file():
        return None
    with (folder / LOCK).open("r", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            host, _, number = handle.read().rpartition(" ")
            return (host, int(number)) if number.isdecimal() and int(number) else ("?", 0)
    return None


def link_instead(folder: Path, instead: str | None) -> None:
    """A run that was finished outside the sweep is linked to, if it is this very one."""
    if not instead or folder.exists() or not _is_this_run(folder.name, Path(instead)):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(os.path.relpath(instead, folder.parent), target_is_directory=True)
    say(f"{folder.name}: is {instead}, finished before")


def _is_this_run(name: str, folder: Path) -> bool:
    if not is_finished(folder):
        return False
    result = read_sealed(folder / "result.json")
    return name.endswith(f"-{result['fingerprint']}-s{result['seed']}")


def last_line(folder: Path) -> str:
    """The last line that a point wrote, which says why it failed."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "it wrote no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
