"""What a training shows: a bar that fits the terminal, plain lines in a batch job's log, nothing on other ranks."""

from __future__ import annotations

import io
import sys

import pytest

from students import progress
from students.progress import Progress, bar, short


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fake_training(total: int = 40, start: int = 0) -> None:
    with Progress(total, start=start, description="distil", seconds=0, every=10, split="test") as shown:
        for _ in range(start, total):
            losses = {"loss": 1.23456, "ce": 0.5, "jaccard_hard": 12.345, "jaccard_soft": 0.000123}
            shown.update(losses, images=16, lr=0.01, miou=61.27)


def test_batch_logs_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fake_training(total=45, start=5)
    written = capsys.readouterr().err
    assert "\r" not in written
    lines = written.splitlines()
    assert [line.split()[1] for line in lines] == ["6/45", "10/45", "20/45", "30/45", "40/45", "45/45"]
    for text in ("loss 1.23,", "ce 0.500", ", test mIoU 61.3", "lr 1.0e-02", "img/s", "jaccard_soft 0.000123", "ETA "):
        assert text in lines[-1]


def test_batch_logs_are_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1000, every=1, seconds=10) as shown:
        for _ in range(1000):
            shown.update()
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(("columns", "there", "gone"), [(80, "test mIoU 61.3", "jaccard"), (160, "jaccard_soft", "\n\n")])
def test_the_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, there: str, gone: str) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, 24))
    fake_training()
    shown = screen.getvalue().split("\r")
    assert max(len(line.rstrip("\n")) for line in shown) <= columns
    assert there in shown[-1]
    assert "40/40" in shown[-1]
    assert shown[-1].rstrip().endswith("]")
    assert gone not in shown[-1]


def test_speed_counts_images_over_time_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(100)
    for step in range(40):
        now[0] += 0.0 if step % 2 else 1.0
        shown.update(images=8)
    with shown.paused():
        now[0] += 1000
    assert shown._clock.speed() == pytest.approx(16, rel=0.02)
    now[0] += 1.0
    shown.update(images=16)
    assert shown._clock.speed() == pytest.approx(16, rel=0.02)


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "is_main", lambda: False)
    fake_training()
    assert list(bar([1, 2], "evaluate")) == [1, 2]
    progress.say("hello")
    assert screen.getvalue() == ""


def test_the_small_bar_counts_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(bar(iter([1, 2]), "evaluate")) == [1, 2]
    with bar(3, "evaluate") as counted:
        counted.update(3)
    assert "evaluate" in screen.getvalue()
    assert not screen.getvalue().endswith("\n")


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.500"), (12.345, "12.3"), (123.4, "123"), (12345.0, "1.23e+04")])
def test_three_digits(value: float, text: str) -> None:
    assert short(value) == text
