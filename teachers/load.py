"""Teachers from their configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kd.files import at_home
from kd.lookup import configured, lookup
from teachers.soft_labels.cached import CachedTeacher
from teachers.teacher import Teacher


def load_teacher(config: Any, classes: Sequence[str], device: torch.device | str = "cpu", channels: int = 3) -> Teacher:
    """The teacher that a configuration names, on a device, frozen; plain values as a recipe writes them do too.

    With ``cache`` its soft labels for training come from there, see ``teachers.soft_labels``.

    ``classes`` are the names of the data set's classes, in its order; ``channels`` those of its images.

    Raises:
        ConfigError: the source is missing or damaged, its classes are not the data set's, it takes other channels than it is
            shown, or a value is wrong.
    """
    config = configured(config, "teachers", "Teacher", "teacher")
    teacher: Teacher = lookup("teachers", config.name, "Teacher")(config, tuple(classes))
    if config.cache is not None:
        teacher = CachedTeacher(teacher, at_home(config.cache))
    teacher.check_channels(channels)
    return teacher.to(device).requires_grad_(False)
