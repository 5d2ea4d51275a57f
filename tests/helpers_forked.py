"""Commands of ``kd`` as processes of their own that need not import everything anew: forks of the test's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from kd.commands.main import main

FORK = multiprocessing.get_context("fork")


class Forked:
    """A command that runs beside the test, in a process group of its own; what it says is in ``out`` and ``err``."""

    def __init__(self, folder: Path, *words: object, **environment: object) -> None:
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self._process = FORK.Process(target=self._run, args=([*map(str, words)], {k: str(v) for k, v in environment.items()}))
        self._process.start()
        self.pid = self._process.pid

    def _run(self, words: list[str], environment: dict[str, str]) -> None:
        os.setsid()
        for number, file in ((1, self.out), (2, self.err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(environment)
        sys.exit(main(words))

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.pid
        os.kill(self.pid, number)

    def wait(self, seconds: float = 100) -> tuple[int | None, str, str]:
        """The exit code (negative: the signal that ended it), and what was said."""
        self._process.join(seconds)
        if self.poll() is None:
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"still running after {seconds} s: {self.err.read_text()}")
        return self.poll(), self.out.read_text(), self.err.read_text()


def on_ranks(folder: Path, count: int, *words: object) -> list[tuple[int | None, str, str]]:
    """What the same command ends with as so many ranks of one job."""
    return [one.wait() for one in starting(folder, count, *words)]


def starting(folder: Path, count: int, *words: object) -> list[Forked]:
    """The same command as so many ranks of one job, as torchrun starts them."""
    common: dict[str, Any] = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    return [Forked(folder / f"rank{rank}", *words, RANK=rank, LOCAL_RANK=rank, **common) for rank in range(count)]


def free_port() -> int:
    """A port of this machine that nobody uses."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
