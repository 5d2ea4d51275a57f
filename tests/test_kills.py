"""SIGKILL at random moments of runs on two processes: each ends with the bits of an undisturbed one.

``make faults`` kills twenty times, over methods with a critic, a memory, tokens learnt in a stage of their own, and cached soft
labels; the suite once, without launcher. Moments follow from a seed and from the step that is logged, whatever the load is.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_faults import FAULTS, SLOW
from helpers_forked import on_ranks, starting
from helpers_tools import call
from test_run import until_step

from kd.sealed import load_tensors

TEACHER = "{name: fresh, network: {name: deeplabv3, backbone: test_resnet, width: 96, aux: 16, pretrained: false}}"
WORDS = [f"teacher={TEACHER}", "run.device=cpu", "run.workers=1", "run.checkpoint_every=2", "run.log_every=1"]
WORDS += [f"schedule.steps={12 if FAULTS else 6}", "schedule.batch=4", "data.train=12", "evaluation.every=4", "run.previews=0"]
SMALL_BANKS = ["method.pixel_slots=50", "method.region_slots=9"]
METHODS = {
    "ifvd@official": [],
    "cirkd@citys": SMALL_BANKS,
    "maskd@seg": [],
    "kd": ["augmentation.views=2", "teacher.cache=cache"],
}
KILLS = 20
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def words(name: str, run: Path) -> list[object]:
    return ["train", "shapes/tiny", name, *WORDS, *METHODS[name], "--output", run]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Undisturbed runs, by method, made when they are asked for; the working directory is theirs."""
    folder, here = tmp_path_factory.mktemp("straight"), Path.cwd()
    os.chdir(folder)

    def run(name: str) -> Path:
        if not (folder / name).exists():
            if name == "kd":
                made = call("cache-teacher", "shapes/tiny", name, *WORDS, "--views", 2, "--to", "cache")
                assert made.returncode == 0, made.stderr
            for code, _, errors in on_ranks(folder / f"{name}.log", 2, *words(name, folder / name)):
                assert code == 0, errors
        return folder / name

    yield run
    os.chdir(here)


def descendants(parent: int) -> list[int]:
    """Processes below one, ranks before their readers."""
    found, level = [], [parent]
    while level:
        files = [Path(f"/proc/{pid}/task/{pid}/children") for pid in level]
        level = [int(word) for file in files if file.exists() for word in file.read_text().split()]
        found += level
    return found


def kill(launcher: subprocess.Popen[Any], what: str, draw: random.Random) -> None:
    """A rank, or the launcher with all that belongs to it."""
    direct = [int(word) for word in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()]
    ranks = [pid for pid in direct if b"\0RANK=" in Path(f"/proc/{pid}/environ").read_bytes()]
    victims = [draw.choice(ranks)] if what == "rank" else [launcher.pid, *descendants(launcher.pid)]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def test_ranks_that_are_killed_go_on_as_if_undisturbed(straight: Any, tmp_path: Path) -> None:
    reference, run = straight("cirkd@citys"), tmp_path / "run"
    ranks = starting(tmp_path, 2, *words("cirkd@citys", run))
    until_step(run, 3, ranks[0].poll)
    for one in ranks:
        one.signal(signal.SIGKILL)
    assert [one.wait()[0] for one in ranks] == [-signal.SIGKILL] * 2
    for code, _, errors in on_ranks(tmp_path, 2, *words("cirkd@citys", run)):
        assert code == 0, errors
    assert_same(reference, run)


@SLOW
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells the processes of a launcher")
@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_ends_as_an_undisturbed_one(straight: Any, tmp_path: Path, number: int) -> None:
    draw = random.Random(number)
    name, what = [*METHODS][(number + 1) % len(METHODS)], ("rank", "job")[number // len(METHODS) % 2]
    step, later = draw.randrange(1, 13), draw.uniform(0, 0.4)
    reference, run = straight(name), tmp_path / "run"
    launch = [sys.executable, "-m", "kd", "launch", "--nproc-per-node", "2", "--max-restarts", "2"]
    command = [*launch, *map(str, words(name, run))]
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
        until_step(run, step, process.poll)
        time.sleep(later)
        assert process.poll() is None, "ended before it was killed"
        kill(process, what, draw)
        code = process.wait(200)
    told = (tmp_path / "log.txt").read_text()
    if what == "job":
        assert code == -signal.SIGKILL
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
        code, told = done.returncode, done.stderr
    print(f"{name}: {what} killed {later:.2f} s after step {step}")
    assert code == 0, told
    assert_same(reference, run)


def assert_same(reference: Path, run: Path) -> None:
    """The bits of the checkpoint's state, of the weights, and of what the method keeps; the scores."""
    assert {file.name for file in run.iterdir()} >= {file.name for file in reference.iterdir()}
    states = [torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (reference, run)]
    for key in ("step", "objective", "optimizers"):
        assert _equal(states[0][key], states[1][key]), key
    for file in reference.glob("*.safetensors"):
        one, other = (load_tensors(folder / file.name) for folder in (reference, run))
        assert _equal(one, other), file.name
    assert (reference / "counts.npz").read_bytes() == (run / "counts.npz").read_bytes()


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
