"""Weights of timm's networks: from files, or fetched here, not by timm, so that it is known which commit they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kd.config import ConfigError
from kd.networks.hub import OFFLINE, WEIGHTS, Snapshot, snapshot
from kd.networks.weight_files import read_state_dict

ELSEWHERE = {
    "pretrained": "set pretrained beside it",
    "checkpoint_path": "set pretrained=FILE beside it",
    "pretrained_cfg": "set pretrained=FILE beside it",
    "pretrained_cfg_overlay": "set pretrained=FILE beside it",
    "cache_dir": "set HF_HOME in the environment",
}
"""Arguments of timm's that say where weights come from, and what to do instead."""
STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}
"""The three-convolution stem in CIRKD's weight files, and in timm."""


def check_options(options: Mapping[str, Any], theirs: Mapping[str, str] = ELSEWHERE) -> None:
    """Refuse arguments of timm's that are said by other keys.

    Raises:
        ValueError: naming the key.
    """
    if key := next((key for key in options if key in theirs), None):
        raise ValueError(f"holds {key}, which is not timm's to be told here: {theirs[key]}")


def fetched(name: str, revision: str | None) -> Snapshot:
    """The weights that timm knows a network by, ``model.safetensors``, from the hub or its cache.

    Raises:
        ConfigError: there are none, they cannot be had, or timm has them as a pickled file only.
    """
    from timm.models import get_pretrained_cfg

    known: Any = get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        url = getattr(known, "url", None)
        where = f"only as a pickled file, {url}; look at what you download, and give its path: " if url else "nowhere; give "
        raise ConfigError(f"pretrained: timm has weights of {name} {where}student.pretrained=FILE")
    try:
        return snapshot(known.hf_hub_id, revision, [WEIGHTS])
    except ConfigError as error:
        raise ConfigError(
            f"pretrained: weights of {name} are not to be had ({error}); {OFFLINE}, give student.pretrained=FILE, or "
            "student.pretrained=false to train from scratch"
        ) from None


def overlay(found: Snapshot) -> dict[str, Any]:
    """What timm must be told to read these."""
    file = found.folder / "model.safetensors"
    file = file if file.is_file() else next(found.folder.glob(WEIGHTS))
    return {"pretrained_cfg_overlay": {"file": str(file), "custom_load": False}}


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under names without dots; a stem in the names of CIRKD's files takes timm's."""
    stem = STEM if "conv3.weight" in weights else {}
    heads = {key: key.partition(".") for key in weights}
    return {f"{stem.get(head, head)}{dot}{rest}".replace(".", "_"): weights[key] for key, (head, dot, rest) in heads.items()}


def _fit_stem(network: Any, weights: dict[str, Tensor], names: Mapping[str, str], bgr: bool) -> None:
    """Make the first convolution see the images here: RGB where it was trained on BGR, or other channels than three."""
    from timm.models import adapt_input_conv

    convolutions = ((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    path, stem = next(convolutions, ("", None))
    if stem is None or (stem.in_channels == 3 and not bgr):
        return
    name = names[f"{path}.weight"]
    if bgr:
        weights[name] = weights[name].flip(1)
    if stem.in_channels != 3 and weights[name].shape[1] == 3:
        weights[name] = adapt_input_conv(stem.in_channels, weights[name])


def read_into(network: Any, name: str, file: Path, bgr: bool = False) -> None:
    """Load the weight file of a classifier: its last layers are left over, but nothing of the backbone may be missing."""
    if not file.is_file():
        raise ConfigError(
            f"pretrained: {file} does not exist; give a .pth or .safetensors file, true (timm's weights) or false"
        )
    weights = _plain(read_state_dict(file, "pretrained"))
    # a features-only network renames: layer1.0.conv1 may be layer1_0_conv1 or model.layer1.0.conv1, or keep its name
    own = network.state_dict()
    wanted = {key: key.removeprefix("model.").replace(".", "_") for key in own}
    missing = [key for key, plain in wanted.items() if plain not in weights and not key.endswith("num_batches_tracked")]
    if missing:
        raise ConfigError(
            f"pretrained: {file} lacks {len(missing)} of {len(wanted)} tensors of {name}, first {missing[0]}, which would stay "
            "random; give the file of this very backbone"
        )
    _fit_stem(network, weights, wanted, bgr)
    try:
        network.load_state_dict({key: weights.get(plain, own[key]) for key, plain in wanted.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"pretrained: {file} holds no weights of {name} ({reason}); give the file of this very backbone"
        ) from error
