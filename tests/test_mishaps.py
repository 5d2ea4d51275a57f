"""Mishaps around a run: signals to the whole group, broken gradients, exchanged teachers, crowded directories."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_faults import FAULTS
from helpers_forked import Forked
from helpers_tools import call
from PIL import Image
from safetensors.torch import load_file, save_file
from test_run import LONGER, until_step, write_recipe
from tiny import STUDENT, execute, merged, tiny
from torch.utils.data import get_worker_info

from kd.config import ConfigError, InputError
from kd.data.shapes import Shapes
from kd.losses.mixture import weighted_sum
from kd.losses.overlap import JaccardMetricLoss
from students import checkpoint
from students.nonfinite import NonFiniteLossError
from students.trainer import Trainer

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_spares_the_loader(tmp_path: Path, number: int) -> None:
    """``timeout`` and schedulers signal workers too; the trainer must still write its checkpoint."""
    recipe = write_recipe(tmp_path, **merged(LONGER, {"run": {"workers": 2}}))
    command = [sys.executable, "-m", "kd", "train", str(recipe), "--output", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until_step(tmp_path / "run", 3, process.poll)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.one_step

    def poisons(self: Trainer, batches: Any) -> Any:
        if self.step == 3:
            weight = self.objective.student.head.classifier.conv.weight
            weight.register_hook(lambda grad: torch.full_like(grad, float("nan")))
        return original(self, batches)

    monkeypatch.setattr(Trainer, "one_step", poisons)
    with pytest.raises(NonFiniteLossError, match=r"step 3: .*all finite.*gradient.*no step was taken"):
        execute(tiny(run={"checkpoint_every": 1}), tmp_path)
    state = checkpoint.load(tmp_path, torch.device("cpu"))
    assert state is not None
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["objective"].values())
    assert "nan" in json.loads((tmp_path / "diagnosis.json").read_text())["gradient_norms"].values()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_infinite_loss_with_a_finite_gradient_moves_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    original, calls, before = weighted_sum, count(), dict[str, Any]()

    def breaks(*arguments: Any) -> torch.Tensor:
        worth = float("inf") if next(calls) == 3 * accumulate else 0.0  # of the first part of step 3
        return original(*arguments) + worth

    refused = Trainer._refuse

    def looks(self: Trainer, part: Any) -> None:
        before.update({name: value.clone() for name, value in self.objective.student.named_parameters()})
        refused(self, part)

    monkeypatch.setattr("students.trainer.weighted_sum", breaks)
    monkeypatch.setattr(Trainer, "_refuse", looks)
    with pytest.raises(NonFiniteLossError, match=r"step 3: .*no step was taken"):
        execute(tiny(run={"checkpoint_every": 1}, schedule={"accumulate": accumulate, "batch": 4}), tmp_path)
    state = checkpoint.load(tmp_path, torch.device("cpu"))
    assert state is not None
    assert state["step"] == 3
    for name, value in before.items():
        assert torch.equal(value, state["objective"][f"student.{name}"])


def test_a_reader_that_is_killed_is_told_with_its_sample_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Shapes.read

    def dies(self: Shapes, index: int) -> Any:
        if get_worker_info() is not None and index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    changes = {"run": {"workers": 1}, "data": {"train": 8}, "schedule": {"batch": 4}, "evaluation": {"every": 0}}
    words = ("train", write_recipe(tmp_path, **changes), "--output", tmp_path / "cut")
    monkeypatch.setattr(Shapes, "read", dies)
    ended, _, errors = Forked(tmp_path, *words).wait()
    assert ended == 2, errors
    assert re.search(
        r"error: a process that reads samples is gone \((Killed|it ended), while it read \S*7\); .* lower run\.work", errors
    )
    assert "Traceback" not in errors
    monkeypatch.undo()
    done = call(*words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("teacher", "different: the weights that its recipe names; put the old ones back"),
        ("teacher-0123456789ab-s0", "holds other weights than when this run began.*put the old ones back"),  # as sweeps call it
    ],
)
def test_an_exchanged_teacher_is_noticed_on_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    execute(tiny(schedule={"steps": 1}, evaluation={"every": 0}), tmp_path / name)
    recipe = tiny("kd", teacher={"name": "run", "path": str(tmp_path / name)}, evaluation={"every": 0})
    monkeypatch.setattr("students.run._conclude", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
    with pytest.raises(RuntimeError, match="cut"):
        execute(recipe, tmp_path / "run")
    monkeypatch.undo()
    file = tmp_path / name / "student.safetensors"
    weights = load_file(file)
    save_file({key: value * 1.01 if value.is_floating_point() else value for key, value in weights.items()}, file)
    with pytest.raises(ConfigError, match=told):
        execute(recipe, tmp_path / "run")


def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    script = f"""
import os, time
from pathlib import Path
from students import checkpoint
with checkpoint.locked(Path({str(tmp_path)!r})):
    if os.fork() == 0:  # as a reader of samples, which outlives a trainer that is killed
        time.sleep(60)
    print("held", flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    holder = subprocess.Popen([sys.executable, "-c", script], **pipes)  # type: ignore[call-overload]
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another process is training there"), checkpoint.locked(tmp_path):
        pass
    holder.kill()
    holder.wait(30)
    with checkpoint.locked(tmp_path):
        pass
    os.killpg(holder.pid, signal.SIGKILL)


def test_a_first_attempt_that_was_refused_does_not_keep_the_directory(tmp_path: Path) -> None:
    fresh = {"name": "fresh", "network": STUDENT}
    with pytest.raises(ConfigError, match="floor"):
        execute(tiny("kd", teacher={**fresh, "floor": 99}, evaluation={"every": 0}), tmp_path)
    result = execute(tiny("kd", teacher=fresh, evaluation={"every": 0}), tmp_path)
    assert result["status"] == "finished"


def test_where_the_data_lies_is_no_part_of_a_runs_identity(tmp_path: Path) -> None:
    from kd.recipe.loading import load
    from kd.recipe.schema import fingerprint

    marks = [fingerprint(load("camvid/r18", ["ce", f"data.root={root}"])[0]) for root in (tmp_path, "/elsewhere")]
    assert marks[0] == marks[1]
    assert marks[0] != fingerprint(load("camvid/r18", ["ce", "data.resize=[180, 240]"])[0])


def test_a_term_on_a_missing_head_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss\.ce_aux\.field: is aux_logits, but the student has no auxiliary head"):
        execute(tiny(student={"aux": 0}), tmp_path)


@pytest.mark.parametrize("name", ["loss", "a.b", "no"])
def test_names_that_would_be_lost_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"loss has a term '{name}'"):
        tiny(loss={name: {"name": "cross_entropy"}}, weights={name: 1.0})


def test_the_logarithm_of_an_inactive_class_spoils_no_gradient() -> None:
    logits = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))  # class 3 is absent
    JaccardMetricLoss(log=True, smooth=0.0)(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


LAUNCH = [sys.executable, "-m", "kd", "launch", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1] if FAULTS else [signal.SIGUSR1])
def test_a_signal_to_the_launcher_reaches_two_processes_and_asks_for_a_requeue(tmp_path: Path, number: int) -> None:
    recipe = write_recipe(tmp_path, **merged(LONGER, {"run": {"checkpoint_every": 10_000}}))
    command = [*LAUNCH, "train", str(recipe), "--output", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until_step(tmp_path / "run", 3, process.poll)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "the same command resumes the run" in errors
    assert "Traceback" not in errors
    state = checkpoint.load(tmp_path / "run", torch.device("cpu"))
    assert state is not None
    assert state["step"] >= 3
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"resuming {tmp_path / 'run'} at step {state['step']}" in done.stderr
    assert done.stdout.count("finished") == 1
    assert "Warning" not in done.stderr


def test_the_launcher_ends_as_its_command_does(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, run={"device": "nonsense"})
    done = subprocess.run([*LAUNCH, "train", str(recipe)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("error: run.device: is 'nonsense'") == 1
    assert "Traceback" not in done.stderr
    for words in (("--nproc-per-node", 0), ("--nnodes", "0:0"), ("--max-restarts", -1)):
        odd = call("launch", *words, "train", recipe)
        assert (odd.returncode, odd.stderr.startswith("error: launch: ")) == (2, True), odd.stderr
    nothing = subprocess.run(LAUNCH, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (nothing.returncode, "give a command to run" in nothing.stderr) == (2, True)


@pytest.mark.parametrize("place", [0, 5])
def test_a_broken_mask_ends_the_run_at_once(tmp_path: Path, place: int) -> None:
    """The first pair is read before anything is written; a later one ends the workers, which ignore SIGTERM, too."""
    source = torch.Generator().manual_seed(0)
    for number in range(8):
        for split in ("train", "val"):
            image = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=source).numpy()
            labels = torch.full((40, 48), 9 if (split, number) == ("train", place) else 1, dtype=torch.uint8).numpy()
            for kind, pixels in (("images", image), ("masks", labels)):
                (tmp_path / "data" / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "data" / kind / split / f"{number}.png")
    words = [f"data={{name: folder, root: {tmp_path / 'data'}, classes: [a, b]}}", "augmentation.crop=[32,32]"]
    words += [
        "schedule.steps=9",
        "schedule.batch=4",
        "run.workers=2",
        "run.device=cpu",
        "run.absent_classes=allow",
        "evaluation.report=val",
    ]
    command = [sys.executable, "-m", "kd", "train", "shapes/tiny", "ce"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "run"), *words], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert f"{place}.png: holds the value 9" in done.stderr
    assert (tmp_path / "run" / "run.json").exists() == (place > 0)
