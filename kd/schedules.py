"""Learning rates as pure functions of (step, total): resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from kd.config import Config


class LearningRateConfig(Config):
    """Shape of the learning rate over a run. ``warmup`` is a share of the steps.

    ``ends_at`` and ``floor`` are shares of the base rate: the decay runs from 1 to the one (MasKD, DIST), or is cut off at the
    other.
    """

    shape: Literal["poly", "cosine", "constant"] = "poly"
    power: float = Field(default=0.9, gt=0)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    warmup_start: float = Field(default=1e-6, ge=0, le=1)
    ends_at: float = Field(default=0.0, ge=0, lt=1)
    floor: float = Field(default=0.0, ge=0, lt=1)


class OptimizerConfig(Config):
    """One optimizer. ``head_multiplier`` scales the rate outside the backbone, ``method_multiplier`` that of a method's own
    layers (null: as the heads); ``decay_norms`` also decays 1-D parameters."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.02, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-4, ge=0)
    head_multiplier: float = Field(default=1.0, gt=0)
    method_multiplier: float | None = Field(default=None, gt=0)
    decay_norms: bool = False
    learning_rate: LearningRateConfig = LearningRateConfig()

    @model_validator(mode="after")
    def _possible(self) -> OptimizerConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {list(self.betas)}; both must be at least 0 and below 1, e.g. [0.9, 0.999]")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true, but momentum is 0; give a momentum, e.g. 0.9, or set nesterov=false")
        return self


def factor(config: LearningRateConfig, step: int, total: int) -> float:
    """What multiplies the base rate at ``step`` of ``total`` (0-based).

    Over the first ``warmup * total`` steps a line rises to 1, never below ``warmup_start``; the decay then runs over the
    remaining steps to ``ends_at``, e.g. poly: ``ends_at + (1 - ends_at) (1 - progress)^power``, never below ``floor``.
    """
    ramp = round(config.warmup * total)
    if step < ramp:
        return max(config.warmup_start, step / ramp)
    progress = min((step - ramp) / max(total - ramp, 1), 1.0)
    decay = {
        "poly": (1 - progress) ** config.power,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
    }[config.shape]
    return max(config.ends_at + (1 - config.ends_at) * decay, config.floor)
