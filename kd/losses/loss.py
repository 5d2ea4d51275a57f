"""What every loss shares: targets hard or soft, a keep mask, float32 arithmetic, means over all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kd.config import Named, validate
from kd.distributed import sum_over_ranks
from kd.types import IGNORE

LEEWAY = 0.01
"""By how much the sum of soft labels may differ from 1, as in half precision."""
NonNegative = Annotated[float, Field(ge=0)]


class Loss(nn.Module):
    """Base of the losses: ``loss(logits, target, keep=None) -> scalar``.

    ``logits``  ``B K *`` with any spatial shape
    ``target``  integers ``B *`` (hard: classes, and ``ignore_index`` for pixels without label) or floats ``B K *`` (soft)
    ``keep``    optional bool ``B *``; False pixels count for nothing. It replaces ``ignore_index`` where given.

    With several processes the value is that of the whole batch, on every rank, and its gradient is right after
    DistributedDataParallel's averaging.

    Raises:
        ConfigError: a knob is unknown or out of range.
        ValueError: shapes of logits, target and keep do not fit, or a label that counts is no class.
    """

    class Config(Named):
        """Knobs shared by all losses. ``field`` names the map of ``Outputs`` that a recipe applies the loss to."""

        field: Literal["logits", "aux_logits"] = "logits"
        ignore_index: int | None = IGNORE

    def __init__(self, config: Any = None, **knobs: Any) -> None:
        super().__init__()
        self.config: Any = config or validate(type(self).Config, knobs, type(self).__name__)

    if TYPE_CHECKING:  # torch's own says nothing about what comes in and out

        def __call__(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
            """The scalar; see the class for shapes."""

    def check(self, classes: int) -> None:
        """Refuse knobs that do not fit a number of classes, before any training.

        Raises:
            ValueError: naming knob, value and rule.
        """
        check_classes(getattr(self, "class_weights", None), classes)

    def wanted(self, hard: bool) -> frozenset[str] | None:  # noqa: ARG002
        """The sums over pixels that the loss is made of, see :mod:`kd.losses.streamed`; None if it needs whole maps."""
        return None

    def summed(self, hard: bool) -> frozenset[str] | None:
        """What is ``wanted``, unless a derived class, or a hook, does otherwise in ``forward``."""
        order = [set(vars(kind)) for kind in type(self).__mro__]
        told = next(place for place, names in enumerate(order) if "wanted" in names)
        others = any({"forward", "from_probabilities"} & names for names in order[:told])
        return None if others or self._forward_hooks or self._forward_pre_hooks else self.wanted(hard)

    def from_sums(self, sums: Any, hard: bool) -> Tensor:  # noqa: ARG002
        """The scalar, of :class:`kd.losses.streamed.Sums` with what is ``wanted`` against hard or soft labels.

        Raises:
            TypeError: the loss says what it wants, and not what to make of it.
        """
        raise TypeError(f"{type(self).__name__} has no from_sums; a loss with wanted makes its scalar of the sums there")

    def extra_repr(self) -> str:
        """The knobs that differ from their defaults."""
        changed = self.config.model_dump(exclude={"name"}, exclude_defaults=True)
        return ", ".join(f"{key}={value!r}" for key, value in changed.items())


def is_hard(target: Tensor) -> bool:
    """Whether a target holds class numbers; every integer type does (also uint8 and int32)."""
    return not target.is_floating_point()


Maps = Literal["auto", "blocks", "whole"]
_MAPS: ContextVar[Maps] = ContextVar("how label-resolution maps are made", default="auto")


@contextmanager
def maps(choice: Maps) -> Iterator[None]:
    """In here losses that can take label-resolution maps block by block do so, or hold them whole; ``auto``: blocks on CPUs."""
    before = _MAPS.set(choice)
    try:
        yield
    finally:
        _MAPS.reset(before)


def by_blocks(logits: Tensor) -> bool:
    """Whether :mod:`kd.losses.streamed` is to be used for a network's logits ``B K h w``."""
    choice = _MAPS.get()
    return choice == "blocks" or (choice == "auto" and logits.device.type == "cpu")


_CHECKED: ContextVar[bool] = ContextVar("labels are checked", default=False)


@contextmanager
def checked_labels() -> Iterator[None]:
    """In here labels are known to be classes or ignored, and losses look no more: on a GPU a look waits for the device."""
    before = _CHECKED.set(True)
    try:
        yield
    finally:
        _CHECKED.reset(before)


def kept_pixels(logits: Tensor, target: Tensor, keep: Tensor | None, ignore_index: int | None) -> Tensor:
    """The mask ``B *`` of pixels that count.

    Raises:
        ValueError: shapes do not fit, or a label that counts is no class, or, soft, no probability.
    """
    check_channels(logits)
    mask = pixel_mask(logits, target, keep, ignore_index)
    if is_hard(target):
        check_labels(target, mask, logits.shape[1], ignore_index)
    else:
        check_soft_labels(target, mask)
    return mask


def check_channels(logits: Tensor) -> None:
    """Refuse logits of one class, whose losses are 0 whatever they are.

    Raises:
        ValueError: saying what to give.
    """
    if logits.shape[1] < 2:
        raise ValueError(
            f"logits are {tuple(logits.shape)}, of one class; a pixel is one of several: give one thing on a background two "
            "channels, background and foreground"
        )


def check_labels(target: Tensor, mask: Tensor | None, classes: int, ignore_index: int | None) -> None:
    """Refuse hard labels that count and are no class, which would cost nothing; not inside :func:`checked_labels`.

    ``mask`` None: all but the ignored ones count.

    Raises:
        ValueError: naming values, classes and ``ignore_index``.
    """
    if _CHECKED.get() or (mask is None and ignore_index == IGNORE and _clean(target, classes)):
        return
    labels = target.long()  # in 8 bits a comparison with more classes would wrap
    counted = labels != ignore_index if mask is None else mask
    wrong = target[counted & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        values = ", ".join(str(value) for value in wrong.unique().tolist()[:8])
        raise ValueError(
            f"target: {len(wrong)} pixels hold label {values}; labels are 0..{classes - 1}, or {ignore_index} (ignore_index) "
            "for pixels without one. Map the labels, or give keep= or another ignore_index"
        )


def _clean(target: Tensor, classes: int) -> bool:
    """Whether labels are classes or 255, in two passes and one wait: in a byte, less ``classes``, those between wrap lowest."""
    if not target.numel() or not 0 < classes <= IGNORE:
        return False
    low, high = target.aminmax()
    lowest = target.to(torch.uint8).sub(classes).amin() if classes < IGNORE else high.new_full((), IGNORE)
    return bool((low >= 0) & (high <= IGNORE) & (lowest >= IGNORE - classes))


def check_soft_labels(target: Tensor, mask: Tensor) -> None:
    """Refuse soft labels that count and are no probabilities, such as logits; not inside :func:`checked_labels`.

    Raises:
        ValueError: naming what they are.
    """
    if _CHECKED.get() or not mask.any():
        return
    kept = target.detach().movedim(1, -1)[mask].float()
    low, sums = float(kept.amin()), kept.sum(-1)
    least, most = float(sums.amin()), float(sums.amax())
    if not (low >= -LEEWAY and abs(least - 1) <= LEEWAY and abs(most - 1) <= LEEWAY):
        raise ValueError(
            f"target: soft labels are probabilities, 0 or more and 1 together; here the least is {low:.3g}, and those of a "
            f"pixel sum up to {least:.3g} to {most:.3g}. Give logits.softmax(1), or keep= where pixels have none"
        )


def pixel_mask(logits: Tensor, target: Tensor, keep: Tensor | None, ignore_index: int | None) -> Tensor:
    """The mask ``B *`` of pixels that count, of a target that is not looked at."""
    pixels = logits.shape[:1] + logits.shape[2:]
    expected = pixels if is_hard(target) else logits.shape
    if target.shape != expected:
        kind = "hard (integer)" if is_hard(target) else "soft (float)"
        raise ValueError(
            f"a {kind} target for logits {tuple(logits.shape)} must have shape {tuple(expected)}, not {tuple(target.shape)}"
        )
    if keep is not None:
        if keep.shape != pixels or keep.dtype != torch.bool:
            raise ValueError(f"keep must be bool {tuple(pixels)}, not {keep.dtype} {tuple(keep.shape)}")
        return keep
    if is_hard(target) and ignore_index is not None:
        return target != ignore_index
    return torch.ones(pixels, dtype=torch.bool, device=logits.device)


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Hard labels ``B *`` to bool ``B K *``. Labels outside the classes (ignored ones) give no True."""
    numbers = torch.arange(classes, device=target.device).view(-1, *[1] * (target.ndim - 1))
    return target.unsqueeze(1) == numbers


def global_mean(values: Tensor, weights: Tensor | int) -> Tensor:
    """``sum(values) / sum(weights)`` over all pixels of all ranks; 0, still in the graph, if the weights sum to 0.

    A number stands for the sum of this rank's weights.
    """
    total = values.sum().double()
    own = weights.sum().double() if isinstance(weights, Tensor) else torch.full_like(total, weights, requires_grad=False)
    sums = sum_over_ranks(torch.stack([total, own]))
    total, count = sums[0], sums[1].detach()
    return (total / torch.where(count > 0, count, torch.ones_like(count))).to(values.dtype)


def class_weight_buffer(weights: tuple[float, ...] | None) -> Tensor | None:
    """Weights as a tensor for ``register_buffer``, so that they follow the module to its device."""
    return None if weights is None else torch.tensor(weights, dtype=torch.float32)


def check_classes(weights: Tensor | None, classes: int) -> None:
    """Refuse class weights of another length than the classes."""
    if weights is not None and len(weights) != classes:
        raise ValueError(f"class_weights has {len(weights)} entries, but the logits have {classes} classes; give one per class")
