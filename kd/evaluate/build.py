"""Predictors from their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.config import validate
from kd.evaluate.predictor import Predictor
from kd.lookup import lookup


def build_predictor(values: Mapping[str, Any]) -> Predictor:
    """The predictor that plain values describe, e.g. ``{name: sliding, window: [512, 512]}``.

    Raises:
        ConfigError: the name or a knob is unknown, or a value is wrong.
    """
    cls = lookup("kd.evaluate", str(values.get("name", "")), "Predictor")
    return cls(validate(cls.Config, values, "predictor"))
