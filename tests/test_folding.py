"""Batch norms folded into convolutions change nothing but the time; what cannot be folded is left as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd.networks import folding
from kd.networks.build import build_network
from kd.networks.folding import fold
from kd.types import Outputs


def maps(outputs: Outputs) -> list[Tensor]:
    assert outputs.aux_logits is not None
    return [outputs.logits, outputs.aux_logits, *outputs.pyramid]


BACKBONES = {
    "deeplabv3": ("resnet18d", 8),
    "deeplabv3plus": ("xception65", 16),
    "pspnet": ("mobilenetv2_100", 8),
    "unet": ("efficientnet_b0", 32),
    "upernet": ("resnest14d", 32),
}


def stirred(module: nn.Module) -> nn.Module:
    """In eval mode, with norms that do something."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    return module.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_a_folded_network_gives_the_same(name: str) -> None:
    backbone, stride = BACKBONES[name]
    config = {"name": name, "backbone": backbone, "pretrained": False, "output_stride": stride, "aux": 16}
    network = stirred(build_network(config, 5)).double()
    image = torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8)
    before, there = network(image), norms(network)
    assert fold(network) == there > 0
    assert norms(network) == 0
    after = network(image)
    for old, new in zip(maps(before), maps(after), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9)


class Used(nn.Module):
    """A convolution whose output serves twice, one that is called twice, a norm without convolution, and a plain pair."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.twice, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.alone = nn.BatchNorm2d(3)
        self.plain = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        once = self.conv(x)
        x = once + self.norm(once)
        x = self.after(self.twice(self.twice(x)))
        return self.plain(self.alone(x.relu()))


class Choosing(nn.Module):
    """Its program cannot be read; it keeps what it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv, self.norm = Used(), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return self.norm(self.conv(self.inner(x))) if float(x.mean()) > -9 else x


@torch.no_grad()
def test_what_serves_otherwise_too_is_not_folded() -> None:
    module = stirred(Choosing()).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    before = module(x)
    assert fold(module) == 1
    assert isinstance(module.inner.plain[1], nn.Identity)
    torch.testing.assert_close(module(x), before)
    assert torch.is_tensor(module.last)


def test_a_norm_with_an_activation_leaves_it() -> None:
    from timm.layers import BatchNormAct2d

    module = stirred(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4))).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = module(x)
    assert fold(module) == 1
    torch.testing.assert_close(module(x), before)
    assert module(x).min() == 0


def test_a_network_in_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train mode.*\.eval\(\)"):
        fold(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


class Pair(nn.Module):
    """Which norm follows depends on what is told; the tensor's value is read as the program runs."""

    def __init__(self, first: bool = True, flag: float = 1.0) -> None:
        super().__init__()
        self.first, self.conv, self.one, self.other = first, nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.register_buffer("flag", torch.tensor(flag))

    def forward(self, x: Tensor) -> Tensor:
        norm = self.one if self.first and self.flag > 0 else self.other
        return norm(self.conv(x)).relu()


def found(module: nn.Module) -> list[str]:
    """The norms that were folded."""
    there = [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    fold(module.eval())
    return [name for name in there if not isinstance(module.get_submodule(name), nn.BatchNorm2d)]


def test_a_network_is_read_once_however_its_weights_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_KNOWN", {})
    assert found(Pair()) == ["one"]
    monkeypatch.delattr(folding, "_pairs")
    module, x = stirred(Pair()), torch.randn(2, 3, 5, 5)
    module.one.num_batches_tracked += 7
    before = module(x)
    assert found(module) == ["one"]
    torch.testing.assert_close(module(x), before)


def swapped(self: Pair, x: Tensor) -> Tensor:
    return self.other(self.conv(x))


def again(forward: Any) -> nn.Module:
    """Of a class that has the name of the one before, as in a notebook whose cell ran twice."""
    globals()["Again"] = type("Again", (Pair,), {"__module__": __name__, "forward": forward})
    return globals()["Again"]()


def shared() -> nn.Module:
    conv = nn.Conv2d(3, 3, 1)
    return nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3))


def unwritable() -> nn.Module:
    module: Any = Pair()
    module.note = lambda: None
    return module


def test_a_network_that_differs_in_anything_else_is_read_anew() -> None:
    assert found(Pair()) == ["one"]
    assert found(Pair(first=False)) == found(Pair(flag=-1.0)) == ["other"]
    assert found(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))) == ["1", "3"]
    assert found(shared()) == []
    assert (found(again(Pair.forward)), found(again(swapped))) == (["one"], ["other"])
    assert found(unwritable()) == found(unwritable()) == ["one"]
