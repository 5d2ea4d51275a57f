"""The examination of the machine: each finding with its remedy, and no check that stops the others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from helpers_tools import apart
from PIL import Image

from students.doctor import machine, services
from students.doctor.finding import Finding
from students.doctor.machine import cpu, diagnose, disk, packages
from students.doctor.services import datasets, hub, wandb
from students.tracking import wandb_view


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KD_DATA", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(services, "reachable", lambda url: False)


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    return found


def test_packages_are_held_against_the_projects_own_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch<9,>=2.0", "pydantic<3,>=2.7", "timm>=999", 'nothing-such>=1; extra == "hf"', 'numpy>=1.2; extra == "smp"']
    monkeypatch.setattr(metadata, "requires", lambda name: [*lines, "nothing-such>=1; extra == 'dev'"])
    found = list(packages())
    assert [(f.state, f.topic) for f in found] == [
        ("ok", "package"),
        ("ok", "package"),
        ("problem", "package"),
        ("note", "extra"),
        ("ok", "extra"),
    ]
    assert found[2].text == f"timm is {metadata.version('timm')}, older than 999"
    assert found[2].remedy == "pip install 'timm>=999'"
    assert found[3].text == "hf: nothing-such is not installed"
    assert "pip install 'segmentation-kd[hf]'" in str(found[3])


def test_the_real_requirements_are_understood() -> None:
    found = list(packages())
    assert {"torch", "pydantic", "timm"} <= {f.text.split()[0] for f in found if f.topic == "package"}
    assert {"hf", "export"} <= {f.text.split(":")[0] for f in found if f.topic == "extra"}


def test_a_project_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROJECT", "no-such-project")
    assert only(packages()).state == "problem"


def test_a_broken_check_is_a_problem_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Finding]:
        yield Finding("ok", "half", "done")
        raise ImportError("libcudart.so: cannot open\nmore")

    monkeypatch.setattr(machine, "CHECKS", (broken, disk))
    half, problem, last = diagnose()
    assert half.topic == "half"
    assert (problem.state, problem.topic) == ("problem", "broken")
    assert problem.text == "cannot be examined (ImportError: libcudart.so: cannot open)"
    assert last.topic == "disk"


def test_threads_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(cpu()).state == "ok"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    assert "OMP_NUM_THREADS=" in only(cpu()).remedy
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 2**29, "total": 2**40}))
    assert only(disk()).state == "problem"


def test_data_sets_are_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "KD_DATA is not set" in only(datasets()).text
    monkeypatch.setenv("KD_DATA", str(tmp_path / "nowhere"))
    assert "is no directory" in only(datasets()).text
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (tmp_path / "camvid" / folder).mkdir(parents=True)
            Image.new("L", (8, 6)).save(tmp_path / "camvid" / folder / "one.png")
        (tmp_path / "camvid" / f"{split}.txt").write_text("one\n")
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    found = {finding.text.split(":")[0]: finding for finding in datasets()}
    assert str(found["camvid"]) == "ok       data       camvid: train 1, val 1, test 1 images"
    assert not {"shapes", "folder"} & set(found)
    (tmp_path / "camvid" / "val.txt").unlink()
    broken = {finding.text.split(":")[0]: finding for finding in datasets()}["camvid"]
    assert broken.state == "note"
    assert "val.txt: is missing" in broken.text


def test_weights_and_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hf/hub/models--timm--resnet18.a1_in1k").mkdir(parents=True)
    found = only(hub())
    assert found.state == "note"
    assert "does not answer" in found.text
    assert "1 models in" in found.text
    assert "timm/resnet18.a1_in1k" in found.text
    monkeypatch.setattr(services, "reachable", lambda url: url == "https://mirror.example")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert only(hub()).state == "ok"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in only(hub()).text


def test_the_key_of_wandb_is_that_of_the_server_that_runs_go_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wandb_view, "server", lambda: "https://wandb.example:8080")
    assert "no key for https://wandb.example:8080" in only(wandb()).text
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.netrc").write_text("machine wandb.example login user password 0\n")
    assert "key from" in only(wandb()).text
    assert "does not answer" in only(wandb()).text
    monkeypatch.setattr(services, "reachable", lambda url: True)
    assert only(wandb()).state == "ok"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in only(wandb()).text


def test_the_tool_ends_well_without_network(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: refuses at once
        taken.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = apart("doctor", HF_ENDPOINT=closed, WANDB_BASE_URL=closed, KD_DATA="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("fit to train\n")
    topics = {line.split()[1] for line in done.stdout.splitlines() if line.startswith(("ok ", "note "))}
    assert {"python", "package", "library", "gpu", "cpu", "shm", "disk", "processes", "data", "hub", "wandb"} <= topics
    assert services.OR in done.stdout
