"""Every head on every kind of backbone: declared sizes, gradients, precision, memory format, compilers, published layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from test_networks import awake, images, network
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from kd.config import ConfigError, InputError
from kd.lookup import options
from kd.networks.build import build_network, network_config
from kd.networks.hub import Snapshot
from kd.networks.network import Network
from kd.networks.pspnet import PyramidPooling, averages
from kd.recipe.loading import load

HEADS = list(options("kd.networks", "Network"))
BACKBONES = ["resnet18", "mobilenetv2_100", "efficientnet_b0", "xception65"]
FINE = {"unet": 2, "deeplabv3plus": 4, "segformer_mlp": 4, "upernet": 4}
"""Strides of the logits of heads that refine the backbone's."""
POOLED = ["deeplabv3", "deeplabv3plus", "pspnet", "upernet"]
PARTS = sorted((Path(__file__).parents[1] / "recipes/_parts/student").glob("*.yaml"))


def small(head: str, backbone: str = "test_resnet", **knobs: Any) -> Network:
    """An untrained network with narrow heads."""
    return network(name=head, **{"backbone": backbone, "width": 8, "aux": 4, "output_stride": 16, **knobs})


def tiny(head: str, **knobs: Any) -> Network:
    """Without dropout, in eval mode, with batch norms that hide nothing."""
    return awake(small(head, dropout=0.0, **knobs)).eval()


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal up to a share of the largest value."""
    assert (found.float() - expected).abs().max() <= tolerance * expected.abs().max()


# --- shapes and gradients


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_on_every_backbone(head: str, backbone: str, stride: int) -> None:
    height, width = 33, 47
    student = awake(small(head, backbone, output_stride=stride)).train()
    outputs, sizes = student(images(height, width)), student.sizes
    assert (sizes.classes, sizes.stride, sizes.embedding, sizes.aux) == (5, FINE.get(head, stride), 8, True)

    def grid(step: int) -> tuple[int, int]:
        return -(-height // step), -(-width // step)

    assert outputs.logits.shape == (2, 5, *grid(sizes.stride))
    assert outputs.embedding.shape == (2, 8, *grid(sizes.stride))
    assert outputs.aux_logits.shape == (2, 5, *grid(sizes.pyramid_strides[-2]))
    expected = [(2, c, *grid(step)) for c, step in zip(sizes.pyramid, sizes.pyramid_strides, strict=True)]
    assert [tuple(level.shape) for level in outputs.pyramid] == expected
    ((outputs.logits**2).sum() + (outputs.aux_logits**2).sum()).backward()
    dead = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []
    assert all(torch.isfinite(p.grad).all() for p in student.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_the_tap_and_the_dropout(head: str) -> None:
    before, after = (small(head, tap=tap, dropout=0.5).train() for tap in ("before", "after"))
    for student, equal in ((before, False), (after, True)):
        outputs = student(images())
        assert torch.equal(student.head.classifier.conv(outputs.embedding), outputs.logits) is equal
    assert (after(images()).embedding == 0).float().mean() > (before(images()).embedding == 0).float().mean() + 0.1


@pytest.mark.parametrize("head", HEADS)
def test_align_corners_is_followed_by_whatever_resamples(head: str) -> None:
    first, second = (tiny(head, align_corners=corners)(images()).logits for corners in (False, True))
    assert torch.equal(first, second) is (head == "deeplabv3")


@pytest.mark.parametrize("head", HEADS)
def test_one_image_trains_only_without_a_pooled_norm(head: str) -> None:
    student = small(head, aux=0).train()
    if head in POOLED:
        with pytest.raises(ConfigError, match=r"^schedule.batch: one image at a time "):
            student(images(number=1))
    else:
        assert len(student(images(number=1)).logits) == 1


def test_a_pyramid_without_the_whole_image_takes_one_image() -> None:
    assert len(small("pspnet", aux=0, bins=(2, 3)).train()(images(number=1)).logits) == 1


@pytest.mark.parametrize("head", HEADS)
def test_a_head_reads_the_levels_of_its_kind(head: str) -> None:
    student = tiny(head)
    with torch.no_grad():
        pyramid = student(images()).pyramid
        expected = student.head(pyramid)[0]
        read = []
        for index, level in enumerate(pyramid):
            changed = (*pyramid[:index], level + torch.rand_like(level), *pyramid[index + 1 :])
            read += [index] * (not torch.equal(student.head(changed)[0], expected))
    everything, last = [0, 1, 2, 3, 4], [4]
    kinds = {"unet": everything, "segformer_mlp": everything[1:], "upernet": everything[1:], "deeplabv3plus": [1, 4]}
    assert read == kinds.get(head, last)


# --- numbers


@pytest.mark.parametrize("corners", [False, True])
def test_pyramid_pooling_is_the_published_one(corners: bool) -> None:
    torch.manual_seed(0)
    pooling, features = PyramidPooling(6, 4, (1, 2, 3, 6), corners).eval(), torch.randn(2, 6, 9, 13)
    parts = [features]
    for size, branch in zip((1, 2, 3, 6), pooling.branches, strict=True):
        pooled = branch(nn.AdaptiveAvgPool2d(size)(features))
        parts.append(F.interpolate(pooled, size=(9, 13), mode="bilinear", align_corners=corners))
    torch.testing.assert_close(pooling(features), torch.cat(parts, 1))


@pytest.mark.parametrize("bins", [1, 2, 3, 6, 7])
def test_averages_by_matrices_are_those_of_torch(bins: int) -> None:
    torch.manual_seed(0)
    for height, width in [(1, 1), (1, 9), (2, 5), (6, 6), (7, 4), (12, 18), (13, 25), (33, 47), (64, 129)]:
        features = torch.rand(2, 3, height, width)
        expected = F.adaptive_avg_pool2d(features, bins)
        torch.testing.assert_close(averages(features, bins), expected, atol=1e-6, rtol=0)


def renamed(name: str) -> str:
    """A tensor of torchvision's DeepLabV3 in our network."""
    for theirs, ours in (
        ("backbone.", "backbone."),
        ("classifier.0.convs.4.1.", "head.aspp.pooled.0."),
        ("classifier.0.convs.4.2.", "head.aspp.pooled.1."),
        ("classifier.0.convs.", "head.aspp.branches."),
        ("classifier.0.project.", "head.aspp.project.0."),
        ("classifier.1.", "head.neck.0."),
        ("classifier.2.", "head.neck.1."),
        ("classifier.4.", "head.classifier.conv."),
        ("aux_classifier.0.", "aux_head.0.0."),
        ("aux_classifier.1.", "aux_head.0.1."),
        ("aux_classifier.4.", "aux_head.2."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise AssertionError(name)


def test_deeplabv3_equals_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = awake(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=7, aux_loss=True)).eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    knobs = {"backbone": "resnet50", "width": 256, "aux": 256, "dropout": 0.0, "aspp_dropout": 0.5, "pretrained": False}
    ours = build_network(network_config({"name": "deeplabv3", **knobs}), 7).eval()
    ours.load_state_dict({renamed(name): value for name, value in theirs.state_dict().items()})
    assert [p.p for p in ours.head.modules() if isinstance(p, nn.Dropout)] == [0.5, 0.0]

    def before_upsampling(part: nn.Module) -> list[Tensor]:
        seen: list[Tensor] = []
        part.register_forward_hook(lambda *call: seen.append(call[2]))
        return seen

    logits, aux = before_upsampling(theirs.classifier), before_upsampling(theirs.aux_classifier)
    image = torch.rand(2, 3, 65, 97)
    with torch.no_grad():
        theirs((image - ours.mean) / ours.std)
        outputs = ours(image)
    close(outputs.logits, logits[0], 1e-5)
    close(outputs.aux_logits, aux[0], 1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_half_precision_is_near_and_trains(head: str) -> None:
    student = tiny(head)
    expected = student(images()).logits.detach()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = student(images())
    assert outputs.logits.dtype == torch.bfloat16
    close(outputs.logits.detach(), expected, 0.1)
    outputs.at((33, 64)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for n, p in student.named_parameters() if not n.startswith("aux_head"))


@pytest.mark.parametrize("head", HEADS)
def test_channels_last_computes_the_same(head: str) -> None:
    student = tiny(head)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        student.to(memory_format=layout).zero_grad()  # type: ignore[call-overload]
        outputs = student(images().contiguous(memory_format=layout))
        outputs.logits.square().mean().backward()
        results.append([outputs.logits.detach(), *(p.grad for p in student.head.parameters())])
    for found, expected in zip(*results, strict=True):
        close(found, expected, 1e-4)


# --- compilers


@pytest.mark.parametrize("head", HEADS)
def test_compiles_to_one_graph(head: str) -> None:
    student = tiny(head)
    torch.compiler.reset()
    compiled = torch.compile(student, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        found, expected = compiled(images()), student(images())
    for field in ("logits", "aux_logits", "embedding"):
        close(getattr(found, field), getattr(expected, field), 1e-5)


def test_inductor_computes_a_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    student = tiny("segformer_mlp")
    pyramid = student(images()).pyramid
    torch.compiler.reset()
    with torch.no_grad():
        for found, expected in zip(torch.compile(student.head)(pyramid), student.head(pyramid), strict=True):
            close(found, expected, 1e-4)


class Logits(nn.Module):
    """A network that gives only its logits, as deployed ones do."""

    def __init__(self, student: Network) -> None:
        super().__init__()
        self.student = student

    def forward(self, image: Tensor) -> Tensor:
        return self.student(image).logits


@pytest.mark.parametrize("head", HEADS)
def test_exports(head: str) -> None:
    student, image = tiny(head), images().float() / 255
    program = torch.export.export(Logits(student), (image,))
    close(program.module()(image).detach(), student(image).logits.detach(), 1e-5)


# --- backbones of other kinds


@pytest.mark.parametrize(
    ("backbone", "stride", "strides"),
    [
        ("swin_tiny_patch4_window7_224", 32, (4, 8, 16, 32)),
        ("hrnet_w18_small", 32, (2, 4, 8, 16, 32)),
        ("vit_tiny_patch16_224", 16, (16, 16, 16)),
        ("pvt_v2_b0", 32, (4, 8, 16, 32)),
        ("convnext_atto", 8, (4, 8, 8, 8)),
    ],
)
def test_backbones_of_other_kinds(backbone: str, stride: int, strides: tuple[int, ...]) -> None:
    student = small("segformer_mlp", backbone, output_stride=stride)
    outputs = student(images(64, 96))
    assert student.sizes.pyramid_strides == strides
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(student.sizes.pyramid, strides, strict=True)]
    assert [tuple(level.shape) for level in outputs.pyramid] == expected
    stride = max(4, strides[0])
    assert student.sizes.stride == stride
    assert outputs.logits.shape == (2, 5, 64 // stride, 96 // stride)
    (outputs.logits.square().mean() + outputs.aux_logits.square().mean()).backward()
    assert [name for name, p in student.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("height", "width"), [(65, 97), (72, 40)])
def test_a_transformer_of_fixed_size_takes_others(height: int, width: int) -> None:
    logits = small("pspnet", "vit_tiny_patch16_224")(images(height, width)).logits
    assert logits.shape == (2, 5, -(-height // 16), -(-width // 16))


@pytest.mark.parametrize("backbone", ["swin_tiny_patch4_window7_224", "hrnet_w18_small"])
def test_sizes_that_a_backbone_cannot_take_are_told(backbone: str) -> None:
    student = small("pspnet", backbone, output_stride=32)
    with pytest.raises(InputError, match=r"^the backbone cannot take images of 65 x 97 pixels .* multiples of 32 and"):
        student(images(65, 97))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("deeplabv3plus", "backbone: this head needs a level of stride 4, but the backbone's have strides 16, 16, 16; choose"),
        ("unet", "backbone: the U-Net needs levels of several strides, but the backbone's have strides 16, 16, 16; choose"),
    ],
)
def test_heads_name_the_levels_they_miss(head: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(head, "vit_tiny_patch16_224")


def test_timms_weights_that_do_not_fit_the_options_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("kd.networks.timm_weights.snapshot", lambda *_: Snapshot(tmp_path, "timm/resnet18@0"))
    deep = {"stem_type": "deep", "stem_width": 64}
    assert small("pspnet", "resnet18", pretrained=True)
    with pytest.raises(ConfigError, match=r"pretrained: timm's weights of resnet18 do not fit .*; drop the options"):
        small("pspnet", "resnet18", pretrained=True, options=deep)


def test_a_transformer_takes_the_weights_of_a_local_file(tmp_path: Path) -> None:
    weights = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    loaded = small("pspnet", "vit_tiny_patch16_224", pretrained=str(tmp_path / "weights.safetensors")).backbone.state_dict()
    assert len(loaded) > 100
    assert all(torch.equal(value, weights[name.removeprefix("model.")]) for name, value in loaded.items())


def test_a_deep_stem_takes_weights_in_cirkds_names(tmp_path: Path) -> None:
    deep = {"stem_type": "deep", "stem_width": 64}
    weights = timm.create_model("resnet18", **deep).state_dict()
    names = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3", "bn1": "bn3"}

    def theirs(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        return f"{names.get(layer, layer)}.{kind}"

    old = {theirs(name): value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet18-imagenet.pth")
    loaded = small("pspnet", "resnet18", options=deep, pretrained=str(tmp_path / "resnet18-imagenet.pth")).backbone.state_dict()
    assert loaded["conv1.6.weight"].shape == (128, 64, 3, 3)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.items())


# --- the parts of recipes


def part(file: Path) -> dict[str, Any]:
    """The student of a part."""
    return {"name": "deeplabv3", **yaml.safe_load(file.read_text())["student"]}


@pytest.mark.parametrize("file", PARTS, ids=lambda file: file.stem)
def test_parts_pin_weights_that_timm_has(file: Path) -> None:
    student = part(file)
    config = network_config(student)
    if config.pretrained is True and file.stem != "camvid_small_r18":  # its data part says pretrained: false
        assert config.backbone in timm.list_pretrained(f"{config.backbone.split('.')[0]}.*")
        pinned = timm.get_pretrained_cfg(config.backbone)
        known = pytest.approx((*config.mean, *config.std), abs=0.003)  # 127/255 and 128/255 of TensorFlow's are 0.5 to timm
        assert (*pinned.mean, *pinned.std) == known


@pytest.mark.parametrize(
    ("name", "millions"), [("dl3_r18", 13.6), ("dl3_mb2", 3.2), ("psp_r18", 12.9), ("dl3_r101_teacher", 61.1)]
)
def test_cirkds_networks_have_the_published_size(name: str, millions: float) -> None:
    student = load(f"cityscapes_cirkd/{name}", ["student.pretrained=false"], default="ce")[0].student
    built = build_network(student, 19)
    assert round(sum(p.numel() for p in built.parameters()) / 1e6, 1) == millions
    assert (student.align_corners, student.tap, student.drop_channels) == (True, "after", False)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("cityscapes/dl3_r18", 13_986_374),
        ("cityscapes/dl3_r50_teacher", 68_113_030),
        ("cityscapes/dl3_mb2", 3_797_478),
        ("camvid/r101_teacher", 87_105_158),
    ],
)
def test_jdtlosses_networks_have_the_published_size(name: str, number: int) -> None:
    student = load(name, ["student.pretrained=false"], default="ce")[0].student
    built = build_network(student, 19)
    assert sum(p.numel() for p in built.parameters()) == number
    assert [type(part) for part in built.modules() if isinstance(part, nn.Dropout2d | nn.Dropout) and part.p] == [
        nn.Dropout2d
    ] * 2
