"""What `kd benchmark losses` compares has one value and one gradient; what it prints are ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_tools import call

from kd.benchmark.losses import ours, usual
from kd.benchmark.setting import Setting, random_outputs, random_target
from kd.types import IGNORE, Outputs


def test_the_ways_are_one_objective() -> None:
    setting = Setting((64, 96), 2, 5)
    student, teacher = (random_outputs(setting, 8, seed) for seed in (0, 1))
    target = random_target(setting)
    target[:, :9] = IGNORE
    found = []
    for way in (usual, ours("whole", setting), ours("blocks", setting)):
        leaf = student.logits.detach().clone().requires_grad_()
        value = way(Outputs(leaf), teacher, target)
        value.backward()
        found.append((float(value.detach()), leaf.grad))
    for value, gradient in found[1:]:
        assert value == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-8)


def test_the_command_prints_and_writes_ratios(tmp_path: Path) -> None:
    words = ["--crop", "64", "96", "--classes", "5", "--repeats", "2", "--device", "cpu", "--json", "out.json"]
    done = call("benchmark", "losses", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "| what | way | ms | x usual | spread | MiB | x usual |"
    assert [line.split(" | ")[1] for line in lines[2:5]] == ["usual", "whole maps", "by blocks"]
    assert [row["way"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == [
        "usual",
        "whole maps",
        "by blocks",
    ]
    assert "takes no preset" in call("benchmark", "losses", "cwd", folder=tmp_path).stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--crop", "0", "64"],
        ["--classes", "1"],
        ["--batch", "0"],
        ["--repeats", "0"],
        ["--json", "nowhere/out.json"],
        ["--only", "nothing of that"],
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(tmp_path: Path, words: list[str]) -> None:
    done = call("benchmark", "losses", *words, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {words[0]}")
