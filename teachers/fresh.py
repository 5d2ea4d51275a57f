"""An untrained teacher: a control that shows how much of a gain comes from the teacher's knowledge; also serves smoke runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kd.keywords import keywords
from kd.networks.build import build_network, network_config
from kd.types import Outputs
from teachers.teacher import Teacher


class FreshTeacher(Teacher):
    """A randomly initialised, frozen network."""

    class Config(Teacher.Config):
        """``network`` is written like ``student``."""

        network: dict[str, Any]

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        network = build_network(network_config(config.network), len(classes))
        super().__init__(config, classes, classes, network.sizes, "a fresh network")
        self.network, self.takes = network.requires_grad_(False), network.channels
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """The network's outputs."""
        return self.network(image)
