"""Images of other channels than RGB: who says how many there are, and that all parts of a recipe agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd.config import ConfigError
from kd.lookup import lookup

RGB = 3


def channels_of(data: Any) -> int:
    """The channels of a data set's images, by its configuration, plain or checked, or by its class; 3 where neither tells."""
    said = data.get("channels") if isinstance(data, Mapping) else getattr(data, "channels", None)
    if said is None:
        try:
            said = lookup("kd.data", data["name"] if isinstance(data, Mapping) else data.name, "Dataset").channels
        except (ConfigError, KeyError, TypeError, AttributeError):
            return RGB
    return said if isinstance(said, int) else RGB


def check_channels(recipe: Any) -> None:
    """Refuse a student of other images than the data set's, and colours of other channels.

    Raises:
        ValueError: naming both keys.
    """
    channels, student = channels_of(recipe.data), recipe.student
    if (takes := getattr(student, "channels", RGB)) != channels:
        raise ValueError(f"data.channels is {channels} and student.channels {takes}; set student.channels={channels}")
    fills = {
        "augmentation.fill": recipe.augmentation.fill,
        "evaluation.predictor.fill": getattr(recipe.evaluation.predictor, "fill", None),
    }
    for key, fill in fills.items():
        if fill is not None and len(fill) not in (RGB, channels):
            raise ValueError(f"{key} has {len(fill)} values; give {channels}, one for each channel")
