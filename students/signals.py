"""Leaving politely: a signal asks the loop to stop after the current step."""

from __future__ import annotations

import signal
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL: "try again"; schedulers can be told to requeue on it


class Interrupted(SystemExit):
    """A signal asked the run to stop; a checkpoint is written, the same command resumes it."""


class StopSignals:
    """Within the block SIGTERM, SIGUSR1 and Ctrl-C raise a flag; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]

    def __enter__(self) -> StopSignals:
        self._old = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        self.asked = True
