"""What standardised, similarity and channel terms cost: of KD, NFD, DSD and CIRKDV2."""

from __future__ import annotations

import torch
from torch import Tensor

from kd.benchmark import usual_relations as usual
from kd.benchmark.case import Case, sizes_of, term
from kd.benchmark.setting import Setting
from kd.benchmark.usual_methods import embedding
from kd.methods.cirkd_v2 import CIRKDv2, Graph, pooled, unit_channels
from kd.methods.dsd import DSD
from kd.methods.kd import KD
from kd.methods.nfd import NFD
from kd.types import Outputs


def kd_standardised(setting: Setting) -> Case:
    """On logits, at temperature 2."""
    method = KD(*sizes_of(setting), standardise=True, temperature=2.0)
    return Case(usual.kd_standardised, term(method.to(setting.device), "kl"))


def nfd(setting: Setting) -> Case:
    """On embeddings, through the same projection."""
    method = NFD(*sizes_of(setting)).to(setting.device)
    return Case(lambda mine, its, _: usual.nfd(method.projection(embedding(mine)), embedding(its)), term(method, "feature"))


def dsd(setting: Setting) -> Case:
    """Both terms, of equal weight."""
    return Case(usual.dsd, term(DSD(*sizes_of(setting)), "psd", "csd"))


def cirkd_graph(setting: Setting) -> Case:
    """The mean square of the student's embedding behind the same graph module."""
    module = Graph(setting.widths[0]).to(setting.device)
    return Case(
        lambda mine, *_: usual.graph(module, embedding(mine)).square().mean(),
        lambda mine, *_: module(embedding(mine)).square().mean(),
    )


def cirkd_channels(setting: Setting) -> Case:
    """All three terms, of equal weight, on as many channels as the student has, against 2048 of a memory."""
    width = setting.widths[0]
    sizes = setting.sizes(width)
    method = CIRKDv2(sizes, sizes, group=setting.batch, channel_slots=2048).to(setting.device)

    def sides(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        mine, its = (unit_channels(pooled(embedding(of)[:, :width])) for of in (student, teacher))
        return mine, its

    def ours(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        del target
        mine, its = sides(student, teacher)
        return torch.stack(list(method.channel_terms(mine, its.detach(), torch.arange(2048)).values())).sum()

    memory = method.channel_bank.vectors[0]
    return Case(lambda mine, its, _: usual.cirkd_channels(*sides(mine, its), memory), ours)


CASES = {
    "KD, standardised": kd_standardised,
    "NFD": nfd,
    "DSD": dsd,
    "CIRKDV2, graph": cirkd_graph,
    "CIRKDV2, channels": cirkd_channels,
}
