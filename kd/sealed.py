"""Content that tells its own damage: its digest lies beside it in the same file, and is looked at whenever it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd.config import InputError
from kd.files import parsed, write_json, write_whole

if TYPE_CHECKING:
    from torch import Tensor

KEY = "sha256"
DIGEST = re.compile("[0-9a-f]{64}")
NOT_AS_WRITTEN = "is damaged, it does not hold what was written there"


class DamagedError(InputError):
    """A file does not hold what was written to it."""


def digest(value: Any) -> str:
    """SHA-256 of plain values, arrays and tensors, however nested; lists and tuples are alike, keys have no order."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield f"{{{len(value)}".encode()
        for key in sorted(value, key=lambda key: (type(key).__name__, str(key))):
            yield from _parts(key)
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        yield f"[{len(value)}".encode()
        for one in value:
            yield from _parts(one)
    elif hasattr(value, "dtype"):
        yield f"<{value.dtype} {tuple(value.shape)}".encode()
        yield _bytes(value)
    else:
        yield f"={type(value).__name__} {value!r};".encode(errors="surrogatepass")


def _bytes(value: Any) -> Any:
    """Of an array or a tensor, without a copy where it lies in one piece on the host."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    import torch

    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its digest, in front, so that a text that was cut off still has it."""
    return {KEY: digest(values), **values}


def unsealed(values: Mapping[str, Any], path: Path, remedy: str = "") -> dict[str, Any]:
    """What was sealed; without a digest, as files were once, it is taken as it is.

    Raises:
        DamagedError: it is not what was sealed.
    """
    held = {key: value for key, value in values.items() if key != KEY}
    told = values.get(KEY, next(iter(values.values()), None))  # the key itself may be what was damaged
    if (KEY in values or (isinstance(told, str) and DIGEST.fullmatch(told))) and told != digest(held):
        raise DamagedError(f"{path}: {NOT_AS_WRITTEN}{remedy and f'; {remedy}'}")
    return held


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON, sealed, aside, then rename."""
    write_json(path, sealed(json.loads(json.dumps(values, allow_nan=False))))


def read_sealed(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed` wrote.

    Raises:
        DamagedError: it is no JSON mapping, or does not hold what was written there.
        OSError: there is no such file, or it cannot be read.
    """
    remedy = "restore it, or move the directory away and run anew"
    try:
        values = parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(f"{path}: is damaged ({' '.join(str(error).split())[:120]}); {remedy}") from None
    if not isinstance(values, dict):
        raise DamagedError(f"{path}: is damaged (it holds a {type(values).__name__}, no mapping); {remedy}")
    return unsealed(values, path, remedy)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a ``.safetensors`` file, sealed by its metadata, aside, then rename."""
    from safetensors.torch import save_file

    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_whole(path, lambda partial: save_file(whole, partial, {KEY: digest(whole)}))
    path.chmod(0o644)  # safetensors writes for the owner alone; a colleague's run may want this file


def load_tensors(path: Path, remedy: str = "") -> dict[str, Tensor]:
    """What :func:`save_tensors` wrote, or a ``.safetensors`` file of somebody else's.

    Raises:
        DamagedError: it does not hold what was written there.
        SafetensorError, OSError: it cannot be read at all.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        told = (file.metadata() or {}).get(KEY)
    if told is not None and told != digest(held):
        raise DamagedError(f"{path}: {NOT_AS_WRITTEN}{remedy and f'; {remedy}'}")
    return held
