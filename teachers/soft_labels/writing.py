"""Ask a teacher about every image of a split once, and keep the answers: a file an image, so that writing can go on later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kd.files import write_whole
from kd.types import Batch, Outputs
from teachers.soft_labels.codes import divergence, encode
from teachers.steps import Asked

FIELDS = ("logits", "aux_logits")


def write(folder: Path, batches: Iterable[Batch], ask: Asked, aux: bool) -> Iterator[str]:
    """Keep the answers to batches; gives the name of each image when its file is there.

    The ``batches``, on the teacher's device, of one image follow each other; none holds crops of two images.
    """
    fields = FIELDS if aux else FIELDS[:1]
    parts: list[dict[str, Tensor]] = []
    name = ""
    for batch in batches:
        if parts and batch.ids[0] != name:
            _save(folder, name, parts)
            yield name
            parts = []
        name = batch.ids[0]
        parts.append(_codes(ask(batch), fields, batch))
    if parts:
        _save(folder, name, parts)
        yield name


@torch.no_grad()
def _codes(outputs: Outputs, fields: Sequence[str], batch: Batch) -> dict[str, Tensor]:
    found = {field: encode(getattr(outputs, field)) for field in fields}
    cost = divergence(outputs.logits, found["logits"])
    sizes = torch.tensor(batch.image.shape[-2:]).expand(len(batch), 2)
    return {**{field: codes.cpu() for field, codes in found.items()}, "kl": cost.float().cpu(), "size": sizes}


def _save(folder: Path, name: str, parts: Sequence[dict[str, Tensor]]) -> None:
    tensors = {key: torch.cat([part[key] for part in parts]).contiguous() for key in parts[0]}
    write_whole(folder / f"{name}.safetensors", partial(save_file, tensors))


def quality(folder: Path) -> dict[str, Any]:
    """Over all images that are there: their number, bytes, and what the bytes have cost: mean and highest KL in nats."""
    files, costs = sorted(folder.glob("*.safetensors")), []
    for path in files:
        with safe_open(path, "pt") as file:
            costs.append(float(file.get_tensor("kl").mean()))
    size = sum(path.stat().st_size for path in files)
    return {"images": len(files), "bytes": size, "kl": sum(costs) / len(costs), "highest_kl": max(costs)}
