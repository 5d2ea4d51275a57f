"""The files of soft labels: one an image, each view with a checksum of what it is and of whom."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kd.config import InputError
from kd.files import write_whole

FIELDS = ("logits", "aux_logits")
UNREADABLE = (SafetensorError, OSError, ValueError, IndexError)


def save(folder: Path, name: str, kind: str, codes: Mapping[str, Tensor], size: Sequence[int], costs: Tensor) -> None:
    """Codes uint8 ``V K h w`` by field, of ``V`` views of an image of ``size`` (H, W), or of it as a whole; ``costs`` ``V``."""
    sums = [_checksum({field: maps[view] for field, maps in codes.items()}, kind, name, view) for view in range(len(costs))]
    tensors = {**codes, "kl": costs, "size": torch.tensor(list(size)), "checksum": torch.tensor(sums)}
    path = write_whole(folder / f"{name}.safetensors", partial(save_file, {key: t.contiguous() for key, t in tensors.items()}))
    path.chmod(0o644)


def read(folder: Path, name: str, kind: str, view: int, fields: Sequence[str]) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """A view's codes ``K h w`` by field, and the image's size (H, W).

    Raises:
        InputError: the file is damaged, or that of another image.
    """
    path = folder / f"{name}.safetensors"
    try:
        with safe_open(path, "pt") as file:
            codes = {field: file.get_slice(field)[view] for field in FIELDS if field in file.keys()}  # noqa: SIM118
            height, width = file.get_tensor("size").tolist()
            sound = _checksum(codes, kind, name, view) == int(file.get_tensor("checksum")[view])
            found = {field: codes[field] for field in fields}
    except (*UNREADABLE, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {REMEDY}") from None
    if not sound:
        raise InputError(f"{path}: is damaged, or holds the soft labels of another image; {REMEDY}")
    return found, (height, width)


REMEDY = "delete it and run the kd cache-teacher again that wrote it"


def _checksum(codes: Mapping[str, Tensor], kind: str, name: str, view: int) -> int:
    found = zlib.crc32(f"{kind}/{name}/{view}".encode())
    for field in FIELDS:
        if field in codes:
            found = zlib.crc32(codes[field].contiguous().numpy().tobytes(), found)
    return found


def names(folder: Path) -> set[str]:
    """The images of which there is a file that can be read."""
    return {path.stem for path in folder.glob("*.safetensors") if _cost(path) is not None}


def quality(folder: Path) -> dict[str, float]:
    """Over all images that are there: their number, bytes, and what the bytes have cost: mean and highest KL in nats."""
    found = {path: cost for path in sorted(folder.glob("*.safetensors")) if (cost := _cost(path)) is not None}
    size = sum(path.stat().st_size for path in found)
    return {"images": len(found), "bytes": size, "kl": sum(found.values()) / len(found), "highest_kl": max(found.values())}


def _cost(path: Path) -> float | None:
    """Of an image's file, None where it is cut off or another kind of file."""
    try:
        with safe_open(path, "pt") as file:
            return float(file.get_tensor("kl").mean())
    except UNREADABLE:
        return None
