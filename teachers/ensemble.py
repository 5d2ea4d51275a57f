"""Several teachers as one: the mean of their probabilities."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from kd.keywords import keywords
from kd.types import Outputs, Sizes
from teachers.composite import Member, Whole, build_member, log_mean, taken
from teachers.teacher import Teacher


class EnsembleTeacher(Teacher):
    """The weighted mean of the members' probabilities at the images' resolution, given as its logarithm.

    ``softmax`` of these logits is the mean itself; a method's temperature acts on the mean, not on each member. There are
    auxiliary logits if all members have them. Members see the same images, each with its own normalisation; each must know the
    data set's classes. Embedding and pyramid have no mean and are left out.
    """

    class Config(Whole):
        """``members`` are written like ``teacher``; ``weights`` (default: equal) are divided by their sum."""

        members: tuple[Member, ...] = Field(min_length=2)
        weights: tuple[float, ...] | None = None

        @model_validator(mode="after")
        def _weights_fit(self) -> EnsembleTeacher.Config:
            if self.weights is not None and (len(self.weights) != len(self.members) or min(self.weights, default=0) <= 0):
                raise ValueError(
                    f"weights are {list(self.weights)}; give one number above 0 for each of {len(self.members)} members"
                )
            return self

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        places = enumerate(config.members)
        members = [build_member(member, classes, f"teacher.members.{place}") for place, member in places]
        sizes = Sizes(len(classes), 1, 0, all(member.sizes.aux for member in members))
        super().__init__(config, classes, classes, sizes, f"an ensemble of {', '.join(member.source for member in members)}")
        marks = [str(member.mark) for member in members]
        self.mark = hashlib.sha256(" ".join(marks).encode()).hexdigest()[:16]
        self.members = nn.ModuleList(members)
        self.takes = taken(members)
        weights = config.weights or [1.0] * len(members)
        self.weights = [weight / sum(weights) for weight in weights]
        self.train(False)

    def check_channels(self, there: int, key: str = "teacher") -> None:
        """See ``Teacher``; each member chooses among the channels that the whole is shown."""
        super().check_channels(there, key)
        for place, member in enumerate(self.members):
            member.check_channels(there if self.shown is None else len(self.shown), f"{key}.members.{place}")  # type: ignore[operator]

    def answer(self, image: Tensor) -> Outputs:
        """Log-probabilities ``B K H W``."""
        size = (image.shape[-2], image.shape[-1])
        answers = [member.look(image) for member in self.members]  # type: ignore[operator]

        def mean(field: str) -> Tensor:
            return log_mean((weight, answer.at(size, field)) for weight, answer in zip(self.weights, answers, strict=True))

        return Outputs(mean("logits"), mean("aux_logits") if self.sizes.aux else None)
