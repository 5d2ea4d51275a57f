"""A teacher that looks several times: test-time augmentation for soft labels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from kd.keywords import keywords
from kd.types import Outputs, Sizes, grey_levels
from teachers.composite import Member, Whole, build_member, log_mean, taken
from teachers.teacher import Teacher


class AugmentedTeacher(Teacher):
    """The mean of one teacher's probabilities over enlarged, reduced and mirrored images, back at the images' resolution.

    Given as its logarithm, as in :class:`teachers.ensemble.EnsembleTeacher`. It costs a look for each scale, with ``flip`` two.
    Images are resized bilinearly, with antialiasing, and rounded to uint8 again, because every teacher takes those. Embedding
    and pyramid are left out.
    """

    class Config(Whole):
        """``teacher`` is written like ``teacher`` itself; ``scales`` are relative to the image."""

        teacher: Member
        flip: bool = True
        scales: tuple[float, ...] = Field(default=(1.0,), min_length=1)

        @field_validator("scales")
        @classmethod
        def _positive(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
            if min(scales) <= 0:
                raise ValueError(f"are {list(scales)}; a scale must be above 0, for example 0.75")
            return scales

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        inner = build_member(config.teacher, classes, "teacher.teacher")
        sizes = Sizes(len(classes), 1, 0, inner.sizes.aux)
        super().__init__(config, classes, classes, sizes, f"{inner.source}, augmented")
        self.mark, self.inner, self.takes = inner.mark, inner, taken([inner])
        self.train(False)

    def check_channels(self, there: int, key: str = "teacher") -> None:
        """See ``Teacher``; the inner one chooses among the channels that this one is shown."""
        super().check_channels(there, key)
        self.inner.check_channels(there if self.shown is None else len(self.shown), f"{key}.teacher")

    def answer(self, image: Tensor) -> Outputs:
        """Log-probabilities ``B K H W``."""
        size = (image.shape[-2], image.shape[-1])
        views = [(scale, flip) for scale in self.config.scales for flip in ((False, True) if self.config.flip else (False,))]
        answers = [self._back(*view, image, size) for view in views]

        def mean(maps: list[Tensor]) -> Tensor:
            return log_mean((1 / len(maps), part) for part in maps)

        aux = [part for _, part in answers if part is not None]
        return Outputs(mean([part for part, _ in answers]), mean(aux) if aux else None)

    def _back(self, scale: float, flip: bool, image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Logits and auxiliary logits of one view, laid on the image."""
        seen = resized(image, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        outputs = self.inner.look(seen.flip(-1) if flip else seen)
        maps = [outputs.at(size, field) for field in ("logits", "aux_logits") if getattr(outputs, field) is not None]
        logits, *aux = [part.flip(-1) if flip else part for part in maps]
        return logits, aux[0] if aux else None


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Images, uint8 or floats in [0, 1], at another size; the identity where it is theirs."""
    if image.shape[-2:] == torch.Size(size):
        return image
    larger = F.interpolate(grey_levels(image), size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 255)
    return larger / 255 if image.is_floating_point() else larger.round().to(torch.uint8)
