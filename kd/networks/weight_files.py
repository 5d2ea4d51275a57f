"""Weight files of other libraries: read without running their code, and identified by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kd.config import ConfigError

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "model_state", "net")
"""Keys under which training scripts put the state dict, beside optimizers and counters; an average before what it averages."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def weights_mark(network: nn.Module) -> str:
    """16 hex digits that change with any weight or statistic, however it was stored."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def read_state_dict(path: Path, key: str) -> dict[str, Tensor]:
    """Names and tensors of a ``.safetensors`` file or of what ``torch.save(network.state_dict(), path)`` wrote.

    ``{"state_dict": ...}`` and the like are unwrapped; ``PREFIXES`` are dropped, in any order. No pickled code is run. ``key``
    begins the messages, e.g. ``teacher.path``.

    Raises:
        ConfigError: the file is missing, damaged, or holds something else than names and tensors.
    """
    if not path.is_file():
        raise ConfigError(f"{key}: {path} does not exist or is no file; give the weight file that you downloaded")
    found = _unwrapped(_read(path, key))
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        kind = type(found).__name__ if not isinstance(found, Mapping) else f"keys {', '.join(map(str, list(found)[:4]))}"
        raise ConfigError(
            f"{key}: {path} holds no state dict ({kind or 'nothing'}), that is names with tensors; write one with "
            "torch.save(network.state_dict(), path)"
        )
    weights = {str(name): value for name, value in found.items()}
    while prefix := next((each for each in PREFIXES if all(name.startswith(each) for name in weights)), ""):
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _read(path: Path, key: str) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage and foreign classes are reported by many types
        pickled = "weights_only" in str(error) or "Unsupported" in str(error)
        reason = "it holds pickled objects" if pickled else f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
        raise ConfigError(
            f"{key}: {path} cannot be read as weights ({reason}); give a .safetensors file, or "
            "one written by torch.save(network.state_dict(), path); pickled objects are refused because they run code"
        ) from None


def _unwrapped(found: Any) -> Any:
    if isinstance(found, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(found.get(wrapper), Mapping):
                return found[wrapper]
    return found
