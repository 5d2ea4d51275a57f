"""The processes that read samples: how they begin and end, and which sample one was at that is gone."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from kd.config import InputError
from kd.data.lazy_torchvision import functional

SLOTS, LENGTH = 1024, 256
"""Workers of a loader, and bytes of a sample's name that are kept."""
LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? (?P<pid>\d+).*?(?:by signal: (?P<signal>[^.]+)|exited unexpectedly)")


class Loader(DataLoader[Any]):
    """A loader whose lost workers are told in words."""

    def __iter__(self) -> Any:
        """Batch by batch. Workers begin now, not with the first batch, so that what that draws is not a step's."""
        return _told(super().__iter__())


def _told(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        with watched():
            yield from batches
    except (ConnectionError, EOFError):  # it was handing over a batch
        if not (known := [int(pid) for pid in _table()[0] if pid]):
            raise
        dead = sorted(set(known) - {child.pid for child in multiprocessing.active_children()})
        raise _lost("it ended", _sample_of(dead[0]) if len(dead) == 1 else "") from None


@contextmanager
def watched() -> Iterator[None]:
    """Within the block the death of a worker, which torch reports wherever the program is, becomes a message.

    Raises:
        InputError: a worker is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if (lost := LOST.search(str(error))) is None:
            raise
        raise _lost(lost["signal"] or "it ended", _sample_of(int(lost["pid"]))) from None


def _lost(how: str, sample: str) -> InputError:
    told = f"{how}{f', while it read {sample}' if sample else ''}"
    return InputError(
        f"a process that reads samples is gone ({told}); mostly since memory has run out: lower run.workers (0: none) or "
        "schedule.batch, or take smaller crops, and the same command resumes the run"
    )


def at(sample: str) -> None:
    """Leave word of which sample this worker reads."""
    if (worker := get_worker_info()) is not None and worker.id < SLOTS:
        pids, names = _table()
        text = sample.encode()[:LENGTH].ljust(LENGTH, b"\0")
        names[worker.id] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        pids[worker.id] = os.getpid()


@cache
def _table() -> tuple[torch.Tensor, torch.Tensor]:
    """Memory that workers share with the process that began them."""
    return torch.zeros(SLOTS, dtype=torch.int64).share_memory_(), torch.zeros(SLOTS, LENGTH, dtype=torch.uint8).share_memory_()


def _sample_of(pid: int) -> str:
    pids, names = _table()
    slots = (pids == pid).nonzero().flatten().tolist()
    return bytes(names[slots[0]].tolist()).rstrip(b"\0").decode(errors="replace") if slots else ""


@cache
def prepare(workers: int) -> None:
    """Import and share what workers need before they fork; and see to their end: they ignore SIGTERM (see :func:`settle`), so
    that after an error python would wait for them for ever."""
    functional()
    if workers:
        _table()
        atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader's handler would report their death
    for worker in multiprocessing.active_children():
        worker.kill()


def settle(worker: int) -> None:  # noqa: ARG001
    """One thread; and a stop signal to the whole process group is the trainer's to answer, who then ends its workers."""
    torch.set_num_threads(1)
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
