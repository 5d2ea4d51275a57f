"""What the channels of images are where they are not RGB of 8 bits: how many, of what range, and which of them are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Range = tuple[tuple[float, float], ...]
"""The values that become 0 and 1: one pair for all channels, or one for each."""


@dataclass(frozen=True)
class Bands:
    """``channels`` of an image; ``range`` where files hold other than 8 bits (None: uint8, read as they are); ``shown`` are the
    channels that pictures show as red, green and blue, or one as grey (None: the first three, or the first)."""

    channels: int = 3
    range: Range | None = None
    shown: tuple[int, ...] | None = None

    @property
    def plain(self) -> bool:
        """Whether they are what picture files hold: RGB of 8 bits."""
        return self.channels == 3 and self.range is None

    @property
    def pairs(self) -> Range | None:
        """The range of each channel."""
        return self.range * self.channels if self.range is not None and len(self.range) == 1 else self.range

    def picked(self, channels: Sequence[int] | None) -> Bands:
        """Some of the channels, in their order; None: all."""
        if channels is None:
            return self
        return Bands(len(channels), None if self.pairs is None else tuple(self.pairs[channel] for channel in channels))

    def strange(self, seen: Bands) -> str:
        """What a network that has learned these makes of images that are read by another range; "" where it is the same."""
        if self.pairs == seen.pairs:
            return ""
        if self.pairs is None:
            return f"has learned images of 8 bits: data.range={[list(pair) for pair in seen.range or ()]} is 0 to 255 to it"
        told = "as 8 bits" if seen.pairs is None else f"with data.range={[list(pair) for pair in seen.range or ()]}"
        return (
            f"has learned images read with data.range={[list(pair) for pair in self.range or ()]} and is shown images read "
            f"{told}: the same values look other to it, unless the files are of another scale"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What a network's card says, so that other files are read as its training images were; nothing where all is usual."""
        pairs = None if self.range is None else [list(pair) for pair in self.range]
        said = {"range": pairs, "shown": None if self.shown is None else list(self.shown)}
        return {key: value for key, value in said.items() if value is not None}

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Bands:
        """Those of the images that a saved network takes."""
        pairs, shown = card.get("range"), card.get("shown")
        return cls(
            card["network"].get("channels", 3),
            None if pairs is None else tuple((float(low), float(high)) for low, high in pairs),
            None if shown is None else tuple(shown),
        )

    def visible(self, image: Tensor) -> Tensor:
        """An image ``C H W``, uint8 or floats in [0, 1], as people see it: uint8 ``3 H W``."""
        shown = self.shown or ((0, 1, 2) if self.channels >= 3 else (0,))
        picture = image if shown == (0, 1, 2) and len(image) == 3 else image[list(shown)]
        if picture.is_floating_point():
            picture = (picture * 255).round().clamp(0, 255).to(torch.uint8)
        return picture.expand(3, -1, -1)


RGB = Bands()


def as_pairs(value: Any) -> Any:
    """``[low, high]`` stands for all channels."""
    flat = isinstance(value, (list, tuple)) and value and not any(isinstance(one, (list, tuple)) for one in value)
    return [value] if flat else value


def check_bands(bands: Bands) -> None:
    """Refuse a range that is none, and channels that are not there.

    Raises:
        ValueError: naming the key, and the rule.
    """
    pairs, shown, count = bands.range, bands.shown, bands.channels
    if pairs is not None and len(pairs) not in (1, count):
        raise ValueError(f"range has {len(pairs)} pairs for {count} channels; give one, [low, high], or one for each channel")
    if wrong := [list(pair) for pair in pairs or () if not pair[0] < pair[1]]:
        raise ValueError(f"range is {wrong[0]}; the first value becomes 0, the second, which must be higher, 1")
    if shown is not None and (len(shown) not in (1, 3) or max(shown) >= count):
        raise ValueError(f"shown is {list(shown)}; name three channels, to be red, green and blue, or one, of 0 to {count - 1}")
