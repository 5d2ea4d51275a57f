"""Standardised, similarity and channel terms as they are mostly written; see :mod:`kd.benchmark.relations`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.benchmark.usual_methods import embedding
from kd.methods.cirkd_v2 import Graph
from kd.types import Outputs


def kd_standardised(student: Outputs, teacher: Outputs, target: Tensor, temperature: float = 2.0) -> Tensor:  # noqa: ARG001
    """Each network's logits less their mean, over their standard deviation; then plain KD."""
    mine, its = ((z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True)) for z in (student.logits, teacher.logits))
    soft = F.softmax(its.detach() / temperature, 1)
    return temperature**2 * F.kl_div(F.log_softmax(mine / temperature, 1), soft, reduction="none").sum(1).mean()


def nfd(mine: Tensor, its: Tensor) -> Tensor:
    """Both maps standardised as a whole."""
    mine, its = ((f - f.mean((2, 3), keepdim=True)) / f.std((2, 3), correction=0, keepdim=True) for f in (mine, its.detach()))
    return F.mse_loss(mine, its)


def dsd(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:  # noqa: ARG001
    """Attention of each map from its squares, differences of each two; products of the classes' softmax over pixels."""
    shifts, shared = [], []
    for of in (student, teacher):
        maps = [F.normalize(f.pow(2).mean(1).flatten(1)) for f in (of.pyramid[-1], embedding(of), of.logits)]
        shifts.append([F.normalize(maps[j] - maps[i]) for i in range(3) for j in range(i + 1, 3)])
        spread = F.softmax(F.avg_pool2d(of.logits, 2, 2, ceil_mode=True).flatten(2) / 4, 2)
        shared.append(torch.einsum("bkn,bln->bkl", spread, spread))
    apart = [(mine - its.detach()).pow(2).mean() for mine, its in zip(*shifts, strict=True)]
    return torch.stack(apart).mean() + (shared[0] - shared[1].detach()).pow(2).mean()


def graph(module: Graph, maps: Tensor) -> Tensor:
    """The whole matrix of pixels by pixels of each image."""
    query, key, value = (part(maps).flatten(2) for part in (module.query, module.key, module.value))
    close = torch.bmm(query.transpose(1, 2) * query.shape[1] ** -0.5, key).softmax(2)
    seen = torch.bmm(close, value.transpose(1, 2)).transpose(1, 2).reshape(len(maps), -1, *maps.shape[2:])
    return module.join(torch.cat([maps, module.widen(seen)], 1))


def cirkd_channels(mine: Tensor, its: Tensor, memory: Tensor, temperature: float = 0.1) -> Tensor:
    """Unit channels ``B D N``: a loop over pairs of images, all channels against all of the memory ``M N``, and their gap."""
    its = its.detach()
    terms = []
    for first in range(len(mine)):
        for second in range(len(mine)):
            close, other = (sides[first] @ sides[second].T / temperature for sides in (mine, its))
            terms.append(F.kl_div(F.log_softmax(close, 1), F.softmax(other, 1), reduction="batchmean"))
    close, other = (sides.flatten(0, 1) @ memory.T / temperature for sides in (mine, its))
    seen = F.kl_div(F.log_softmax(close, 1), F.softmax(other, 1), reduction="batchmean")
    return torch.stack(terms).mean() + seen + F.mse_loss(mine, its)
