"""Two teachers as one: one answers with logits, the other with features."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from torch import Tensor

from kd.keywords import keywords
from kd.types import Outputs
from teachers.composite import Member, Whole, build_member, taken
from teachers.teacher import Teacher


class PairTeacher(Teacher):
    """Logits and auxiliary logits of one teacher, embedding and pyramid of another, of the same images.

    For methods that read both, such as ``fitnet`` beside ``kd``: soft labels from a network that knows the classes, features
    from a foundation model that knows none, see :class:`teachers.features.FeaturesTeacher`. Floor and scores are of the logits.

    Raises:
        ConfigError: as the two themselves; the first knows no classes, or the second has no features.
    """

    class Config(Whole):
        """``logits`` and ``features`` are written like ``teacher`` itself."""

        logits: Member
        features: Member

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        logits = build_member(config.logits, classes, "teacher.logits")
        features = build_member(config.features, classes, "teacher.features", "features")
        given = {key: getattr(features.sizes, key) for key in ("embedding", "pyramid", "pyramid_strides")}
        source = f"{logits.source} with features of {features.source}"
        super().__init__(config, classes, classes, replace(logits.sizes, **given), source)
        self.mark = hashlib.sha256(f"{logits.mark} {features.mark}".encode()).hexdigest()[:16]
        self.logits, self.features, self.takes = logits, features, taken([logits, features])
        self.train(False)

    def check_channels(self, there: int, key: str = "teacher") -> None:
        """See ``Teacher``; each of the two chooses among the channels that the whole is shown."""
        super().check_channels(there, key)
        for name, part in (("logits", self.logits), ("features", self.features)):
            part.check_channels(there if self.shown is None else len(self.shown), f"{key}.{name}")

    def answer(self, image: Tensor) -> Outputs:
        """The logits of the one, at its own stride, with the features of the other."""
        features = self.features.look(image)
        return replace(self.logits.look(image), embedding=features.embedding, pyramid=features.pyramid)
