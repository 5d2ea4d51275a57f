"""Dilated depthwise convolutions by phases: the same map bit for bit, the same gradients, and only where they are meant."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from kd.networks.backbone import build_backbone
from kd.networks.build import network_config
from kd.networks.phases import PhasedConv2d, train_by_phases


def pair(kernel: int, dilation: int, bias: bool = False) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A plain dilated depthwise convolution of six channels and the same one by phases."""
    torch.manual_seed(kernel)
    plain = nn.Conv2d(6, 6, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=6, bias=bias)
    phased = copy.deepcopy(plain)
    train_by_phases(nn.Sequential(phased))
    assert type(phased) is PhasedConv2d
    return plain, phased


def trained(conv: nn.Conv2d, image: Tensor) -> tuple[Tensor, ...]:
    """The map and the gradients of input and parameters for some loss."""
    image = image.clone().requires_grad_()
    result = conv(image)
    (result * torch.linspace(-1, 1, result.numel()).reshape(result.shape)).sum().backward()
    return result.detach(), image.grad, *(parameter.grad for parameter in conv.parameters())  # type: ignore[return-value]


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (5, 2), (3, 4), (5, 3)])
@pytest.mark.parametrize("size", [(12, 15), (7, 8), (3, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_map_and_gradients_equal_the_plain_ones(kernel: int, dilation: int, size: tuple[int, int], bias: bool) -> None:
    image = torch.randn(2, 6, *size)
    for ours, plain in zip(*(trained(conv, image) for conv in reversed(pair(kernel, dilation, bias))), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_the_map_is_the_plain_one_bit_for_bit_in_either_layout() -> None:
    plain, phased = pair(5, 2)
    image = torch.randn(2, 6, 12, 15)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(phased(image.to(memory_format=layout)), plain(image.to(memory_format=layout)))


def test_a_resting_or_watched_convolution_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, phased = pair(3, 2)
    image = torch.randn(1, 6, 8, 8)
    monkeypatch.setattr("kd.networks.phases._Phases.apply", lambda *_: pytest.fail("by phases"))
    with torch.no_grad():
        phased(image)
    with torch.autocast("cpu", torch.bfloat16):
        phased(image)
    phased.eval()(image)
    with pytest.raises(pytest.fail.Exception, match="by phases"):
        phased.train()(image)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, stride=2),
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, (3, 1), padding=(2, 0), dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=6),
    ],
    ids=["undilated", "dense", "widening", "strided", "shrinking", "reflecting", "oblong", "named padding"],
)
def test_other_convolutions_stay_what_they_are(other: nn.Conv2d) -> None:
    train_by_phases(nn.Sequential(other))
    assert type(other) is nn.Conv2d


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "mobilenetv2_100"])
def test_backbones_of_a_finer_stride_train_by_phases(backbone: str) -> None:
    config = network_config({"name": "deeplabv3", "backbone": backbone, "pretrained": False, "width": 8, "output_stride": 8})
    phased = [module for module in build_backbone(config).modules() if isinstance(module, PhasedConv2d)]
    assert {conv.dilation for conv in phased} == {(2, 2), (4, 4)}
