"""Exported networks compute what torch computes, at any size if asked, and say what they are."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers_tools import COLOURS, NAMES, call, inside, saved, small
from test_heads import HEADS, tiny
from torch import Tensor, nn

from kd.config import InputError
from kd.networks import export
from kd.networks.build import load_network
from kd.networks.export import Deployed, Parity, compare, write_onnx


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def run(file: Path, image: Tensor) -> Any:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})[0]


def test_a_dynamic_network_takes_odd_sizes_and_any_batch(tmp_path: Path) -> None:
    network = small(align_corners=True, aux=4)
    file = tmp_path / "deep" / "small.onnx"
    facts = {"classes": list(NAMES), "colours": COLOURS, "fingerprint": "0123456789ab"}
    parity = write_onnx(network, file, (64, 96), facts, dynamic=True)
    assert parity.difference < 1e-4
    assert parity.agreement > 0.999
    assert len({shape[0] for shape in parity.shapes}) > 1
    for shape in ((1, 3, 65, 97), (3, 3, 47, 33), (2, 3, 128, 64)):
        image = random(*shape)
        with torch.no_grad():
            expected = network(image).at(tuple(shape[-2:]))
        np.testing.assert_allclose(run(file, image), expected.numpy(), atol=1e-4)
    model = onnx.load(file)
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(told["classes"]) == list(NAMES)
    assert json.loads(told["colours"]) == [list(colour) for colour in COLOURS]
    assert told["fingerprint"] == "0123456789ab"
    assert "RGB, values 0 to 1" in told["input"]
    assert [output.name for output in model.graph.output] == ["logits"]
    assert str(Path(export.__file__).parent).encode() not in file.read_bytes()  # no paths of this machine
    assert [path.name for path in file.parent.iterdir()] == ["small.onnx"]


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_right_at_any_size(tmp_path: Path, head: str) -> None:
    network = tiny(head, aux=0)  # at stride 16 the image traced has 6 x 6 cells, as many as the finest pooling of PSPNet
    write_onnx(network, tmp_path / "x.onnx", (96, 96), {}, dynamic=True)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 17, 31), (3, 3, 33, 47), (1, 3, 65, 97), (2, 3, 101, 203), (1, 3, 191, 64)):
        image = random(*shape)
        with torch.no_grad():
            expected = network(image).at((shape[-2], shape[-1])).numpy()
        np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-5 * abs(expected).max())


def test_two_classes_as_one_probability() -> None:
    network, image = small(classes=2), random(2, 3, 41, 57)
    with torch.no_grad():
        expected = network(image).at((41, 57)).softmax(1)[:, 1:]
        found = Deployed(network, binary=True)(image)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert found.std() > 0.01 or found.min() < 0.5 < found.max()
    with pytest.raises(InputError, match="--binary-sigmoid: the network has 5 classes"):
        Deployed(small(), binary=True)


def test_other_numbers_are_noticed_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.flip(1) + 0.5

    class Same(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image * 1

    found = compare(Shifted(), _model(Same()).SerializeToString(), ((1, 3, 8, 8),))
    assert 0.5 < found.difference < 1.5
    assert found.agreement < 0.9
    assert compare(Same(), _model(Same()).SerializeToString(), ((1, 3, 8, 8),)) == Parity(0.0, 1.0, ((1, 3, 8, 8),))
    monkeypatch.setattr(export, "_traced", lambda *_: _model(Same()))
    with pytest.raises(InputError, match=r"x\.onnx: onnxruntime fails at a size tried .*; nothing is written"):
        write_onnx(small(), tmp_path / "x.onnx", (8, 8), {})
    assert not list(tmp_path.iterdir())


def _model(module: nn.Module) -> Any:
    with export.quiet():
        program = torch.onnx.export(module, (torch.rand(1, 3, 8, 8),), dynamo=True, input_names=["image"])
    assert program is not None
    return program.model_proto


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError("No module named 'onnxscript'", name=name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"--onnx needs onnxscript; install it with: pip install 'segmentation-kd\[export\]'"):
        write_onnx(small(), tmp_path / "x.onnx", (64, 64), {})


def test_from_the_command_line(tmp_path: Path) -> None:
    network = saved(tmp_path / "run", "best", classes=2)
    words = (tmp_path / "run", "--checkpoint", "best", "--onnx", tmp_path / "x.onnx", "--safetensors", tmp_path / "out")
    done = call("export", *words, "--size", 40, 56, "--binary-sigmoid")
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout
    assert "100.0000 % of the pixels" in done.stdout
    assert done.stderr == f"{tmp_path / 'run'}: to ONNX, then onnxruntime is compared with torch; this may take a minute\n"
    image = random(1, 3, 40, 56)
    with torch.no_grad():
        expected = network(image).at((40, 56)).softmax(1)[:, 1:]
    np.testing.assert_allclose(run(tmp_path / "x.onnx", image), expected.numpy(), atol=1e-4)
    again, card = load_network(tmp_path / "out")
    assert card["classes"] == list(NAMES[:2])
    assert card["step"] == 7
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to write; give --onnx FILE"),
        (("--onnx", "there.onnx"), "there.onnx: is there already"),
        (("--onnx", "new.onnx", "--size", "8", "512"), "--size is 8 512; both sides must be at least 32"),
        (("--safetensors", "run", "--checkpoint", "best"), "--safetensors: run is the model itself"),
    ],
)
def test_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "there.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert inside("export", "run", *words) == 2
    assert message in capsys.readouterr().err
