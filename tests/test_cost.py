"""What a network costs: multiply-adds against a hand count, parameters by part, and the tool."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_tools import apart, inside, saved, small
from torch import nn

from kd.networks.cost import latency, measure, multiply_adds, parameters, peak_memory, table

CPU = torch.device("cpu")


def test_multiply_adds_are_those_of_the_hand() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
    image = torch.rand(2, 3, 9, 12)
    assert multiply_adds(lambda: conv(image)) == 2 * (5 * 6) * 8 * 3 * 9
    grouped, linear = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Linear(5, 7)
    assert multiply_adds(lambda: grouped(torch.rand(1, 4, 6, 6))) == 36 * 4 * 9
    assert multiply_adds(lambda: linear(torch.rand(3, 5))) == 3 * 5 * 7


def test_a_network_part_by_part() -> None:
    network = small(aux=4)
    network.backbone.requires_grad_(False)
    counts = parameters(network)
    assert set(counts) == {"total", "trainable", "backbone", "head", "aux_head"}
    assert counts["total"] == sum(p.numel() for p in network.parameters())
    assert counts["total"] == counts["backbone"] + counts["head"] + counts["aux_head"]
    assert counts["trainable"] == counts["total"] - counts["backbone"]
    wrapped = nn.Module()
    wrapped.network = network
    assert parameters(wrapped) == counts


def test_the_whole_measurement() -> None:
    network = small(aux=4)
    one = measure(network, network, network.sizes, (32, 64))
    two = measure(network, network, network.sizes, (32, 64), batch=2)
    both = measure(network, network, network.sizes, (32, 64), batch=2, backward=True)
    assert one["macs"] == two["macs"] > 0
    assert 2 < both["macs"] / two["macs"] <= 3
    assert (one["stride"], one["embedding"], one["pyramid_strides"][-1]) == (8, 8, 8)
    assert (one["size"], both["batch"], both["pass"]) == ([32, 64], 2, "forward and backward")
    assert not any(parameter.grad is not None for parameter in network.parameters())
    text = table(one, "student")
    assert text.startswith("student, batch 1 of 32x64, forward")
    assert "aux_head" in text


def test_time_and_memory_are_measured() -> None:
    seconds = latency(lambda: torch.rand(1000).sum(), CPU)
    assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
    assert seconds["repeats"] == 50
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a pass")
    found = peak_memory(lambda: torch.ones(64 * 2**18).sum(), CPU)
    assert 60 < found["mib"] < 90


def test_a_recipe_with_its_teacher_from_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        """
data: {name: camvid, root: /nowhere}
student: {name: deeplabv3, backbone: test_resnet, width: 8, pretrained: true}
teacher: {name: fresh, network: {name: deeplabv3, backbone: test_resnet, width: 16, pretrained: true}}
loss: {ce: {name: cross_entropy}}
method: {name: kd}
weights: {ce: 1, kl: 1}
"""
    )
    words = ("--size", 32, 32, "--device", "cpu")
    done = apart("cost", recipe, *words, "--teacher", "--json", tmp_path / "cost.json", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["student"]["parameters"]["head"] < found["teacher"]["parameters"]["head"]
    assert (found["student"]["parameters"]["trainable"] > 0, found["teacher"]["parameters"]["trainable"]) == (True, 0)
    assert done.stdout.startswith(f"student of {recipe}, batch 1 of 32x32, forward\n")
    assert "teacher of" in done.stdout
    told = [f"{name} of {recipe}: passes of 1 x 32x32 on cpu, for ten seconds or so" for name in ("student", "teacher")]
    assert done.stderr.splitlines() == told
    assert "1 threads" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("student.width=16",), "is a directory; --teacher and key=value need a recipe"),
        (("--teacher",), "is a directory; --teacher and key=value need a recipe"),
        (("--batch", "0"), "all must be positive"),
        (("--backward",), "add --batch 2"),
        (("--device", "tpu9"), "run.device: is 'tpu9'"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    saved(tmp_path)
    assert inside("cost", tmp_path, *words) == 2
    assert message in capsys.readouterr().err
