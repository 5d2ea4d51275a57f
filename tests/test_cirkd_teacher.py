"""CIRKD's state dicts become our networks and give the probabilities of an independent reference with CIRKD's names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_teachers import OWN, WANTED, build
from torch import Tensor, nn

from kd.config import ConfigError
from kd.types import Batch
from teachers import Teacher

Names = list[tuple[str, nn.Module]]
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)


def unit(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> Names:
    return [("0", conv(inputs, outputs, kernel, 1, dilation)), ("1", nn.BatchNorm2d(outputs)), ("2", nn.ReLU())]


def chain(*parts: tuple[str, nn.Module]) -> nn.Sequential:
    found = nn.Sequential()
    for name, part in parts:
        found.add_module(name, part)
    return found


class Residual(nn.Module):
    """A basic block (dilations: before, own) or a bottleneck (before); after a layer's first block both are the layer's own."""

    def __init__(self, inputs: int, width: int, stride: int, before: int, own: int, deep: bool) -> None:
        super().__init__()
        outputs = width * (4 if deep else 1)
        first, second = (conv(inputs, width, 1), conv(width, width, 3, stride, before))
        if not deep:
            first, second = conv(inputs, width, 3, stride, before), conv(width, width, 3, 1, own)
        self.conv1, self.bn1, self.conv2, self.bn2 = first, nn.BatchNorm2d(width), second, nn.BatchNorm2d(width)
        if deep:
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(nn.Module):
    def __init__(self, name: str, stem: str) -> None:
        super().__init__()
        deep, channels = name != "resnet18", 64
        if stem == "deep":
            self.conv1, self.bn1 = conv(3, 64, 3, 2), nn.BatchNorm2d(64)
            self.conv2, self.bn2 = conv(64, 64), nn.BatchNorm2d(64)
            self.conv3, self.bn3, channels = conv(64, 128), nn.BatchNorm2d(128), 128
        else:
            self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        plan = zip((64, 128, 256, 512), BLOCKS[name], (1, 2, 1, 1), (1, 1, 2, 4), (1, 1, 1, 2), strict=True)
        for number, (width, blocks, stride, own, before) in enumerate(plan, 1):
            layer = nn.Sequential()
            for block in range(blocks):
                layer.append(Residual(channels, width, 1 if block else stride, own if block else before, own, deep))
                channels = width * (4 if deep else 1)
            self.add_module(f"layer{number}", layer)
        self.channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for number in (1, 2, 3) if hasattr(self, "conv3") else (1,):
            x = F.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        x = self.layer3(self.layer2(self.layer1(F.max_pool2d(x, 3, 2, 1))))
        return x, self.layer4(x)


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, factor: int) -> None:
        super().__init__()
        inner = inputs * factor
        parts: list[nn.Module] = [conv(inputs, inner, 1), nn.BatchNorm2d(inner), nn.ReLU6()] if factor > 1 else []
        parts += [conv(inner, inner, 3, stride, dilation, groups=inner), nn.BatchNorm2d(inner), nn.ReLU6()]
        self.conv = nn.Sequential(*parts, conv(inner, outputs, 1), nn.BatchNorm2d(outputs))
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.added else self.conv(x)


class MobileNetV2(nn.Module):
    """Four strides of two are wanted by ImageNet; the last two become dilations 2 and 4, at first half as wide."""

    channels = 320

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(conv(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU6())]
        inputs = 32
        plan = [(16, 1, 1, 1, 1), (24, 2, 2, 1, 1), (32, 3, 2, 1, 1), (64, 4, 1, 1, 2), (96, 3, 1, 2, 2), (160, 3, 1, 2, 4)]
        for outputs, blocks, stride, first, own in [*plan, (320, 1, 1, 4, 4)]:
            for block in range(blocks):
                rate = own if block else first
                features.append(Inverted(inputs, outputs, 1 if block else stride, rate, 1 if len(features) == 1 else 6))
                inputs = outputs
        self.net = nn.Module()
        self.net.features = nn.Sequential(*features)

    def forward(self, x: Tensor) -> tuple[None, Tensor]:
        return None, self.net.features(x)


class Aspp(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.b0 = chain(*unit(inputs, width, 1))
        for number, rate in enumerate((12, 24, 36), 1):
            self.add_module(f"b{number}", chain(("block", chain(*unit(inputs, width, 3, rate)))))
        pool = [(str(place + 1), part) for place, (_, part) in enumerate(unit(inputs, width, 1))]
        self.b4 = chain(("gap", chain(("0", nn.AdaptiveAvgPool2d(1)), *pool)))
        self.project = chain(*unit(5 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in (self.b0, self.b1, self.b2, self.b3)]
        return self.project(torch.cat([*parts, self.b4(x).expand_as(parts[0])], 1))


class Pooling(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        for number in (1, 2, 3, 4):
            self.add_module(f"conv{number}", chain(*unit(inputs, inputs // 4, 1)))

    def forward(self, x: Tensor) -> Tensor:
        pooled = [
            getattr(self, f"conv{number + 1}")(F.adaptive_avg_pool2d(x, side)) for number, side in enumerate((1, 2, 3, 6))
        ]
        return torch.cat([x, *(F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=True) for y in pooled)], 1)


class Reference(nn.Module):
    """Logits and auxiliary logits at stride 8, from BGR images in 0..255 minus the mean."""

    def __init__(self, head: str, backbone: str, width: int, classes: int, stem: str = "deep") -> None:
        super().__init__()
        self.pretrained = MobileNetV2() if backbone == "mobilenetv2" else ResNet(backbone, stem)
        channels = self.pretrained.channels
        if head == "deeplabv3":
            block = chain(*unit(width, width), ("4", nn.Conv2d(width, classes, 1)))
            self.head = chain(("aspp", Aspp(channels, width)), ("block", block))
        else:
            block = chain(*unit(2 * channels, width))
            self.head = chain(("psp", Pooling(channels)), ("block", block), ("classifier", nn.Conv2d(width, classes, 1)))
        if backbone != "mobilenetv2":
            auxiliary = [*unit(channels // 2, width // 2), ("4", nn.Conv2d(width // 2, classes, 1))]
            self.auxlayer = chain(("block", chain(*auxiliary)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        third, fourth = self.pretrained(x)
        return self.head(fourth), self.auxlayer(third) if third is not None else None


MEAN_BGR = torch.tensor([104.00698793, 116.66876762, 122.67891434], dtype=torch.float64).view(1, 3, 1, 1)


def prepared(image: Tensor) -> Tensor:
    return image.flip(1).double() - MEAN_BGR


def picture(height: int = 65, width: int = 97) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(2, 3, 6, 8, generator=generator)
    return (F.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


def reference(*parts: Any, seed: int = 0) -> Reference:
    """Random weights of float32, evaluated in float64, where two equal networks do not drift apart over a hundred layers.

    Batch norm has the statistics of an image, so that no layer is dead or explodes.
    """
    torch.manual_seed(seed)
    network = Reference(*parts)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
        network.train()(prepared(picture()).float())
    return network.eval().double()


def teacher_of(weights: Any, path: Path, names: tuple[str, ...] = OWN, **knobs: Any) -> Teacher:
    torch.save(weights, path)
    return build({"name": "cirkd", "path": str(path), **knobs}, names)


def exact(teacher: Teacher) -> Teacher:
    """In float64, and the two constants too, which were rounded to float32."""
    network = teacher.double().network
    for buffer, value in ((network.mean, MEAN_BGR.flip(1) / 255), (network.std, torch.full_like(MEAN_BGR, 1 / 255))):
        assert (buffer - value).abs().max() < 1e-7
        buffer.copy_(value)
    return teacher


def expected(network: Reference, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        maps = [part for part in network(prepared(image)) if part is not None]
    return [F.interpolate(part, image.shape[-2:], mode="bilinear", align_corners=True).softmax(1) for part in maps]


@pytest.fixture(scope="module")
def small() -> Reference:
    return reference("deeplabv3", "resnet18", 8, 4)


@pytest.mark.parametrize(
    ("head", "backbone", "width", "stem"),
    [
        ("deeplabv3", "resnet18", 24, "deep"),
        ("deeplabv3", "resnet101", 16, "deep"),
        ("deeplabv3", "resnet18", 8, "single"),
        ("deeplabv3", "mobilenetv2", 16, "deep"),
        ("pspnet", "resnet18", 16, "deep"),
        ("pspnet", "resnet50", 16, "deep"),
        ("pspnet", "mobilenetv2", 24, "deep"),
    ],
)
def test_probabilities_are_the_references(tmp_path: Path, head: str, backbone: str, width: int, stem: str) -> None:
    network = reference(head, backbone, width, 4, stem)
    teacher = exact(teacher_of(network.state_dict(), tmp_path / "best_model.pth"))
    image = picture(61, 93)
    wanted = expected(network, image)
    assert wanted[0].std() > 0.02  # the test can tell
    found = teacher.probabilities(Batch(image, None))
    assert (found - wanted[0]).abs().max() < 1e-9
    outputs = teacher(Batch(image, None))
    assert len(wanted) == 1 + teacher.sizes.aux
    if teacher.sizes.aux:
        assert (outputs.at((61, 93), "aux_logits").softmax(1) - wanted[1]).abs().max() < 1e-9
    assert (teacher.sizes.stride, teacher.sizes.embedding) == (8, width)
    assert outputs.embedding.shape == (2, width, 8, 12)


def test_the_order_of_the_channels_can_be_told(small: Reference, tmp_path: Path) -> None:
    teacher = teacher_of(small.state_dict(), tmp_path / "a.pth", WANTED, classes=OWN)
    wanted = expected(small, picture())[0][:, [OWN.index(name) for name in WANTED]]
    assert (exact(teacher).probabilities(Batch(picture(), None)) - wanted).abs().max() < 1e-9


def test_wrapped_and_prefixed_files_are_the_same(small: Reference, tmp_path: Path) -> None:
    plain = small.state_dict()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in plain.items()}}
    one, two = teacher_of(plain, tmp_path / "a.pth"), teacher_of(wrapped, tmp_path / "b.pth")
    assert torch.equal(one(Batch(picture(), None)).logits, two(Batch(picture(), None)).logits)
    without = {name: value for name, value in plain.items() if "num_batches" not in name}
    three = teacher_of(without, tmp_path / "c.pth")
    assert torch.equal(one(Batch(picture(), None)).logits, three(Batch(picture(), None)).logits)


def test_the_mark_is_the_files(small: Reference, tmp_path: Path) -> None:
    marks = [teacher_of(small.state_dict(), tmp_path / name).mark for name in ("a.pth", "a.pth")]
    changed = small.state_dict() | {"head.block.4.bias": torch.ones(4)}
    assert marks[0] == marks[1] != teacher_of(changed, tmp_path / "a.pth").mark
    assert len(marks[0]) == 16


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("evil"),))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, "holds no state dict"),
        ({}, "holds no state dict"),
        (torch.zeros(3), r"holds no state dict \(Tensor\)"),
        (Evil(), "pickled objects are refused because they run code"),
        ({"model": {}, "args": argparse.Namespace(lr=1)}, "pickled objects are refused"),
        ({"conv.weight": torch.zeros(3)}, "holds no DeepLabV3 or PSPNet of CIRKD"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words) as failure:
        teacher_of(content, tmp_path / "a.pth")
    assert str(failure.value).startswith(f"teacher.path: {tmp_path / 'a.pth'} ")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "evil").exists()


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("<html>404</html>")
    (tmp_path / "text.safetensors").write_text("<html>404</html>")
    for name, words in (("text.pth", "cannot be read"), ("text.safetensors", "cannot be read"), ("no.pth", "does not exist")):
        with pytest.raises(ConfigError, match=rf"^teacher.path: {tmp_path / name} {words}"):
            build({"name": "cirkd", "path": str(tmp_path / name)}, OWN)


def test_another_architecture_is_refused(small: Reference, tmp_path: Path) -> None:
    weights = small.state_dict()
    for changed, words in (
        ({name: value for name, value in weights.items() if name != "head.block.0.weight"}, "it lacks head.block.0.weight"),
        ({name: value for name, value in weights.items() if name != "pretrained.bn1.bias"}, "missing: backbone.conv1.1.bias"),
        (weights | {"head.proj.0.weight": torch.zeros(1)}, "unknown: head.proj.0.weight"),
        (weights | {"pretrained.layer1.2.conv1.weight": torch.zeros(1)}, r"\(3, 2, 2, 2\) blocks"),
        (weights | {"head.aspp.b0.0.weight": torch.zeros(8, 3, 1, 1)}, "size mismatch"),
    ):
        with pytest.raises(ConfigError, match=words):
            teacher_of(changed, tmp_path / "a.pth")


def test_another_number_of_classes_is_refused(small: Reference, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 4 classes, the data set has 2; choose"):
        teacher_of(small.state_dict(), tmp_path / "a.pth", OWN[:2])
    with pytest.raises(ConfigError, match=r"has 4 classes, teacher.classes lists 2; .* name every channel"):
        teacher_of(small.state_dict(), tmp_path / "a.pth", OWN, classes=OWN[:2])
