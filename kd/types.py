"""The nouns that all folders share.

Shapes: ``B`` images, ``K`` classes, ``D`` channels, ``h w`` a network's own grid, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
"""The one value that means "no label here", in every target of every data set."""


UNLABELLED = 254
"""In a training batch's target: a pixel of an image without labels. The objective makes it ``IGNORE``, see ``Outputs``."""


class Unlabelled(NamedTuple):
    """Where a batch has no labels though there is a picture: bool ``pixels`` ``B H W``.

    ``doubted`` bool ``B h w``, at the grid of the teacher's logits: those of unlabelled images where it is in doubt, if that
    was asked for.
    """

    pixels: Tensor
    doubted: Tensor | None = None


@dataclass(frozen=True)
class Outputs:
    """What a network says about a batch.

    ``logits``      ``B K h w`` at the network's own stride; of a teacher that knows no classes ``B 0 h w``
    ``aux_logits``  ``B K h' w'`` of the auxiliary head, or None
    ``embedding``   ``B D h w``, the features that the classifier sees
    ``pyramid``     the backbone's levels, finest first
    ``unlabelled``  of a teacher's, in training: where the labels say nothing and its word counts all the same
    """

    logits: Tensor
    aux_logits: Tensor | None = None
    embedding: Tensor | None = None
    pyramid: tuple[Tensor, ...] = ()
    align_corners: bool = False
    """How the network's grid lies on the image; whoever resamples its maps must follow it."""
    unlabelled: Unlabelled | None = None

    def at(self, size: Sequence[int], field: str = "logits") -> Tensor:
        """A field of logits, resampled bilinearly to ``size`` (H, W), e.g. ``target.shape[-2:]``; half types become float32."""
        maps = getattr(self, field)
        if maps is None:
            raise ValueError(f"the network has no {field}; build it with an auxiliary head, or drop the terms that use it")
        height, width = size
        return resample(full_precision(maps), (height, width), self.align_corners)


def full_precision(values: Tensor) -> Tensor:
    """Half types become float32; sums over millions of pixels need it. float64 stays."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def resample(maps: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """``B K h w`` to ``B K H W``, bilinear. The identity when the size already fits."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    if maps.is_cuda:  # what is channels_last would be copied by every softmax of the enlarged maps
        maps = maps.contiguous()
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def check_image(image: Tensor, channels: int | None = 3) -> None:
    """Refuse what is no batch of images of so many channels (None: of any) as networks and teachers take them; 3 are RGB.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is not ``B 3 H W``, or floats lie outside [0, 1].
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image is a {type(image).__name__}; it must be a tensor B {channels or 'C'} H W, of a Batch its image")
    if image.ndim != 4 or channels not in (None, image.shape[1]):
        wanted, more = (", RGB", "; for one channel repeat it, image.expand(-1, 3, -1, -1)") if channels == 3 else ("", "")
        raise ValueError(
            f"image is {tuple(image.shape)}; it must be B {channels or 'C'} H W{wanted}, channels first. For one image add the "
            f"batch's axis, image[None]{more}"
        )
    if image.is_floating_point() and not torch.compiler.is_compiling():
        low, high = (float(value) for value in image.detach().aminmax())
        if low < -LEEWAY or high > 1 + LEEWAY:
            raise ValueError(
                f"image holds floats from {low:.3g} to {high:.3g}; give uint8 of 0 to 255, or floats of 0 to 1 (image / 255). "
                "Networks and teachers normalise them themselves"
            )
    elif not image.is_floating_point() and image.dtype != torch.uint8:
        raise ValueError(f"image is {image.dtype}; give uint8 of 0 to 255, or floats of 0 to 1")


LEEWAY = 0.01
"""By how much floats may leave [0, 1], as interpolated ones do."""


def grey_levels(image: Tensor) -> Tensor:
    """Images, uint8 or floats in [0, 1], as float32 in [0, 255]."""
    return image * 255 if image.is_floating_point() else image.float()


def nearest_labels(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels ``B H W`` at a coarser or finer grid: index ``i`` reads source ``floor(i * in / out)``, as published code does."""
    if target.shape[-2:] == torch.Size(size):
        return target
    rows = torch.arange(size[0], device=target.device) * target.shape[-2] // size[0]
    columns = torch.arange(size[1], device=target.device) * target.shape[-1] // size[1]
    return target[..., rows[:, None], columns]


@dataclass(frozen=True)
class Sizes:
    """What a network declares about its outputs, so that a method can check the pair before any training.

    ``classes`` is 0 where a teacher knows none and gives features alone. ``stride`` counts pixels per step of the logits' grid;
    ``embedding`` the embedding's channels (0: none); ``pyramid`` and ``pyramid_strides`` the channels and strides of the
    backbone's levels (empty: none). ``grid`` is the size (h, w) of the logits of a training crop, where it is known.
    """

    classes: int
    stride: int
    embedding: int
    aux: bool
    pyramid: tuple[int, ...] = ()
    pyramid_strides: tuple[int, ...] = ()
    grid: tuple[int, int] = (0, 0)

    def on_crop(self, height: int, width: int) -> Sizes:
        """With the grid of the logits of images of this size, which critics (SKD, IFVD) must know where images are small."""
        return replace(self, grid=(-(-height // self.stride), -(-width // self.stride)))

    @property
    def fields(self) -> frozenset[str]:
        """The fields of ``Outputs`` that are there."""
        there = {"logits": self.classes > 0, "aux_logits": self.aux}
        there |= {"embedding": self.embedding > 0, "pyramid": bool(self.pyramid)}
        return frozenset(name for name, given in there.items() if given)


class Geometry(NamedTuple):
    """How an image became a crop: scaled to (height, width), cut at (top, left), flipped. Negative offsets are padding.

    ``scale`` is the factor before the sides were rounded to whole pixels; ``view`` which one it is, where an image has a fixed
    number of crops.
    """

    height: int
    width: int
    top: int
    left: int
    flipped: bool
    scale: float
    view: int = 0


@dataclass(frozen=True)
class Batch:
    """``image`` uint8 ``B 3 H W`` RGB (or other channels, or floats in [0, 1]); ``target`` int64 ``B H W``, 255 = ignore,
    254 = unlabelled; ``ids`` names of samples."""

    image: Tensor
    target: Tensor
    ids: tuple[str, ...] = ()
    geometry: tuple[Geometry, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; asynchronous from pinned memory."""
        image = self.image.to(device, non_blocking=True)
        return replace(self, image=image, target=self.target.to(device, non_blocking=True).long())

    def pin_memory(self) -> Batch:
        """Called by the data loader."""
        return replace(self, image=self.image.pin_memory(), target=self.target.pin_memory())

    def __len__(self) -> int:
        return self.image.shape[0]


@dataclass(frozen=True)
class Stage:
    """A part of the schedule. ``share`` of the steps; in a stage that does not train the student its parameters rest."""

    name: str
    share: float = 1.0
    trains_student: bool = True
