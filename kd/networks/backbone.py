"""Backbones from timm, with the errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm

from kd.config import ConfigError


def build_backbone(name: str, output_stride: int, pretrained: bool | str, options: Mapping[str, Any]) -> Any:
    """A timm backbone that returns its levels, finest first.

    ``options`` go to timm's constructor. ``pretrained``: true takes timm's weights from the Hugging Face hub, a text is a
    weight file (.pth or .safetensors).

    Raises:
        ConfigError: timm does not know the backbone, it cannot have this stride, or its weights are unavailable or others.
    """
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=6)
        hint = f"close names: {', '.join(close)}" if close else "timm.list_models() lists them"
        raise ConfigError(f"backbone: '{name}' is unknown to timm {timm.__version__}; {hint}")
    network = _create(name, output_stride, pretrained is True, options)
    reached = network.feature_info.reduction()[-1]
    if reached != output_stride:
        raise ConfigError(f"output_stride: is {output_stride}, but {name} then has stride {reached}; use 8, 16 or 32")
    if isinstance(pretrained, str):
        _read(network, name, Path(pretrained).expanduser())
    return network


def _create(name: str, output_stride: int, pretrained: bool, options: Mapping[str, Any]) -> Any:
    try:
        return timm.create_model(name, features_only=True, output_stride=output_stride, pretrained=pretrained, **options)
    except (TypeError, AssertionError, NotImplementedError, ValueError) as error:
        reason = str(error) or "timm refuses it"
        raise ConfigError(
            f"output_stride: {name} cannot be built with output stride {output_stride} ({reason}); try 8, 16 or 32, or a "
            "backbone that can be dilated"
        ) from error
    except (OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ConfigError(
            f"pretrained: weights of {name} are not to be had ({type(error).__name__}: {reason}); fill the Hugging Face cache "
            "on a machine with network, give pretrained=FILE, or pretrained=false to train from scratch"
        ) from error


def _read(network: Any, name: str, file: Path) -> None:
    """Load the weight file of a classifier: its last layers are left over, but nothing of the backbone may be missing."""
    if not file.is_file():
        raise ConfigError(
            f"pretrained: {file} does not exist; give a .pth or .safetensors file, true (timm's weights) or false"
        )
    wanted = network.state_dict()
    try:
        # a features-only network flattens names: layer1.0.conv1 may be layer1_0_conv1, or keep its dots
        weights = {key.replace(".", "_"): value for key, value in timm.models.load_state_dict(str(file)).items()}
        missing = [key for key in wanted if key.replace(".", "_") not in weights]
        if not missing:
            network.load_state_dict({key: weights[key.replace(".", "_")] for key in wanted})
    except Exception as error:  # damage is reported by many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"pretrained: {file} holds no weights of {name} ({reason}); give the file of this very backbone"
        ) from error
    if missing:
        raise ConfigError(
            f"pretrained: {file} lacks {len(missing)} of {len(wanted)} tensors of {name}, first {missing[0]}, which would stay "
            "random; give the file of this very backbone"
        )
