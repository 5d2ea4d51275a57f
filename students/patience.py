"""Whether training waits for its data."""

from __future__ import annotations

from students.progress import say

SKIPPED, ENOUGH = 10, 20
"""Steps of a process in which the loader's workers start up, and those from which on a share is believed."""
LARGE = 0.2
"""The share of a step's time from which on waiting is worth a word."""


class Patience:
    """Warns once where waiting for data takes a large part of the time.

    Args:
        workers: the processes that load, as the recipe has them.
        files: whether the data set reads files, which could be stored decoded.
    """

    def __init__(self, workers: int, files: bool) -> None:
        self.workers, self.files = workers, files
        self.steps, self.begun, self.told = 0, (0.0, 0.0), False

    def look(self, seconds: float, waited: float) -> None:
        """After each step: seconds spent in steps, and those of them spent on waiting, since any moment."""
        self.steps += 1
        if self.steps == SKIPPED:
            self.begun = seconds, waited
        if self.told or self.steps < SKIPPED + ENOUGH:
            return
        share = (waited - self.begun[1]) / (seconds - self.begun[0])
        if share > LARGE:
            self.told = True
            stored = ", or store the images decoded: `kd prepare RECIPE --store DIR`, then data.store=DIR" if self.files else ""
            say(
                f"WARNING: {share:.0%} of the time of a step is waiting for data; raise run.workers (now {self.workers}) as "
                f"far as there are cores{stored} (told once)"
            )
