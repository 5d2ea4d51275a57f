"""Teachers from their configuration."""

from __future__ import annotations

from typing import Any

import torch

from kd.lookup import lookup
from teachers.teacher import Teacher


def load_teacher(config: Any, classes: tuple[str, ...], device: torch.device | str = "cpu") -> Teacher:
    """The teacher that a recipe names, on a device, frozen.

    Raises:
        ConfigError: the source is missing or damaged, or its classes are not the data set's.
    """
    teacher: Teacher = lookup("teachers", config.name, "Teacher")(config, classes)
    return teacher.to(device).requires_grad_(False)
