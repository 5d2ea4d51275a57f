"""Weights on disk: backbones from local files, networks saved and loaded without a trainer, and damage told plainly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from test_networks import images, network

from kd.config import ConfigError, InputError
from kd.networks.build import load_network, save_network
from kd.networks.weight_files import read_state_dict

ROOT = Path(__file__).parents[1]
CLASSES = list("abcde")


def python(script: str, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a network of seed 0, as a run leaves it."""
    save_network(network(0, aux=4), tmp_path, "student", {"classes": CLASSES, "step": 7})
    return tmp_path


# --- backbones


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_100"])
def test_a_backbone_takes_the_weights_of_a_local_file(tmp_path: Path, backbone: str, suffix: str) -> None:
    torch.manual_seed(3)
    weights = timm.create_model(backbone).state_dict()
    file = tmp_path / f"weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    loaded = network(backbone=backbone, pretrained=str(file)).backbone.state_dict()
    assert len(loaded) > 100
    assert all(torch.equal(value, weights[name]) for name, value in loaded.items())


def missing(file: Path) -> None:
    """Leaves nothing."""


def damaged(file: Path) -> None:
    file.write_bytes(b"\1" * 100)


def of_another_depth(file: Path) -> None:
    """ResNet18's keys are a part of ResNet34's: the rest would stay random."""
    save_file(timm.create_model("resnet18").state_dict(), file)


def of_another_family(file: Path) -> None:
    save_file(timm.create_model("mobilenetv2_050").state_dict(), file)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("harm", [missing, damaged])
def test_a_weight_file_that_is_missing_or_damaged_is_named(tmp_path: Path, harm: Callable[[Path], None], suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    harm(file)
    with pytest.raises(ConfigError, match=rf"^pretrained: .*{file.name}"):
        network(pretrained=str(file))


@pytest.mark.parametrize("harm", [of_another_depth, of_another_family])
def test_weights_of_another_backbone_are_refused(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    harm(tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=r"^pretrained: "):
        network(backbone="resnet34", pretrained=str(tmp_path / "weights.safetensors"))


def test_without_network_and_cache_the_remedy_is_told(tmp_path: Path) -> None:
    script = """
from kd.config import ConfigError
from kd.networks.build import build_network, network_config
try:
    build_network(network_config({"name": "deeplabv3", "backbone": "resnet18"}), 3)
except ConfigError as error:
    print(error)
"""
    text = python(script, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), TORCH_HOME=str(tmp_path))
    assert text.startswith("pretrained: weights of resnet18 are not to be had (")
    assert "give student.pretrained=FILE, or student.pretrained=false" in text
    assert len(text.splitlines()) == 1


# --- saved networks


def test_a_saved_network_comes_back(saved: Path) -> None:
    original, (loaded, card) = network(0, aux=4).eval(), load_network(saved)
    assert not loaded.training
    assert (card["classes"], card["step"]) == (CLASSES, 7)
    assert loaded.config == original.config
    assert sorted(path.name for path in saved.iterdir()) == ["student.safetensors", "student.yaml"]
    assert original.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in original.state_dict().items())
    assert torch.equal(original(images()).logits, loaded(images()).logits)


def test_a_network_in_channels_last_comes_back(tmp_path: Path) -> None:
    original = network(0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_network(original, tmp_path, "best", {"classes": CLASSES})
    loaded, _ = load_network(tmp_path, "best")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in original.state_dict().items())


def test_loading_fetches_no_pretrained_weights(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(pretrained=True)(saved)
    asked = []
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, **knobs: asked.append(knobs["pretrained"]) or create(*args, **knobs)
    )
    load_network(saved)
    assert set(asked) == {False}


def test_a_pinned_tag_that_timm_has_dropped_does_not_stop_loading(saved: Path) -> None:
    edited(backbone="resnet18.of_yesterday")(saved)
    assert torch.equal(load_network(saved)[0](images()).logits, network(0, aux=4).eval()(images()).logits)


def test_loading_needs_neither_students_nor_teachers(saved: Path) -> None:
    script = f"""
import sys, torch
from kd.networks.build import load_network
network, card = load_network({str(saved)!r})
assert not {{name.split(".")[0] for name in sys.modules}} & {{"students", "teachers", "tools"}}
print(network(torch.zeros(1, 3, 33, 33, dtype=torch.uint8)).logits.shape[1], card["step"])
"""
    assert python(script) == "5 7\n"


def edited(**changes: object) -> Callable[[Path], None]:
    """The card's network with other values."""

    def harm(folder: Path) -> None:
        card = yaml.safe_load((folder / "student.yaml").read_text())
        del card["sha256"]
        card["network"] |= changes
        (folder / "student.yaml").write_text(yaml.safe_dump(card))

    return harm


def classes(names: list[str]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        card = yaml.safe_load((folder / "student.yaml").read_text())
        del card["sha256"]
        (folder / "student.yaml").write_text(yaml.safe_dump({**card, "classes": names}))

    return harm


def cut(length: int) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        content = (folder / "student.safetensors").read_bytes()
        (folder / "student.safetensors").write_bytes(content[:length])

    return harm


def card_says(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "student.yaml").write_text(text)


HARM = {
    "no weights": (lambda folder: (folder / "student.safetensors").unlink(), r"student.safetensors: is missing"),
    "no card": (lambda folder: (folder / "student.yaml").unlink(), r"student.yaml: is missing; a finished run"),
    "weights empty": (cut(0), r"student.safetensors: does not hold the weights of student.yaml"),
    "weights cut in the header": (cut(100), r"student.safetensors: does not hold the weights"),
    "weights cut at the end": (cut(-1), r"student.safetensors: does not hold the weights"),
    "another width": (edited(width=17), r"does not hold the weights of student.yaml; copy both files .*size mismatch"),
    "another backbone": (
        edited(backbone="resnet34"),
        r"does not hold the weights of student.yaml; copy both files .*Missing key",
    ),
    "no auxiliary head": (edited(aux=0), r"does not hold the weights of student.yaml; copy both files .*Unexpected key"),
    "another number of classes": (classes(CLASSES[:3]), r"does not hold the weights of student.yaml"),
    "a key that no network has": (edited(depth=3), r"network.depth: there is no such key"),
    "card empty": (card_says(""), "student.yaml"),
    "card cut in a line": (card_says("network: {name: deeplabv3, wid"), "student.yaml"),
    "card without network": (card_says("classes: [a, b]\n"), "student.yaml"),
    "card changed by hand": (
        lambda folder: (file := folder / "student.yaml").write_text(file.read_text().replace("step: 7", "step: 8")),
        r"student.yaml: is damaged, it does not hold .*; copy it again .* changed it on purpose, delete its line sha256",
    ),
    "card without classes": (card_says("network: {name: deeplabv3, backbone: resnet18}\n"), "student.yaml"),
}


@pytest.mark.parametrize("kind", HARM)
def test_files_that_are_missing_damaged_or_no_pair_are_told(saved: Path, kind: str) -> None:
    harm, message = HARM[kind]
    harm(saved)
    with pytest.raises(InputError, match=f"(?s){message}"):
        load_network(saved)


# --- one reader of weight files


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", ["", "state_dict", "model", "state_dict_ema"])
def test_wrappers_and_prefixes_are_dropped_for_students_and_teachers(tmp_path: Path, prefix: str, wrapper: str) -> None:
    weights = timm.create_model("resnet18").state_dict()
    found: dict[str, Any] = {f"{prefix}{name}": value for name, value in weights.items()}
    file = tmp_path / "weights.pth"
    torch.save({"epoch": 3, wrapper: found} if wrapper else found, file)
    assert read_state_dict(file, "teacher.path").keys() == weights.keys()
    loaded = network(backbone="resnet18", pretrained=str(file)).backbone.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.items())


def test_a_prefix_of_some_names_alone_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "weights.pth")
    assert set(read_state_dict(tmp_path / "weights.pth", "teacher.path")) == {"module.a", "b"}
