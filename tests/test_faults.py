"""Faults around a run: disks that cannot be written or come back, clocks that go backwards, launchers that die, two machines.

Those that take long run by ``make faults`` alone.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_faults import SLOW
from helpers_tools import call, saved
from safetensors.torch import load_file
from test_full_disk import on_small_disk
from test_kills import ENVIRONMENT, assert_same, descendants
from test_run import resumable, until_step, write_recipe
from tiny import execute

from kd.data.shapes import Shapes
from students.examining import previews
from students.tracking import tracker
from students.trainer import Trainer

SHORT = {"evaluation": {"every": 2}, "run": {"checkpoint_every": 2, "previews": 1}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    execute(resumable(**SHORT), folder)
    return folder


def gone(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "/mnt/data/x.png")


@pytest.mark.parametrize("what", ["reading", "logging", "checkpoint", "picture"])
def test_a_disk_that_is_away_for_a_while_ends_the_run_in_a_line_and_it_goes_on(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    words = ("train", write_recipe(tmp_path, **SHORT), "--output", tmp_path / "run")
    original = Trainer.one_step

    def breaks(self: Trainer, batches: Any) -> Any:
        found = original(self, batches)
        if self.step == 3:
            target = {
                "reading": (Shapes, "read"),
                "logging": (tracker, "encode"),
                "checkpoint": (torch, "save"),
                "picture": (previews, "write_whole"),
            }[what]
            monkeypatch.setattr(*target, gone)
        return found

    monkeypatch.setattr(Trainer, "one_step", breaks)
    done = call(*words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Input/output error; the disk does not answer; when it does again, the same command" in done.stderr.splitlines()[-1]
    monkeypatch.undo()
    done = call(*words)
    assert done.returncode == 0, done.stderr
    assert_same(straight, tmp_path / "run")


def test_a_clock_that_goes_backwards_is_no_matter(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    result = execute(resumable(**SHORT), tmp_path / "run")
    assert result["cost"]["train_seconds"] > 0
    assert_same(straight, tmp_path / "run")


def test_a_directory_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    done = on_small_disk(
        tmp_path, "10m,ro", "train", "shapes/tiny", "ce", "schedule.steps=2", "--output", tmp_path / "disk" / "run"
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"{tmp_path}/disk/run" in line
    assert "Read-only file system" in line
    assert "Traceback" not in done.stderr


@SLOW
def test_an_export_onto_a_full_disk_leaves_nothing_half(tmp_path: Path) -> None:
    saved(tmp_path / "run")
    words = ("export", tmp_path / "run", "--size", 64, 64, "--onnx", tmp_path / "disk" / "a.onnx")
    done = on_small_disk(tmp_path, "20k", *words)
    assert done.returncode == 2, done.stderr
    assert f"does not fit: the disk at {tmp_path}/disk is full (" in done.stderr
    assert not list((tmp_path / "kept").rglob("*.*"))


LAUNCH = [sys.executable, "-m", "kd", "launch", "--nproc-per-node", "2"]
LONG = {"schedule": {"steps": 12}, "evaluation": {"every": 6}, "run": {"checkpoint_every": 3}}


@SLOW
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, **{**LONG, "schedule": {"steps": 5000}})
    process = subprocess.Popen([*LAUNCH, "train", str(recipe), "--output", str(tmp_path / "run")], env=ENVIRONMENT)
    until_step(tmp_path / "run", 3, process.poll)
    ranks = descendants(process.pid)
    process.kill()
    process.wait()
    ends = time.monotonic() + 60
    while alive := [pid for pid in ranks if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < ends, alive
        time.sleep(0.2)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] >= 3


@SLOW
def test_two_machines_lose_a_rank_and_end_as_undisturbed(tmp_path: Path) -> None:
    """Two launchers that meet by c10d, with a process each; one is killed, both begin anew from the checkpoint."""
    recipe = write_recipe(tmp_path, **LONG)
    whole = subprocess.run(
        [*LAUNCH, "train", str(recipe), "--output", str(tmp_path / "whole")], env=ENVIRONMENT, capture_output=True, timeout=200
    )
    assert whole.returncode == 0, whole.stderr
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "2", "--local-addr", "127.0.0.1"]
    meeting += ["--rdzv-endpoint", "127.0.0.1:29613", "--rdzv-id", "two"]
    command = [sys.executable, "-m", "kd", "launch", *meeting, "train", str(recipe), "--output", str(tmp_path / "run")]
    logs = [(tmp_path / f"{number}.txt").open("wb") for number in range(2)]
    machines = [subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log) for log in logs]
    until_step(tmp_path / "run", 4, machines[0].poll)
    os.kill(descendants(machines[1].pid)[0], signal.SIGKILL)
    codes = [machine.wait(200) for machine in machines]
    told = "".join((tmp_path / f"{number}.txt").read_text() for number in range(2))
    assert codes == [0, 0], told
    assert "another process of this run is gone, or does not answer" in told
    assert "Traceback" not in told
    ours, theirs = (load_file(tmp_path / name / "student.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
