"""Adapters for the published protocol's decoders, sliding window, resizing and initialisation."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from kd.data.augment import Augmentation, draw, replay
from kd.evaluate.sliding import Sliding
from kd.lookup import lookup
from kd.networks.backbone import Levels
from kd.networks.build import build_network, network_config
from kd.types import Outputs, grey_levels

Inputs = dict[str, Tensor]

BACKBONES = {"resnet18": 512, "resnet50": 2048, "mobilenetv2_100": 320, "xception65": 2048}
"""Backbones by the channels of their last level, of which whole networks are built."""

KEYS: dict[str, dict[str, Any]] = {
    "deeplabv3": {"name": "deeplabv3", "projection": "3x3"},
    "deeplabv3plus": {"name": "deeplabv3plus", "projection": "3x3", "separable": True},
    "unet": {"name": "unet", "pixels": True},
    "pspnet": {"name": "pspnet"},
    "upernet": {"name": "upernet"},
    "segformer": {"name": "segformer_mlp", "normed": True},
}
"""What makes our heads the published ones."""

TWO_STEPS = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}
"""Places in a published separable convolution, and in ours."""

NAMES: dict[str, tuple[tuple[str, Any], ...]] = {
    "deeplabv3": (
        (r"aspp\.convs\.0\.1\.", "aspp.pooled."),
        (r"aspp\.convs\.(\d)\.", lambda found: f"aspp.branches.{int(found[1]) - 1}."),
        (r"bottleneck\.", "aspp.project.0."),
    ),
    "deeplabv3plus": (
        (r"aspp\.convs\.0\.1\.", "aspp.pooled."),
        (r"aspp\.convs\.(\d)\.(\d)\.", lambda found: f"aspp.branches.{int(found[1]) - 1}.{TWO_STEPS[found[2]]}."),
        (r"cat_conv\.(\d)\.(\d)\.", lambda found: f"neck.{found[1]}.{TWO_STEPS[found[2]]}."),
        (r"bottleneck\.", "aspp.project.0."),
        (r"shortcut\.", "low."),
    ),
    "unet": ((r"blocks\.(\d)\.conv\.", r"blocks.\1."),),
    "pspnet": ((r"ppm\.pools\.(\d)\.1\.", r"pooling.branches.\1."), (r"bottleneck\.", "neck.")),
    "upernet": (
        (r"ppm\.pools\.(\d)\.1\.", r"top.0.branches.\1."),
        (r"bottleneck\.", "top.1."),
        (r"lateral_convs\.", "lateral."),
        (r"fpn_convs\.", "smooth."),
        (r"fpn_bottleneck\.", "fuse."),
    ),
    "segformer": ((r"convs\.", "project."), (r"fusion_conv\.", "fuse.")),
}


def _renamed(head: str, name: str) -> str:
    for pattern, ours in (*NAMES[head], (r"head\.1\.", "classifier.conv.")):
        name, found = re.subn(f"^{pattern}", ours, name)
        if found:
            return name
    raise KeyError(f"the published decoder {head} has a tensor {name} of which nothing is known")


def _in_our_order(name: str, weight: Tensor) -> Tensor:
    """The published ASPP concatenates its pooled branch first, ours last; and UPerNet's levels come finest first there."""
    if name == "aspp.project.0.0.weight":
        return weight.roll(-weight.shape[0], 1)
    if name == "fuse.0.weight" and weight.shape[-1] == 3:
        return torch.cat(list(reversed(weight.split(weight.shape[0], 1))), 1)
    return weight


def _head(name: str, channels: tuple[int, ...], strides: tuple[int, ...], classes: int, keys: dict[str, Any]) -> nn.Module:
    config = network_config({**KEYS[name], "backbone": "any", "output_stride": strides[-1], **keys})
    network = SimpleNamespace(config=config)  # a head needs no more of its network
    return lookup("kd.networks", config.name, "Network").build_head(network, Levels(channels, strides), classes)[0]


def head(inputs: Inputs, meta: dict[str, Any]) -> dict[str, Tensor]:
    """A decoder on given levels, in eval mode."""
    name, levels = meta["head"], sorted(key for key in inputs if key.startswith("level"))
    pyramid = tuple(inputs[key] for key in levels[1:])
    published = {"out_channels": "width", "atrous_rates": "rates", "shortcut_channels": "low"}
    keys = {published.get(key, key): value for key, value in meta.items() if key in (*published, "bins", "align_corners")}
    channels, strides = tuple(level.shape[1] for level in pyramid), tuple(meta["strides"][1:])
    module = _head(name, channels, strides, meta["classes"], keys)
    weights = {_renamed(name, key[2:]): value for key, value in inputs.items() if key.startswith("p_")}
    own = module.state_dict()
    weights |= {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    module.load_state_dict({key: _in_our_order(key, value) for key, value in weights.items()})
    logits, embedding = module.to(logits_type(inputs)).eval()(pyramid)
    size = inputs["level0"].shape[-2:]
    upsampled = Outputs(logits, align_corners=meta.get("align_corners", False)).at((size[0], size[1]))
    return {"logits": logits, "embedding": embedding, "upsampled": upsampled}


def logits_type(inputs: Inputs) -> torch.dtype:
    return inputs["level0"].dtype


def sliding(inputs: Inputs, meta: dict[str, Any]) -> dict[str, Tensor]:
    """Windows over an image, by a network of one convolution."""
    mean, std = (torch.tensor(meta[key]).view(1, 3, 1, 1) for key in ("mean", "std"))

    def network(image: Tensor) -> Outputs:
        scaled = (grey_levels(image) - mean) / std
        return Outputs(nn.functional.conv2d(scaled, inputs["p_weight"], inputs["p_bias"], padding=2))

    predictor = Sliding(Sliding.Config(name="sliding", window=tuple(meta["window"]), pad="centre", fill=tuple(meta["mean"])))
    return {"prob": predictor(network, inputs["image"].byte()).softmax(1)}


def resize(inputs: Inputs, meta: dict[str, Any]) -> dict[str, Tensor]:
    """Image and labels scaled, and padded where they are smaller than 128 pixels."""
    image, labels = inputs["image"].byte().permute(2, 0, 1), inputs["label"].byte()
    scale = meta["scale"]
    knobs: dict[str, Any] = {"scale": (scale, scale), "flip": 0.0, "resize": "opencv", "pad": "centre"}
    sides = [round(side * scale) for side in labels.shape]
    found = {}
    for end, crop in (("", sides), ("padded", [max(side, 128) for side in sides])):
        config = Augmentation(crop=(crop[0], crop[1]), **knobs)
        geometry = draw(config, (labels.shape[0], labels.shape[1]), torch.Generator())
        pixels, target = replay(geometry, image, labels, config)
        found |= {end or "image": pixels.permute(1, 2, 0), f"{end}_label".lstrip("_"): target}
    return found


def initialisation(meta: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a fresh decoder, under their published names; ``meta`` gives each one's shape."""
    width, inputs = meta["aspp.convs.1.0.weight"]["shape"][:2]
    classes = meta["head.1.bias"]["shape"][0]
    backbone = next(name for name, channels in BACKBONES.items() if channels == inputs)
    keys = {**KEYS["deeplabv3"], "backbone": backbone, "pretrained": False, "width": width, "initialisation": "jdt"}
    own = build_network(network_config(keys), classes).head.state_dict()
    return {name: own[_renamed("deeplabv3", name)] for name in meta}


FRESH = {"deeplabv3": initialisation}
"""Decoder to what makes a fresh one."""
ADAPTERS = {"head_jdt_": head, "sliding_jdt_": sliding, "resize_jdt_": resize}
