"""What evaluation costs: from logits to a label map of twice the crop, and an image of the crop's size through a network, as a
whole and by windows of half its sides."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.benchmark.comparison import Comparison, Ways
from kd.benchmark.setting import Setting
from kd.evaluate.logits import resampled
from kd.evaluate.predictor import Network
from kd.evaluate.sliding import Sliding, offsets
from kd.evaluate.whole import Whole
from kd.networks.build import build_network
from kd.networks.folding import resting
from kd.types import Outputs


def usual_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resized, softmax, argmax: all at full resolution; of one image ``1 K h w``."""
    return F.interpolate(logits, size, mode="bilinear").softmax(1).argmax(1)[0]


def usual_windows(network: Network, image: Tensor, window: tuple[int, int]) -> Tensor:
    """Logits of every window added up at full resolution, then divided, softmax, argmax."""
    (height, width), size = window, image.shape[-2:]
    steps = [-(-2 * side // 3) for side in window]
    total, seen = None, torch.zeros(1, 1, *size, device=image.device)
    for top in offsets(size[0], height, steps[0]):
        for left in offsets(size[1], width, steps[1]):
            part = image[..., top : top + height, left : left + width]
            logits = F.interpolate(network(part).logits, window, mode="bilinear")
            edges = (left, size[1] - left - width, top, size[0] - top - height)
            total = F.pad(logits, edges) if total is None else total + F.pad(logits, edges)
            seen[..., top : top + height, left : left + width] += 1
    assert total is not None
    return (total / seen).softmax(1).argmax(1)[0]


def _quiet(work: Callable[[], object]) -> Callable[[], object]:
    return torch.inference_mode()(work)


def label_map(setting: Setting) -> Ways:
    """Of one image's coarse logits."""
    source, (height, width) = torch.Generator().manual_seed(0), (2 * setting.crop[0], 2 * setting.crop[1])
    grid = (height // setting.stride, width // setting.stride)
    logits = 3 * F.avg_pool2d(torch.randn(1, setting.classes, *grid, generator=source), 3, 1, 1).to(setting.device)
    return {
        "usual": _quiet(lambda: usual_map(logits, (height, width))),
        "ours": _quiet(lambda: resampled(Outputs(logits), (height, width))[0].labels()),
    }


def image_of(setting: Setting) -> tuple[nn.Module, Tensor]:
    """A DeepLabV3 on ResNet-18 without trained weights, in eval mode, and an image of the crop's size."""
    config = {"name": "deeplabv3", "backbone": "resnet18d", "pretrained": False, "width": setting.widths[0]}
    config["output_stride"] = setting.stride
    torch.manual_seed(0)
    network: nn.Module = build_network(config, setting.classes).to(setting.device).eval()
    image = torch.randint(256, (1, 3, *setting.crop), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return network, image.to(setting.device)


def whole(setting: Setting) -> Ways:
    """In one pass."""
    network, image = image_of(setting)
    predictor, quick = Whole(), resting(network)
    return {
        "usual": _quiet(lambda: usual_map(network(image).logits, setting.crop)),
        "ours": _quiet(lambda: predictor.read(quick, image)[0].labels()),
    }


def sliding(setting: Setting) -> Ways:
    """By windows."""
    network, image = image_of(setting)
    return _windows(setting, image, network, resting(network))


def merging(setting: Setting) -> Ways:
    """By windows whose logits are there already."""
    grid = [side // 2 // setting.stride for side in setting.crop]
    logits = Outputs(torch.randn(1, setting.classes, *grid, generator=torch.Generator().manual_seed(0)).to(setting.device))
    image = torch.zeros(1, 3, *setting.crop, dtype=torch.uint8, device=setting.device)

    def there(_: Tensor) -> Outputs:
        return logits

    return _windows(setting, image, there, there)


def _windows(setting: Setting, image: Tensor, network: Network, quick: Network) -> Ways:
    window = (setting.crop[0] // 2, setting.crop[1] // 2)
    predictor = Sliding(window=window)
    return {
        "usual": _quiet(lambda: usual_windows(network, image, window)),
        "ours": _quiet(lambda: predictor.read(quick, image)[0].labels()),
    }


COMPARISONS = {
    "label map": Comparison(label_map),
    "whole image": Comparison(whole),
    "sliding windows": Comparison(sliding),
    "sliding windows, merging alone": Comparison(merging),
}
