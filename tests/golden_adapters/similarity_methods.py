"""Adapters for DSD and CIRKDV2: production classes and functions, names converted, no formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_adapters.newer_methods import place
from kd.methods.cirkd_v2 import CIRKDv2, Graph, pooled, unit_channels
from kd.methods.dsd import DSD
from kd.types import Outputs, Sizes

Inputs = dict[str, Tensor]
HP = dict[str, Any]


def dsd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Both terms, through the method."""
    sides = [tuple(inputs[f"{side}_{name}"] for name in ("logits", "embedding", "deep")) for side in "st"]
    sizes = [Sizes(z.shape[1], 8, e.shape[1], False, (d.shape[1],), (8,)) for z, e, d in sides]
    method = DSD(DSD.Config(temperature=hp["tau"]), *sizes)
    outputs = [Outputs(logits, embedding=embedding, pyramid=(deep,)) for logits, embedding, deep in sides]
    return dict(method(*outputs, torch.zeros_like(inputs["t_logits"][:, 0]).long()))


def graph(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The graph module with given weights, in train mode."""
    module = Graph(hp["plane"]).to(inputs["feat_s"].dtype)
    names = {"widen.0": "conv1_0", "widen.1": "conv1_1", "join.0": "out_conv_0", "join.1": "out_conv_1"}
    names |= {name: f"node_{name[0]}" for name in ("key", "value", "query")}
    place(module, {ours: f"w_{name}" for ours, name in names.items()}, inputs)
    found = module(inputs["feat_s"])
    return {"loss": found.square().sum(), "features": found}


def channels(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The terms of channels, with a given queue and recorded draws."""
    student, teacher = inputs["feat_s"], inputs["feat_t"]
    grid = (int(teacher.shape[2]), int(teacher.shape[3]))
    sizes = [Sizes(3, 8, int(maps.shape[1]), False, grid=grid) for maps in (student, teacher)]
    knobs = {"channel_slots": hp["memory"], "channel_draws": hp["contrast"], "temperature": hp["temperature"]}
    config = CIRKDv2.Config(**knobs, softening=hp["kd_temperature"], group=len(student))
    method = CIRKDv2(config, *sizes).to(student.dtype)
    method.channel_bank.vectors.copy_(inputs["queue"].unsqueeze(0))
    place(method.channel_head, {number: f"w_{number}" for number in "013"}, inputs)
    own, its = unit_channels(method.channel_head(pooled(student))), unit_channels(pooled(teacher))
    method.remember(its.flatten(0, 1), inputs["perm_enqueue"])
    terms = method.channel_terms(own, its, inputs["perm_draw"])
    bank = method.channel_bank
    return {name.removeprefix("channel_"): value for name, value in terms.items()} | {
        "queue": bank.vectors[0],
        "pointer": bank.position,
    }


ADAPTERS: dict[str, Any] = {"dsd_": dsd, "cirkdv2_graph": graph, "cirkdv2_channel": channels}
