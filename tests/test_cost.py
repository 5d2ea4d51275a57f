"""What a network costs: multiply-adds against a hand count, parameters by part, and the tool."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers_tools import apart, call, inside, saved, small
from tiny import tiny
from torch import nn

from kd.networks import cost
from kd.networks.build import build_network
from kd.networks.cost import latency, measure, multiply_adds, parameters, peak_memory, table
from kd.networks.sync_batch_norm import MESSAGES, synchronise
from kd.recipe.schema import plain
from students.planning.bench import candidates
from students.planning.plan import Setting, memory_of, plan, step_of
from students.planning.remedies import Crowded, Remedy
from students.planning.stage_cost import Line, StageCost
from students.planning.telling import advice, assumptions
from students.planning.telling import table as plan_table
from students.planning.world import buckets, parsed

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


# ------------------------------------------------------------------------------------------------------- plans

ONE = StageCost(
    name="distil",
    steps=3600,
    part=Line(0.1, 0.05),
    alone=Line(0.0, 0.05),
    update=0.02,
    states={"weights": 100, "gradients": 80, "optimizer": 160, "average": 0, "teacher": 40, "teacher_copy": 40},
    activations=Line(10.0, 100.0),
    sent=80,
    messages=20,
    measured=(4, 2),
)
"""Worked by hand below: 0.1 + 0.05 n seconds a part, 10 + 100 n bytes."""


def test_a_ring_takes_the_time_of_the_formula() -> None:
    world = parsed("gpus=4,within=10,latency=50")
    assert world.all_reduce(8e9, 3) == pytest.approx(2 * 3 / 4 * 8e9 / 10e9 + 3 * 6 * 50e-6)
    both = parsed("gpus=8, nodes=4, within=100GB/s, between=11 GB/s, latency=20us, memory=80GiB")
    assert (both.processes, both.bandwidth, both.delay, both.memory) == (32, 11, 20, 80)
    assert both.all_reduce(1e9) == pytest.approx(2 * 31 / 32 / 11 + 62 * 20e-6)
    assert parsed("gpus=2,nodes=2,within=2").bandwidth == 2  # the slowest link, wherever it is
    assert parsed("nodes=2,within=2").bandwidth == 3  # one device a machine: nothing within
    assert (parsed("gpus=2").delay, parsed("nodes=2").delay) == (10, 30)
    assert parsed("gpus=1,nodes=1").all_reduce(1e9, 5) == 0
    assert [buckets(size) for size in (0, 1, 2**20, 2**20 + 1, 26 * 2**20, 26 * 2**20 + 1)] == [0, 1, 1, 2, 2, 3]


def test_a_step_is_worked_out_by_hand() -> None:
    """64 images over 8 processes in 2 parts: 4 at once. Ring: 14 hops of 100 us, 7/4 of the bytes at 1 GB/s."""
    setting = Setting(parsed("gpus=8,within=1,latency=100"), batch=64, accumulate=2, workers=4, reading=0.01)
    step = step_of(ONE, setting)
    assert step["compute"] == pytest.approx(2 * 0.3 + 0.02)
    assert step["all_reduce"] == pytest.approx(80 * 7 / 4 / 1e9 + 14e-4)
    assert step["small_messages"] == 2 * 20 + 2
    assert step["small_messages_seconds"] == pytest.approx(42 * 14e-4)
    assert step["step"] == pytest.approx([0.62 + 0.0588, 0.62 + 0.0588 + step["all_reduce"]])
    assert step["alone"] == pytest.approx(8 * 2 * 0.2 + 0.02)
    found = plan([ONE], setting, memory=None)
    low, high = step["step"]
    assert found["hours"] == pytest.approx([low, high])
    assert found["accelerator_hours"] == pytest.approx([8 * low, 8 * high])
    assert found["images_per_second"] == pytest.approx([64 / high, 64 / low])
    assert found["speed_up"] == pytest.approx([3.22 / high, 3.22 / low])
    assert found["efficiency"] == pytest.approx([3.22 / high / 8, 3.22 / low / 8])
    assert found["fits"] is None


def test_a_slow_link_is_hidden_only_as_far_as_there_is_computation() -> None:
    slow = step_of(replace(ONE, sent=10**9), Setting(parsed("gpus=2,within=1,latency=0"), batch=2, accumulate=1))
    assert slow["step"] == pytest.approx([1.0, 1.0 + 0.17])


def test_steps_wait_for_samples_that_workers_cannot_read_in_time() -> None:
    world = parsed("gpus=2")
    assert Setting(world, 8, 1, workers=2, reading=0.1).waiting(0.05, 4) == pytest.approx(0.15)
    assert Setting(world, 8, 1, workers=2, reading=0.1).waiting(0.3, 4) == 0
    assert Setting(world, 8, 1, workers=0, reading=0.1).waiting(0.3, 4) == pytest.approx(0.4)


def test_one_device_sends_nothing() -> None:
    found = plan([ONE], Setting(parsed("gpus=1,nodes=1"), batch=4, accumulate=1), memory=None)
    (stage,) = found["stages"]
    assert (stage["all_reduce"], stage["buckets"], stage["small_messages"], stage["memory"]["buckets"]) == (0, 0, 0, 0)
    assert stage["step"] == [stage["compute"]] * 2
    assert "all-reduce" not in plan_table(found, "one")
    assert not any("ring" in told for told in assumptions(found, {"device": "x", "device_type": "cpu", "threads": 1}, 0))


def test_memory_is_what_lies_there_and_what_a_part_adds() -> None:
    found = memory_of(ONE, Setting(parsed("gpus=2"), batch=8, accumulate=2))
    assert (found["activations"], found["buckets"]) == (210, 80)
    assert found["total"] == 100 + 80 + 160 + 40 + 40 + 80 + 210
    unknown = memory_of(replace(ONE, activations=None), Setting(parsed("gpus=2"), batch=8, accumulate=2))
    assert (unknown["activations"], unknown["total"]) == (None, None)


def test_a_line_goes_through_what_was_measured() -> None:
    assert Line.through({8: 10.0, 4: 6.0}) == (2.0, 1.0)
    assert Line.through({8: 4.0}) == (0.0, 0.5)
    assert Line.through({8: 5.0, 4: 6.0}) == (5.0, 0.0)  # a noisy clock: never less for more images
    assert [candidates(images, 2) for images in (1, 2, 3, 4, 9)] == [[4, 2], [4, 2], [6, 3], [4, 2], [9, 4, 2]]
    assert candidates(1, 1) == [2, 1]


def crowded(limit: float, cost: StageCost = ONE, **machine: Any) -> dict[str, Remedy]:
    """Remedies by their keys, where what is measured anew takes half of a part's memory."""
    recipe = tiny("kd", schedule={"batch": 16}, run=machine)
    less = replace(cost, activations=Line(5.0, 50.0))
    setting = Setting.of(recipe, parsed("gpus=2"))
    found = Crowded(recipe, setting, [cost], limit, CPU, lambda changed: [less]).remedies()
    return {remedy.change.partition("=")[0]: remedy for remedy in found}


def test_what_to_set_where_it_does_not_fit() -> None:
    """8 images at once take 500 + 810 bytes: 4 take 910, 2 take 710, 1 takes 610."""
    found = crowded(750)
    assert list(found) == ["schedule.accumulate", "schedule.precision", "augmentation.crop", "teacher.cache"]
    parts, half, crop, kept = found.values()
    assert (parts.change, parts.memory, parts.fits) == ("schedule.accumulate=4", 710, True)
    assert parts.step[0] == pytest.approx(4 * 0.2 + 0.02 + 82 * 2e-5)
    assert (half.change, half.memory, half.fits) == ("schedule.precision=bf16", 500 + 405, False)
    assert (crop.change, crop.memory, crop.fits) == ("augmentation.crop=[16,16]", 500 + 10 + 200, True)
    assert (kept.change, kept.memory) == ("teacher.cache=DIR", 1310 - 40)


def test_what_does_not_help_is_not_told() -> None:
    found = crowded(550, maps="whole", channels_last=False)
    assert (found["schedule.accumulate"].change, found["schedule.accumulate"].fits) == ("schedule.accumulate=8", False)
    assert {"run.maps", "run.channels_last"} <= set(found)
    assert "augmentation.crop" not in found  # not even the smallest
    assert "teacher.cache" not in crowded(750, replace(ONE, reads=frozenset({"embedding"})))  # nor what a cache has not
    big = replace(ONE, states={**ONE.states, "weights": 10**6})
    assert crowded(750, big) == {}  # nothing saves a fiftieth of it
    assert "smaller student" in advice([])


def test_as_many_messages_are_sent_as_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []
    monkeypatch.setattr("kd.distributed.world_size", lambda: 2)
    monkeypatch.setattr("kd.distributed.dist.all_reduce", sent.append)
    network = synchronise(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), CPU, processes=2)
    network(torch.rand(2, 3, 4, 4)).square().sum().backward()
    assert len(sent) == MESSAGES["cpu"]


def planned(folder: Path, recipe: Any, plan: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """What the command says of a recipe, and what it writes."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(plain(recipe)))
    done = call("cost", file, "--plan", plan, "--json", folder / "plan.json")
    assert done.returncode == 0, done.stderr
    return done, json.loads((folder / "plan.json").read_text())["plan"]


def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure as few as make a median."""
    monkeypatch.setattr(cost, "LEAST", 2)
    monkeypatch.setattr(cost, "MOST", 2)
    monkeypatch.setattr(cost, "WARM_UP", 1)


def test_a_recipe_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch)
    recipe = tiny("kd", schedule={"batch": 8, "ema": 0.9})
    done, found = planned(tmp_path, recipe, "gpus=2,memory=0.001")
    (stage,) = found["stages"]
    student = build_network(recipe.student, 8)
    size, norms = _weights(student), sum(isinstance(part, nn.BatchNorm2d) for part in student.modules())
    memory = stage["memory"]
    assert (found["images"], found["measured_images"], found["fits"]) == (4, [2, 4], False)
    assert stage["sent"] == memory["gradients"] == memory["buckets"] == size
    assert 2 * size <= memory["optimizer"] < 2 * size + 4000  # Adam: two moments, and a counter each
    assert memory["average"] == pytest.approx(memory["weights"], abs=100)
    assert memory["teacher"] == memory["teacher_copy"] >= size
    assert stage["small_messages"] == MESSAGES["cpu"] * norms + 2
    assert 0 < stage["compute"] < stage["step"][0] <= stage["step"][1]
    assert "It does not fit; " in done.stdout
    assert "  schedule.accumulate=" in done.stdout
    assert all(
        word in done.stdout for word in ("one ring of 2 processes, 100 GB/s and 10 us", "whole batch", "all devices are")
    )


def test_each_stage_of_a_method_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_steps(monkeypatch)
    recipe = tiny("kd", method={"name": "maskd"}, schedule={"batch": 2})
    done, found = planned(tmp_path, recipe, "gpus=1,memory=64")
    tokens, distil = found["stages"]
    assert tokens["small_messages"] == distil["small_messages"] == 0
    assert tokens["memory"]["gradients"] < distil["memory"]["gradients"]
    assert found["steps"] == tokens["steps"] + distil["steps"]
    assert found["fits"]
    assert "all-reduce" not in done.stdout.lower()


def _weights(module: nn.Module) -> int:
    return sum(4 * parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--plan", "gpus=0"),
            "plan.gpus: is '0'; input should be greater than or equal to 1\nwrite e.g. --plan gpus=8,nodes=4",
        ),
        (("--plan", "gpus=x"), "plan.gpus: is 'x'; input should be a valid integer"),
        (("--plan", "gpu=8"), "plan.gpu: there is no such key; did you mean 'gpus'? Keys here: between, gpus,"),
        (("--plan", "gpus"), "--plan: is 'gpus', where 'gpus' is no key=value; write e.g."),
        (("--plan", "gpus=2,gpus=4"), "says gpus twice"),
        (("--plan", "within=0"), "plan.within: is '0'; input should be greater than 0"),
        (("--plan", "gpus=3"), "schedule.batch: is 8; 3 processes x 1 accumulated parts need a multiple of 3"),
        (("--plan", "gpus=2", "--size", "32", "32"), "--size: a plan is of the recipe's own steps"),
    ],
)
def test_bad_plans_are_refused(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert inside("cost", "shapes/tiny", "ce", *words) == 2
    assert message in capsys.readouterr().err
