"""Methods from their configuration."""

from __future__ import annotations

from typing import Any

from kd.lookup import configured, lookup
from kd.methods.method import Method
from kd.types import Sizes


def build_method(config: Any, student: Sizes, teacher: Sizes) -> Method:
    """The method that a configuration names, for a pair of networks; plain values as a recipe writes them do too.

    ``{"name": "cwd", "temperature": 4}`` is one method, a list of such is several at once.

    Raises:
        ConfigError: the name or a knob is unknown, a value wrong, or the pair does not give what the method reads.
    """
    stacked = {"name": "several", "members": config} if isinstance(config, (list, tuple)) else config
    config = configured(stacked, "kd.methods", "Method", "method")
    return lookup("kd.methods", config.name, "Method").fitted(config, student, teacher)
