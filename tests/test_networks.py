"""Networks keep what they declare: shapes, strides, gradients; batch norms over processes equal the plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from kd.config import ConfigError
from kd.networks import sync_batch_norm as module
from kd.networks.build import build_network, network_config
from kd.networks.network import Network
from kd.networks.sync_batch_norm import CrossRankBatchNorm, CrossRankBatchNormAct, synchronise
from teachers.foreign import Pixels

BACKBONES = ["resnet18", "resnet18d", "mobilenetv2_100", "efficientnet_b0"]


def network(seed: int = 0, classes: int = 5, **knobs: Any) -> Network:
    """A small untrained DeepLabV3."""
    torch.manual_seed(seed)
    values = {"name": "deeplabv3", "backbone": "resnet18", "pretrained": False, "width": 16, **knobs}
    return build_network(network_config(values), classes)


def awake(student: Network) -> Network:
    """Batch norms that start at zero, as timm's last ones of a residual block do, would hide what lies before them."""
    with torch.no_grad():
        for part in student.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
    return student


def images(height: int = 33, width: int = 64, number: int = 2) -> Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=source)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_have_the_declared_sizes(backbone: str, stride: int) -> None:
    student = network(backbone=backbone, output_stride=stride, aux=8, align_corners=True).eval()
    sizes = student.sizes
    assert (sizes.classes, sizes.stride, sizes.embedding, sizes.aux) == (5, stride, 16, True)
    assert sizes.pyramid_strides[-1] == stride
    assert len(sizes.pyramid) == len(sizes.pyramid_strides)
    for height, width in ((65, 97), (47, 33)):
        with torch.no_grad():
            outputs = student(images(height, width))

        def grid(step: int, height: int = height, width: int = width) -> tuple[int, int]:
            return -(-height // step), -(-width // step)

        assert outputs.logits.shape == (2, 5, *grid(stride))
        assert outputs.embedding.shape == (2, 16, *grid(stride))
        assert outputs.aux_logits.shape == (2, 5, *grid(sizes.pyramid_strides[-2]))
        expected = [(2, c, *grid(step)) for c, step in zip(sizes.pyramid, sizes.pyramid_strides, strict=True)]
        assert [tuple(level.shape) for level in outputs.pyramid] == expected
        assert outputs.align_corners
        assert outputs.at((height, width)).shape == (2, 5, height, width)


@pytest.mark.parametrize("aux", [0, 8])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_reach_every_parameter(backbone: str, aux: int) -> None:
    student = awake(network(backbone=backbone, aux=aux)).train()
    outputs = student(images())
    source = torch.Generator().manual_seed(1)
    heads = [outputs.logits, *([outputs.aux_logits] if aux else [])]
    sum((head * torch.randn(head.shape, generator=source)).sum() for head in heads).backward()
    dead = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_without_an_auxiliary_head_there_is_none() -> None:
    student = network()
    outputs = student.eval()(images())
    assert outputs.aux_logits is None
    assert not student.sizes.aux
    with pytest.raises(ValueError, match="the network has no aux_logits"):
        outputs.at((8, 8), "aux_logits")


def test_the_embedding_is_what_the_classifier_sees() -> None:
    student = network(dropout=0.5).eval()
    outputs = student(images())
    assert torch.equal(student.head.classifier.conv(outputs.embedding), outputs.logits)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0"])
def test_bytes_and_floats_are_the_same_image_and_eval_repeats_itself(backbone: str) -> None:
    student = network(backbone=backbone, dropout=0.5, aspp_dropout=0.5, aux=4).eval()
    with torch.no_grad():
        first, second, floats = student(images()), student(images()), student(images().float() / 255)
        trained = [student.train()(images()).logits for _ in range(2)]
    for name in ("logits", "aux_logits", "embedding"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(first, name), getattr(floats, name))
    assert not torch.equal(*trained)  # dropout


def test_the_image_is_normalised_once() -> None:
    student = network(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)).eval()
    seen: list[Tensor] = []
    student.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    student(images())
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    expected = (images().permute(0, 2, 3, 1) / 255 - mean) / std
    torch.testing.assert_close(seen[0], expected.permute(0, 3, 1, 2))
    assert not {"mean", "std"} & set(student.state_dict())


def test_one_image_cannot_train_but_can_be_predicted() -> None:
    student = network()
    with pytest.raises(ConfigError, match=r"^schedule.batch: one image at a time .* use schedule.batch >= 2"):
        student.train()(images(number=1))
    assert len(student.eval()(images(number=1)).logits) == 1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"backbone": "resnet19"}, "backbone: 'resnet19' is unknown to timm"),
        (
            {"backbone": "resnet18.tv", "pretrained": True},
            r"backbone: 'resnet18.tv' is unknown to timm .*; its weights: .*resnet18.tv_in1k",
        ),
        (
            {"backbone": "swin_tiny_patch4_window7_224"},
            r"output_stride: is 8, which swin_tiny\S+ cannot have; use 32, its own, or a",
        ),
        (
            {"backbone": "hrnet_w18_small"},
            "output_stride: is 8, which hrnet_w18_small cannot have; use 32, its own, or another",
        ),
        ({"output_stride": 12}, "output_stride: is 12, which resnet18 cannot have; use 32, its own, or 8 or 16 if it can be"),
        ({"backbone": "efficientnet_b0", "output_stride": 7}, "output_stride"),
        ({"backbone": "efficientnet_b0", "output_stride": 0}, "output_stride"),
        ({"options": {"stem_typ": "deep"}}, r"options: resnet18 cannot be built with \{'stem_typ': 'deep'\} \(.*'stem_typ'\)"),
        ({"options": {"out_indices": [4]}, "aux": 8}, "aux: is 8, but the auxiliary head .* which has only one; set aux=0"),
        ({"dropout": 1.0}, "dropout"),
        ({"widht": 8}, "network.widht: there is no such key; did you mean 'width'"),
        ({"name": "deeplab"}, "Did you mean 'deeplabv3'"),
    ],
)
def test_what_cannot_be_built_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**knobs)


# --- batch norms over processes


def step(norm: nn.Module, values: Tensor, weight: Tensor) -> list[Tensor]:
    """Value, gradients and buffers after one pass."""
    values = values.clone().requires_grad_()
    out = norm(values)
    (out * weight).sum().backward()
    return [out.detach(), values.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]


def fill(norm: nn.Module) -> nn.Module:
    """Parameters and statistics that are not the trivial ones."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in norm.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return norm


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("plain", "crossing"), [(nn.BatchNorm2d, CrossRankBatchNorm), (BatchNormAct2d, CrossRankBatchNormAct)])
def test_batch_norm_over_ranks_equals_the_plain_one(
    plain: type, crossing: type, training: bool, affine: bool, offset: float
) -> None:
    torch.manual_seed(0)
    knobs = {"affine": affine, "momentum": 0.2, "eps": 1e-3}
    expected, found = (fill(kind(4, **knobs)).train(training) for kind in (plain, crossing))
    for _ in range(2):
        values = torch.randn(3, 4, 5, 7) * torch.tensor([0.1, 1.0, 5.0, 20.0]).view(4, 1, 1) + offset
        weight = torch.randn(values.shape)
        tolerance = 1e-6 if offset == 0 else 1e-4  # float32 itself resolves 3e-5 around 300
        for ours, theirs in zip(step(found, values, weight), step(expected, values, weight), strict=True):
            scale = max(1.0, theirs.abs().max().item())
            assert (ours - theirs).abs().max() <= tolerance * scale


def test_batch_norm_over_ranks_takes_half_types_as_the_plain_one_does() -> None:
    values = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected, found = nn.BatchNorm2d(4), CrossRankBatchNorm(4)
    torch.testing.assert_close(found(values).float(), expected(values).float(), atol=0.05, rtol=0.02)
    torch.testing.assert_close(found.running_mean, expected.running_mean, atol=1e-3, rtol=0)


def test_synchronise_does_nothing_alone() -> None:
    student = network()
    before = [type(part) for part in student.modules()]
    assert synchronise(student, torch.device("cpu")) is student
    assert [type(part) for part in student.modules()] == before


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_b0"])
def test_a_synchronised_network_computes_the_same(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = {"backbone": backbone, "dropout": 0.0, "output_stride": 16}
    plain, synchronised = (awake(network(**knobs)).train() for _ in range(2))
    monkeypatch.setattr(module, "world_size", lambda: 2)
    synchronise(synchronised, torch.device("cpu"))
    kinds = {type(part) for part in synchronised.modules()}
    assert not kinds & {nn.BatchNorm2d, BatchNormAct2d}
    assert kinds & {CrossRankBatchNorm, CrossRankBatchNormAct}
    results = []
    for student in (plain, synchronised):
        torch.manual_seed(0)  # stochastic depth
        results.append(student.double()(images(65, 97).double() / 255).logits)
    torch.testing.assert_close(*results, atol=1e-9, rtol=1e-9)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(synchronised.state_dict()[name], value, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.rand(1, 3, 32, 32) * 255,
            r"floats from .* to 25.*; give uint8 of 0 to 255, or floats of 0 to 1 \(image / 255\)",
        ),
        (torch.randn(1, 3, 32, 32), "floats from -"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.uint8), r"is \(1, 1, 32, 32\); it must be B 3 H W"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"is \(3, 32, 32\); it must be B 3 H W.*image\[None\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "is torch.int64; give uint8"),
    ],
)
def test_what_is_no_image_is_refused(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network()(image)
    with pytest.raises(ValueError, match=message):
        Pixels((0.5,) * 3, (0.2,) * 3)(image)


def test_floats_and_bytes_are_the_same_image() -> None:
    student, image = network().eval(), images()
    torch.testing.assert_close(student(image / 255).logits, student(image).logits)
    torch.testing.assert_close(Pixels((0.5,) * 3, (0.2,) * 3)(image / 255), Pixels((0.5,) * 3, (0.2,) * 3)(image))
