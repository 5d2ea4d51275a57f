"""Several resized and mirrored copies of the image, their probabilities averaged: "multi-scale and flip" of the literature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor

from kd.config import ConfigError
from kd.evaluate.predictor import Network, Predictor
from kd.keywords import keywords
from kd.lookup import lookup, named
from kd.types import resample


def _not_again(value: Any) -> Any:
    if isinstance(value, Mapping) and value.get("name") == "multi_scale":
        raise ConfigError("is multi_scale again; wrap whole or sliding and give all scales in one list")
    return value


class MultiScale(Predictor):
    """Another predictor applied to the image at several scales, and mirrored.

    Each copy's logits are brought to the image's size, bilinear; their softmax is averaged over the copies, all with one
    weight. The logarithm of that mean is returned: as logits it has the mean as its softmax, so labels, calibration and saved
    probabilities agree. Scores with this predictor are not comparable to single-scale ones; tables name it.
    """

    class Config(Predictor.Config):
        """``scales`` of height and width, rounded to whole pixels; ``flip`` adds the mirror image of each, left to right.

        ``predictor`` is applied to each copy: ``{name: sliding, window: [512, 512]}`` keeps its window at every scale.
        """

        scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(default=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), min_length=1)
        flip: bool = True
        predictor: Annotated[named("kd.evaluate", "Predictor"), BeforeValidator(_not_again)] = Field(  # type: ignore[valid-type]
            default={"name": "whole"}
        )

        @field_validator("scales")
        @classmethod
        def _differ(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
            if len(set(scales)) < len(scales):
                raise ValueError(f"is {list(scales)}; a repeated scale would count twice: name each one once")
            return scales

    config: Config

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.predict: Predictor = lookup("kd.evaluate", config.predictor.name, "Predictor")(config.predictor)

    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """See ``Predictor``; logarithms of probabilities. One pass of the inner predictor for each copy."""
        height, width = image.shape[-2:]
        total, number = None, 0
        for copy, mirrored in self._copies(image):
            probabilities = resample(self.predict(network, copy), (height, width)).softmax(1)
            probabilities = probabilities.flip(-1) if mirrored else probabilities
            total = probabilities if total is None else total.add_(probabilities)
            number += 1
        assert total is not None
        return total.div_(number).clamp_min_(torch.finfo(total.dtype).tiny).log_()

    def _copies(self, image: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Resized images, and whether each is mirrored."""
        for scale in self.config.scales:
            copy = scaled(image, scale)
            yield copy, False
            if self.config.flip:
                yield copy.flip(-1), True


def scaled(image: Tensor, scale: float) -> Tensor:
    """Images ``B C H W`` with both sides times ``scale``, at least one pixel: bilinear, antialiased where it shrinks."""
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    resized = F.interpolate(image.float(), size=size, mode="bilinear", antialias=True)
    return resized if image.is_floating_point() else resized.round_().clamp_(0, 255).to(torch.uint8)
