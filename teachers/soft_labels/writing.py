"""Ask a teacher about every image of a split once, and keep the answers: a file an image, so that writing can go on later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from kd.types import Batch
from teachers.soft_labels.card import Card
from teachers.soft_labels.codes import divergence, encode
from teachers.soft_labels.files import FIELDS, save
from teachers.steps import Asked


def write(folder: Path, card: Card, batches: Iterable[Batch], ask: Asked) -> Iterator[str]:
    """Keep the answers to batches; gives the name of each image when its file is there.

    The ``batches``, on the teacher's device, of one image follow each other; none holds crops of two images.
    """
    parts: list[tuple[Batch, dict[str, Tensor]]] = []
    for batch in batches:
        if parts and batch.ids[0] != parts[0][0].ids[0]:
            yield _keep(folder, card, parts)
            parts = []
        parts.append((batch, _codes(ask, batch, card.aux)))
    if parts:
        yield _keep(folder, card, parts)


@torch.no_grad()
def _codes(ask: Asked, batch: Batch, aux: bool) -> dict[str, Tensor]:
    outputs = ask(batch)
    found = {field: encode(getattr(outputs, field)) for field in (FIELDS if aux else FIELDS[:1])}
    return {**{field: codes.cpu() for field, codes in found.items()}, "kl": divergence(outputs.logits, found["logits"]).cpu()}


def _keep(folder: Path, card: Card, parts: list[tuple[Batch, dict[str, Tensor]]]) -> str:
    batch, first = parts[0]
    codes = {key: torch.cat([found[key] for _, found in parts]) for key in first}
    costs = codes.pop("kl").float()
    save(folder, batch.ids[0], card.kind, codes, batch.image.shape[-2:], costs)
    return batch.ids[0]
