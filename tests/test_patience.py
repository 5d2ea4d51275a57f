"""How long a step waits for its data is recorded, and told once where it is much."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import execute, tiny

from students import patience
from students.patience import ENOUGH, SKIPPED, Patience
from students.tracking.tracker import read_metrics


def test_a_run_records_and_warns_of_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = count()
    monkeypatch.setattr("students.trainer.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(patience, "ENOUGH", 2)
    monkeypatch.setattr(patience, "SKIPPED", 1)
    execute(tiny(), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    shares = [record["perf"]["waiting_for_data"] for record in records if "waiting_for_data" in record.get("perf", {})]
    assert shares == pytest.approx([1 / 3] * 5)  # of the three ticks of a step one is waiting
    told = [line for line in capsys.readouterr().err.splitlines() if "waiting for data" in line]
    assert len(told) == 1
    assert "33% of the time of a step is waiting for data; raise run.workers (now 0)" in told[0]
    assert "--store" not in told[0]  # shapes are drawn


@pytest.mark.parametrize(("share", "warns"), [(0.19, False), (0.21, True)])
def test_the_first_steps_do_not_count(capsys: pytest.CaptureFixture[str], share: float, warns: bool) -> None:
    look, seconds, waited = Patience(2, files=True), 0.0, 0.0
    for step in range(1, 101):
        seconds, waited = seconds + 1, waited + (1 if step <= SKIPPED else share)
        look.look(seconds, waited)
        if step < SKIPPED + ENOUGH:
            assert not capsys.readouterr().err
    assert look.told == warns
    told = capsys.readouterr().err
    assert told.count("WARNING") == warns
    assert ("kd prepare RECIPE --store DIR" in told) == warns
