"""What a method is tested on: random outputs of a pair of networks, and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.config import ConfigError
from kd.methods.build import build_method
from kd.methods.method import Method
from kd.seeds import seed_everything, seed_processes
from kd.types import IGNORE, Outputs, Sizes, Stage

CLASSES, STRIDE, CROP = 5, 8, (64, 80)
STUDENT = Sizes(CLASSES, STRIDE, 6, True, (4, 8), (4, 8))
TEACHERS = {
    "wider": Sizes(CLASSES, STRIDE, 10, True, (8, 16), (4, 8)),
    "narrower": Sizes(CLASSES, STRIDE, 3, True, (2, 4), (4, 8)),
    "equally wide": STUDENT,
}
"""By the width of their features beside the student's."""


class Breach(Exception):  # noqa: N818 (it is the method that errs)
    """What a method does that the contract forbids, where, and the remedy."""


class Made(NamedTuple):
    """Outputs of a network, and the leaves that they are copies of, by field."""

    outputs: Outputs
    leaves: dict[str, Tensor]

    def changed(self) -> list[str]:
        """The fields that are no longer what they were made as."""
        return [name for name, maps in _fields(self.outputs).items() if not torch.equal(maps, self.leaves[name])]

    def reached(self) -> list[str]:
        """The fields at which gradient has arrived."""
        return [name for name, leaf in self.leaves.items() if leaf.grad is not None and bool(leaf.grad.any())]


def _fields(outputs: Outputs) -> dict[str, Tensor]:
    whole = {"logits": outputs.logits, "aux_logits": outputs.aux_logits, "embedding": outputs.embedding}
    levels = {f"pyramid[{number}]": level for number, level in enumerate(outputs.pyramid)}
    return {name: maps for name, maps in {**whole, **levels}.items() if maps is not None}


def made(
    sizes: Sizes,
    seed: int,
    images: int = 2,
    size: tuple[int, int] = CROP,
    *,
    dtype: torch.dtype = torch.float32,
    share: slice = slice(None),
) -> Made:
    """Random outputs of a network for a ``share`` of some ``images`` (H, W). Every number is one of bfloat16 too."""
    source = torch.Generator().manual_seed(seed)

    def maps(channels: int, stride: int) -> Tensor:
        shape = (images, channels, -(-size[0] // stride), -(-size[1] // stride))
        return torch.randn(shape, generator=source).bfloat16().to(dtype)[share].clone().requires_grad_()

    levels = [maps(*level) for level in zip(sizes.pyramid, sizes.pyramid_strides, strict=True)]
    leaves = {
        "logits": maps(sizes.classes, sizes.stride),
        "aux_logits": maps(sizes.classes, sizes.stride),
        "embedding": maps(sizes.embedding, sizes.stride),
        **{f"pyramid[{number}]": level for number, level in enumerate(levels)},
    }
    logits, aux, embedding, *pyramid = (leaf.clone() for leaf in leaves.values())
    return Made(Outputs(logits, aux, embedding, tuple(pyramid)), leaves)


def labels(images: int = 2, size: tuple[int, int] = CROP, blank: tuple[int, ...] = ()) -> Tensor:
    """Labels ``B H W`` in blocks, of which each image ignores another part and those in ``blank`` everything."""
    height, width = size
    coarse = torch.randint(0, CLASSES, (images, height // 8, width // 8), generator=torch.Generator().manual_seed(7))
    found = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    found = F.pad(found, (0, width - found.shape[2], 0, height - found.shape[1]), value=IGNORE)
    for number in range(images):
        found[number, :16, : 24 + 16 * number] = IGNORE
    found[list(blank)] = IGNORE
    return found


@dataclass(frozen=True)
class Subject:
    """The method of a configuration, ``pair`` the teacher of ``TEACHERS`` beside which it is tested; see :func:`subject`."""

    config: Any
    pair: str

    @property
    def teacher(self) -> Sizes:
        """The teacher's sizes."""
        return TEACHERS[self.pair]

    def method(self, teacher: Sizes | None = None, crop: tuple[int, int] = CROP) -> Method:
        """The method for a pair of networks, the same at each call."""
        seed_everything("contract", "method")
        return build_method(self.config, STUDENT.on_crop(*crop), (teacher or self.teacher).on_crop(*crop)).train()


def subject(config: Any) -> Subject:
    """What is to be tested, beside the first teacher that the method accepts.

    Raises:
        ConfigError: it accepts none.
    """
    refusals = []
    for pair in TEACHERS:
        found = Subject(config, pair)
        try:
            found.method()
        except ConfigError as refusal:
            refusals.append(refusal)
        else:
            return found
    raise refusals[0]


class Step(NamedTuple):
    """What a method has answered in a stage, to which outputs of student and teacher."""

    stage: Stage
    terms: dict[str, Tensor]
    student: Made
    teacher: Made

    def backward(self, but: frozenset[str] = frozenset()) -> None:
        """Send the gradient of the sum of the terms."""
        total = sum((term for name, term in self.terms.items() if name not in but), torch.zeros(()))
        if total.requires_grad:
            total.backward()


def steps(method: Method, student: Callable[[], Made], teacher: Callable[[], Made], target: Tensor) -> Iterator[Step]:
    """A step of each stage, seeded as in training, with outputs of its own."""
    for stage in method.stages:
        seed_processes("contract", "step")
        method.enter(stage)
        method.zero_grad()
        mine, its = student(), teacher()
        yield Step(stage, method(mine.outputs if stage.trains_student else None, its.outputs, target), mine, its)
