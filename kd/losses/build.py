"""Losses from their configuration."""

from __future__ import annotations

from typing import Any

from kd.lookup import configured, lookup
from kd.losses.loss import Loss


def build_loss(config: Any) -> Loss:
    """The loss that a configuration names; plain values as a recipe writes them do too: ``{"name": "kl", "temperature": 2}``.

    Raises:
        ConfigError: the name or a knob is unknown, or a value wrong.
    """
    config = configured(config, "kd.losses", "Loss", "loss")
    return lookup("kd.losses", config.name, "Loss")(**config.model_dump())
