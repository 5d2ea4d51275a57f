"""A teacher from a run directory of this toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from kd.config import ConfigError, InputError
from kd.content import ContentPath, file_mark
from kd.data.bands import Bands
from kd.files import at_home
from kd.keywords import keywords
from kd.networks.build import load_network
from kd.types import Outputs
from teachers.teacher import Teacher


class RunTeacher(Teacher):
    """The network that a run left behind: its ``student.safetensors`` (last checkpoint) or ``best.safetensors``.

    Raises:
        ConfigError: the directory holds no finished run, or its classes differ from the data set's.
    """

    class Config(Teacher.Config):
        """``path`` is the run directory."""

        path: ContentPath
        checkpoint: Literal["last", "best"] = "last"

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        folder, name = at_home(config.path), "student" if config.checkpoint == "last" else "best"
        try:
            network, card = load_network(folder, name)
        except InputError as error:
            raise ConfigError(f"teacher.path: {error}. {_hint(folder, name)}") from None
        super().__init__(config, tuple(card["classes"]), classes, network.sizes, str(folder))
        self.mark = file_mark(folder / f"{name}.safetensors")
        self.network, self.takes = network.requires_grad_(False), network.channels
        self.learned = Bands.of(card)
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """The network's outputs."""
        return self.network(image)


def _hint(folder: Path, name: str) -> str:
    """Where the run may be, if not here."""
    if folder.suffix == ".safetensors":
        return f"Give the run's directory: {folder.parent}"
    if below := sorted(file.parent for file in folder.glob(f"*/{name}.safetensors")):
        return f"Did you mean {below[0]}?"
    gone = "" if folder.is_dir() else f"{folder} does not exist. "
    return f"{gone}Train the teacher first and give its run directory"
