"""A window slid over the image, overlapping logits averaged: the protocol of the JDT losses' code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kd.evaluate.logits import Logits, merged, resampled
from kd.evaluate.predictor import Network, Predictor
from kd.keywords import keywords


class Sliding(Predictor):
    """Windows at every stride, the last one of a row or column moved back to the border.

    Where windows overlap their logits are averaged (probabilities come from the average). An image smaller than the
    window is padded with ``fill``, and the padding is cut off the result.
    """

    class Config(Predictor.Config):
        """``window`` and ``stride`` are (height, width) in pixels; ``stride`` null is 2/3 of the window, rounded up.

        ``pad`` says where images smaller than the window grow: ``corner`` (below and to the right) or ``centre`` (half on each
        side, the odd pixel below or right; JDTLosses). ``fill`` is an RGB colour, by default ImageNet's mean; one with
        fractions, such as that mean unrounded (JDTLosses), is shown to the network as it is. Images of other channels take as
        many values, or are padded with their own means.
        """

        window: tuple[int, int]
        stride: tuple[int, int] | None = None
        pad: Literal["corner", "centre"] = "corner"
        fill: tuple[int | float, ...] = Field(default=(124, 116, 104), min_length=1)

        @model_validator(mode="after")
        def _covers(self) -> Sliding.Config:
            if min(self.window) < 1:
                raise ValueError(f"window is {self.window}; both sides must be positive: use the training crop")
            if any(not 1 <= step <= side for step, side in zip(self.steps, self.window, strict=True)):
                rule = "must lie between 1 and the window, so that every pixel is seen: lower it or set it to null"
                raise ValueError(f"stride is {self.stride} for a window of {self.window}; it {rule}")
            if not all(0 <= value <= 255 for value in self.fill):
                raise ValueError(f"fill is {self.fill}; an RGB colour has values from 0 to 255: correct it")
            return self

        @property
        def steps(self) -> tuple[int, int]:
            """The stride in force."""
            height, width = self.window
            return self.stride or (-(-2 * height // 3), -(-2 * width // 3))

    config: Config

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)

    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """See ``Predictor``. One forward pass for each window of the batch."""
        padded, start = self._padded(image)
        total, seen = None, padded.new_zeros(padded.shape[-2:], dtype=torch.float32)
        for window in self._windows(padded):
            logits = network(padded[window]).at(self.config.window)
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], *padded.shape[-2:])
            total[window] += logits
            seen[window] += 1
        assert total is not None
        return total.div_(seen)[(..., *_inside(start, image))]

    def read(self, network: Network, image: Tensor) -> list[Logits]:
        """See ``Predictor``. Of the windows only the networks' coarse logits are kept."""
        padded, start = self._padded(image)
        corners = [(rows.start, columns.start) for _, rows, columns in self._windows(padded)]
        windows = [resampled(network(padded[window]), self.config.window) for window in self._windows(padded)]
        where = _inside(start, image)
        return [merged(of, corners, where) for of in zip(*windows, strict=True)]

    def _windows(self, padded: Tensor) -> Iterator[tuple[Any, slice, slice]]:
        """Indices of the windows, row by row."""
        (height, width), (down, right) = self.config.window, self.config.steps
        places = product(offsets(padded.shape[-2], height, down), offsets(padded.shape[-1], width, right))
        return ((..., slice(top, top + height), slice(left, left + width)) for top, left in places)

    def _padded(self, image: Tensor) -> tuple[Tensor, list[int]]:
        """A canvas no smaller than the window with the image on it, and its first row and column there."""
        slack = [max(need - have, 0) for have, need in zip(image.shape[-2:], self.config.window, strict=True)]
        top, left = (room // 2 if self.config.pad == "centre" else 0 for room in slack)
        if not any(slack):
            return image, [0, 0]
        if not image.is_floating_point() and any(value != int(value) for value in self.config.fill):
            image = image.float() / 255
        height, width = image.shape[-2:]
        canvas = self._colour(image).repeat(1, 1, height + slack[0], width + slack[1])
        canvas[..., top : top + height, left : left + width] = image
        return canvas, [top, left]

    def _colour(self, image: Tensor) -> Tensor:
        """``fill`` as these images count colours, ``B C 1 1``."""
        if len(self.config.fill) != image.shape[1]:
            return image.float().mean((2, 3), keepdim=True).to(image.dtype)
        fill = image.new_tensor(self.config.fill)[:, None, None].expand(len(image), -1, 1, 1)
        return fill / 255 if image.is_floating_point() else fill


def _inside(start: Sequence[int], image: Tensor) -> tuple[slice, slice]:
    """Where the image lies on its canvas."""
    top, left = start
    return slice(top, top + image.shape[-2]), slice(left, left + image.shape[-1])


def offsets(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis of ``length >= window``: every stride, and at the far border."""
    return [*range(0, length - window, stride), length - window]
