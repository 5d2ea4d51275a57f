"""CIRKD's state dicts: what they are of, and how their tensors are called in our networks."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

Weights = dict[str, Tensor]

RESNETS: dict[tuple[str, tuple[int, ...]], str] = {
    ("conv2", (2, 2, 2, 2)): "resnet18",
    ("conv2", (3, 4, 6, 3)): "resnet34",
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("conv3", (3, 8, 36, 3)): "resnet152",
}
"""Last convolution of a block and blocks a layer."""

MOBILE = "pretrained.net.features."
MOBILE_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
MOBILE_FIRST = {0: "conv_dw", 1: "bn1", 3: "conv_pw", 4: "bn2"}
MOBILE_OTHERS = {0: "conv_pw", 1: "bn1", 3: "conv_dw", 4: "bn2", 6: "conv_pwl", 7: "bn3"}
"""Convolutions and norms of an inverted residual by their numbers; the first block expands nothing."""

HEADS = (
    (r"head\.aspp\.b0\.(\d)", r"head.aspp.branches.0.\1"),
    (r"head\.aspp\.b([123])\.block", r"head.aspp.branches.\1"),
    (r"head\.aspp\.b4\.gap\.1\.", r"head.aspp.pooled.0."),
    (r"head\.aspp\.b4\.gap\.2\.", r"head.aspp.pooled.1."),
    (r"head\.aspp\.project\.", r"head.aspp.project.0."),
    (r"head\.block\.4\.", r"head.classifier.conv."),
    (r"head\.psp\.conv([1234])\.", lambda found: f"head.pooling.branches.{int(found[1]) - 1}."),
    (r"head\.classifier\.(weight|bias)", r"head.classifier.conv.\1"),
    (r"head\.block\.([01])\.", r"head.neck.\1."),
    (r"auxlayer\.block\.([01])\.", r"aux_head.0.\1."),
    (r"auxlayer\.block\.4\.", r"aux_head.2."),
)
DEEP_STEM = (
    (r"pretrained\.conv1\.", "backbone.conv1.0."),
    (r"pretrained\.bn1\.", "backbone.conv1.1."),
    (r"pretrained\.conv2\.", "backbone.conv1.3."),
    (r"pretrained\.bn2\.", "backbone.conv1.4."),
    (r"pretrained\.conv3\.", "backbone.conv1.6."),
    (r"pretrained\.bn3\.", "backbone.bn1."),
)
"""Patterns at the beginning of a name and what they become; the first that fits counts."""


def architecture(weights: Weights) -> tuple[dict[str, Any], int]:
    """The configuration of our network that a state dict fits, and its number of classes.

    Raises:
        ValueError, KeyError: the names or shapes are of another family.
    """
    backbone, options = _backbone(weights)
    values = {"backbone": backbone, "options": options, "pretrained": False, "output_stride": 8, "align_corners": True}
    values["aux"] = len(weights["auxlayer.block.0.weight"]) if "auxlayer.block.0.weight" in weights else 0
    values["width"] = len(weights["head.block.0.weight"])
    if "head.aspp.b0.0.weight" in weights:
        return {"name": "deeplabv3", **values}, len(weights["head.block.4.weight"])
    pooled = len(weights["head.psp.conv1.0.weight"])
    return {"name": "pspnet", "pooled": pooled, **values}, len(weights["head.classifier.weight"])


def _backbone(weights: Weights) -> tuple[str, dict[str, Any]]:
    if f"{MOBILE}0.0.weight" in weights:
        return "mobilenetv2_100", {}
    blocks = tuple(_count(weights, rf"pretrained\.layer{layer}\.(\d+)\.conv1\.weight") for layer in (1, 2, 3, 4))
    last = "conv3" if "pretrained.layer1.0.conv3.weight" in weights else "conv2"
    if (last, blocks) not in RESNETS:
        raise ValueError(f"its backbone has {blocks} blocks")
    deep = "pretrained.conv3.weight" in weights
    return RESNETS[last, blocks], {"stem_type": "deep", "stem_width": 64} if deep else {}


def _count(weights: Weights, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in weights)


def ours(weights: Weights) -> Weights:
    """The same tensors under our names; a name that no rule knows is kept."""
    rules = (*HEADS, *(DEEP_STEM if "pretrained.conv3.weight" in weights else ()))
    return {_renamed(name, rules): value for name, value in weights.items()}


def _renamed(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    if name.startswith(MOBILE):
        return _mobile(name)
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return re.sub(r"^pretrained\.", "backbone.", name)


def _mobile(name: str) -> str:
    """``pretrained.net.features.7.conv.3.weight`` is ``backbone.blocks.3.0.conv_dw.weight``: features number blocks from 1."""
    found = re.fullmatch(r"(\d+)\.(?:conv\.)?(\d+)\.(\w+)", name.removeprefix(MOBILE))
    places = [f"{stage}.{block}" for stage, blocks in enumerate(MOBILE_BLOCKS) for block in range(blocks)]
    if not found or int(found[1]) > len(places):
        return name
    feature, part, tensor = int(found[1]), int(found[2]), found[3]
    if feature == 0:
        return f"backbone.{'bn1' if part else 'conv_stem'}.{tensor}"
    parts = MOBILE_FIRST if feature == 1 else MOBILE_OTHERS
    return f"backbone.blocks.{places[feature - 1]}.{parts.get(part, part)}.{tensor}"
