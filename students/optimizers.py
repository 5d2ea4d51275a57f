"""Optimizers over disjoint parameters: one for the student and what joins it, one for each player of the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from kd.schedules import OptimizerConfig, factor
from students.objective import Objective


class Schedule:
    """An optimizer with its configuration: its rates are a pure function of the step."""

    def __init__(self, name: str, optimizer: Optimizer, config: OptimizerConfig) -> None:
        self.name, self.optimizer, self.config = name, optimizer, config

    def set_rate(self, step: int, total: int) -> float:
        """Set all groups for ``step`` of ``total``; returns the base rate."""
        rate = self.config.lr * factor(self.config.learning_rate, step, total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["multiplier"]
        return rate

    def parameters(self) -> list[nn.Parameter]:
        """All parameters it moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def build_optimizers(objective: Objective, config: OptimizerConfig) -> list[Schedule]:
    """The student's optimizer first, then the players'."""
    players = dict(objective.method.players()) if objective.method is not None else {}
    owned = {id(parameter) for module, _ in players.values() for parameter in module.parameters()}
    rest = [parameter for parameter in objective.parameters() if id(parameter) not in owned]
    backbone = {id(parameter) for parameter in objective.student.backbone.parameters()}
    # without a multiplier of their own they stay in the heads' group, where checkpoints have always had them
    apart = objective.method if config.method_multiplier is not None else None
    method = {id(parameter) for parameter in apart.parameters()} if apart is not None else set()
    groups = {
        "backbone": ([p for p in rest if id(p) in backbone], 1.0),
        "head": ([p for p in rest if id(p) not in backbone | method], config.head_multiplier),
        "method": ([p for p in rest if id(p) in method], config.method_multiplier or 1.0),
    }
    schedules = [Schedule("student", _optimizer(groups, config), config)]
    for name, (module, own) in players.items():
        schedules.append(Schedule(name, _optimizer({name: (module.parameters(), 1.0)}, own), own))
    return schedules


def _optimizer(groups: Mapping[str, tuple[Iterable[nn.Parameter], float]], config: OptimizerConfig) -> Optimizer:
    split: list[dict[str, Any]] = []
    for name, (parameters, multiplier) in groups.items():
        listed = list(parameters)
        decayed = [p for p in listed if p.ndim > 1 or config.decay_norms]
        spared = [p for p in listed if not (p.ndim > 1 or config.decay_norms)]
        for members, decay in ((decayed, config.weight_decay), (spared, 0.0)):
            if members:
                split.append({"params": members, "weight_decay": decay, "multiplier": multiplier, "name": name})
    on_gpu = all(parameter.is_cuda for group in split for parameter in group["params"])
    known: dict[str, Any] = {"lr": config.lr, "fused": True if on_gpu else None}
    if config.kind == "sgd":
        return torch.optim.SGD(split, momentum=config.momentum, nesterov=config.nesterov, **known)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.kind](split, betas=config.betas, **known)
