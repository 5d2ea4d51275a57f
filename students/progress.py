"""What a training shows while it runs: a bar in a terminal, now and then a plain line in the log of a batch job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

from kd.distributed import is_main
from kd.visible import visible

T = TypeVar("T")
MEMORY = 0.98  # share of the past that the speed keeps at each update: about the last 50 updates count


class Progress:
    """The bar of one training, on rank 0 only; elsewhere every method does nothing.

    Args:
        total: steps of the whole training.
        start: steps done before (a resumed training); the bar begins there.
        description: the stage.
        every: where stderr is no terminal, a line is printed at multiples of this many steps only...
        seconds: ...and never sooner than this after the line before it. The first and the last update print always.
        split: the one whose mIoU is shown.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        description: str = "",
        every: int = 10,
        seconds: float = 10.0,
        split: str = "",
    ) -> None:
        self._shown, self._split = is_main(), split
        self._total, self._step, self._description = total, start, description
        self._every, self._seconds = every, seconds
        self._clock = _Clock()
        self._losses: dict[str, float] = {}
        self._lr: float | None = None
        self._miou: float | None = None
        self._start, self._began, self._printed, self._last = start, time.monotonic(), -float("inf"), -1
        self._bar: tqdm[Any] | None = None
        if self._shown and sys.stderr.isatty():
            self._bar = self._open(total, start)

    def _open(self, total: int, start: int) -> tqdm[Any]:
        return tqdm(
            desc=self._description,
            total=total,
            initial=start,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=True,
            miniters=1,
            smoothing=0,  # the average over the whole run, evaluations included, is what predicts its end
        )

    def update(
        self,
        losses: Mapping[str, float] | None = None,
        *,
        images: int = 0,
        lr: float | None = None,
        miou: float | None = None,
        steps: int = 1,
    ) -> None:
        """Count ``steps`` more. Values that are not given keep what they last showed.

        Args:
            losses: the total first, then its terms; they are dropped from the end where the line is too narrow.
            images: images seen in these steps by all ranks together; feeds img/s.
            lr: learning rate.
            miou: last mIoU on the split, in percent.
            steps: optimizer steps done since the last call.
        """
        if not self._shown:
            return
        self._step += steps
        self._clock.tick(images)
        self._losses |= losses or {}
        self._lr = self._lr if lr is None else lr
        self._miou = self._miou if miou is None else miou
        if self._bar is not None:
            self._bar.set_postfix_str(self._fitting(self._bar), refresh=False)
            self._bar.update(steps)
        elif self._due():
            self._print()

    def stage(self, description: str) -> None:
        """Name the stage that begins now; the terms of the one before are forgotten."""
        self._description, self._losses = description, {}
        if self._bar is not None:
            self._bar.set_description(description, refresh=False)
            self._bar.set_postfix_str("")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside (evaluation, checkpoints) does not count against img/s."""
        try:
            yield
        finally:
            self._clock.restart()

    def close(self) -> None:
        """Leave the last state on the screen. May be called twice."""
        if self._bar is not None:
            self._bar.close()
        elif self._shown and self._last not in (self._step, -1):
            self._print()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fitting(self, bar: tqdm[Any]) -> str:
        """As many texts, from the first on, as fit beside the fixed parts at their widest and a bar of 1 column."""
        fixed = len(self._description) + 2 * len(str(self._total)) + len(": 100%|#| / [0:00:00<0:00:00]")
        room = (bar.format_dict["ncols"] or 80) - fixed
        return ", ".join(_take(self._texts(), room))

    def _texts(self) -> list[str]:
        """What there is to show, the most important first, so that a narrow line loses the least."""
        losses = [f"{name} {short(value)}" for name, value in self._losses.items()]
        others = [
            "" if self._miou is None else f"{self._split} mIoU {self._miou:.1f}".lstrip(),
            f"{short(self._clock.speed())} img/s" if self._clock.speed() > 0 else "",
            "" if self._lr is None else f"lr {self._lr:.1e}",
        ]
        return [text for text in [*losses[:1], *others, *losses[1:]] if text]

    def _due(self) -> bool:
        if self._last < 0:
            return True
        passed = self._step // self._every > self._last // self._every
        return passed and time.monotonic() - self._printed >= self._seconds

    def _print(self) -> None:
        self._printed, self._last = time.monotonic(), self._step
        done = self._step - self._start
        left = (self._total - self._step) * (self._printed - self._began) / max(done, 1)
        percent = 100 * self._step // max(self._total, 1)
        head = f"{self._description} {self._step}/{self._total} {percent}%".lstrip()
        print(", ".join([head, *self._texts(), f"ETA {tqdm.format_interval(left)}"]), file=sys.stderr, flush=True)


class _Clock:
    """Images per second over about the last 50 updates, as a ratio of sums: single steps on a GPU take no real time."""

    def __init__(self) -> None:
        self._images = self._elapsed = 0.0
        self._then = time.monotonic()

    def tick(self, images: int) -> None:
        now = time.monotonic()
        self._images = MEMORY * self._images + images
        self._elapsed = MEMORY * self._elapsed + now - self._then
        self._then = now

    def restart(self) -> None:
        self._then = time.monotonic()

    def speed(self) -> float:
        return self._images / self._elapsed if self._elapsed > 0 else 0.0


def bar(source: Iterable[T] | int, description: str) -> tqdm[T]:
    """A short bar that goes when it is done, for evaluations; silent on other ranks and where stderr is no terminal.

    Args:
        source: what to iterate over, or a number of things to ``update()``.
        description: what is being done.
    """
    disable = None if is_main() else True  # None: tqdm shows itself in terminals only
    looks: dict[str, Any] = {"desc": description, "leave": False, "dynamic_ncols": True, "disable": disable}
    return tqdm(total=source, **looks) if isinstance(source, int) else tqdm(source, **looks)


def say(text: str) -> None:
    """One line on stderr, on rank 0 only, that does not tear a bar being shown."""
    if is_main():
        tqdm.write(visible(text), file=sys.stderr)


def short(value: float) -> str:
    """Three significant digits: ``0.500``, ``12.3``, ``1.23e+04``."""
    return f"{value:#.3g}".rstrip(".")


def _take(texts: Iterable[str], room: int) -> list[str]:
    taken: list[str] = []
    for text in texts:
        room -= len(text) + 2
        if room < 0:
            break
        taken.append(text)
    return taken
