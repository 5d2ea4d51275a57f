"""Predictors from their configuration."""

from __future__ import annotations

from typing import Any

from kd.evaluate.predictor import Predictor
from kd.lookup import configured, lookup


def build_predictor(config: Any) -> Predictor:
    """The predictor that a configuration names; plain values do too, e.g. ``{name: sliding, window: [512, 512]}``.

    Raises:
        ConfigError: the name or a knob is unknown, or a value is wrong.
    """
    config = configured(config, "kd.evaluate", "Predictor", "predictor")
    return lookup("kd.evaluate", config.name, "Predictor")(config)
