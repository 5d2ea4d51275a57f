"""A disk that is full, at whatever file: one line says which, nothing half-written stays, and with room the run goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_tools import call
from PIL import Image
from tiny import execute, tiny

from kd import files
from kd.config import exit_code
from kd.files import write_whole
from kd.networks import load_network, save_network
from kd.sealed import save_tensors
from students import checkpoint
from students.run import train  # noqa: F401 (so that it is imported before the disk is made small)

SMALL = """
mount -t tmpfs -o size={size} tmpfs "$1" || exit 99
cp -r "$2"/. "$1"
"$3" -m kd "${{@:4}}"
code=$?
cp -r "$1"/. "$2"
exit $code
"""


def on_small_disk(folder: Path, size: str, *words: object) -> subprocess.CompletedProcess[str]:
    """A command whose ``disk`` below the folder is a file system of ``size``; what it leaves is copied to ``kept``."""
    disk, kept = folder / "disk", folder / "kept"
    for place in (disk, kept):
        place.mkdir(exist_ok=True)
    script = ["unshare", "-rm", "bash", "-c", SMALL.format(size=size), "bash", disk, kept, sys.executable, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*map(str, script)], cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file system of one's own can be mounted here: {done.stderr.strip()[:80]}")
    return done


def test_a_run_on_a_disk_that_is_too_small_is_told_in_a_line_and_goes_on_with_room(tmp_path: Path) -> None:
    words = ("train", "shapes/tiny", "ce", "schedule.steps=6", "run.checkpoint_every=2", "run.previews=2", "evaluation.every=3")
    full = on_small_disk(tmp_path, "700k", *words, "--output", tmp_path / "disk" / "run")
    assert full.returncode == 2, full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error:")]
    assert f"{tmp_path}/disk/run/" in line
    assert f"does not fit: the disk at {tmp_path}/disk is full (" in line
    assert "Traceback" not in full.stderr
    assert not list((tmp_path / "kept").rglob("*.partial"))
    done = on_small_disk(tmp_path, "60m", *words, "--output", tmp_path / "disk" / "run")
    assert done.returncode == 0, done.stderr
    straight = call(*words, "--output", tmp_path / "straight")
    assert straight.returncode == 0, straight.stderr
    ours, theirs = (load_network(place)[0].state_dict() for place in (tmp_path / "kept" / "run", tmp_path / "straight"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def full(error: Callable[[], BaseException]) -> Callable[..., Any]:
    def write(*_: Any, **__: Any) -> Any:
        raise error()

    return write


WRITES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "checkpoint": ("torch.save", lambda folder: checkpoint.save(folder, {"step": 1})),
    "tensors": ("safetensors.torch.save_file", lambda folder: save_tensors({"a": torch.zeros(2)}, folder / "a.safetensors")),
    "picture": (
        "PIL.Image.Image.save",
        lambda folder: write_whole(folder / "a.png", lambda path: Image.new("L", (2, 2)).save(path, "PNG")),
    ),
}
ERRORS: dict[str, Callable[[], BaseException]] = {
    "as the system says it": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "as a quota says it": lambda: OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "as a library says it": lambda: RuntimeError("I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("words", ERRORS)
@pytest.mark.parametrize("what", WRITES)
def test_whoever_says_that_a_disk_is_full_is_understood(
    what: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, write = WRITES[what]
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(target, full(ERRORS[words]))
    assert exit_code(lambda: write(tmp_path)) == 2
    assert "does not fit: the disk at" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_library_that_only_fails_is_asked_whether_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def strange(_: Path) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        write_whole(tmp_path / "a", strange)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(tmp_path / "a", strange)
    assert error.value.filename == str(tmp_path / "a")


def test_a_network_that_does_not_fit_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    execute(tiny(), folder)
    network, card = load_network(folder)
    del card["network"]
    monkeypatch.setattr("safetensors.torch.save_file", full(ERRORS["as a library says it"]))
    with torch.no_grad():
        next(network.parameters()).zero_()
    with pytest.raises(OSError, match="No space left"):
        save_network(network, folder, "student", card)
    monkeypatch.undo()
    assert next(load_network(folder)[0].parameters()).abs().sum() > 0
