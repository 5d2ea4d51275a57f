"""The critic that SKD, IFVD and CWD share: it tells the teacher's score maps from the student's, who learns to fool it.

Architecture of the SKD code (Liu et al., arXiv 1903.04197; SAGAN, arXiv 1805.08318): batch norm, 4x4 convolutions of stride 2
with spectral norm, self-attention behind the last two of them, a 4x4 convolution to one value. The published critic has four
strided convolutions and needs score maps of 64 x 64 or more; here their number follows from the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kd.config import Config, ConfigError
from kd.methods.maps import frozen, mean
from kd.schedules import LearningRateConfig, OptimizerConfig
from kd.seeds import uniform_by_image
from kd.types import Sizes

LAST = 4
"""Side of the last convolution, so the smallest map it can read."""


class SpectralConv(nn.Conv2d):
    """4x4 convolution of stride 2 whose weight is divided by its largest singular value.

    One power iteration at every forward, in eval mode too, as published: ``v = W'u / |W'u|``, ``u = Wv / |Wv|``,
    ``sigma = u'Wv`` with gradient to ``W`` only.
    """

    u: Tensor
    v: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(inputs * 16), dim=0))

    def forward(self, maps: Tensor) -> Tensor:
        """``B D h w`` to ``B D' h/2 w/2``."""
        flat = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(flat.t() @ self.u, dim=0)
            u = F.normalize(flat @ v, dim=0)
            self.u.copy_(u)
            self.v.copy_(v)
        sigma = u @ (flat @ v)
        return F.conv2d(maps, self.weight / sigma, self.bias, self.stride, self.padding)


class SelfAttention(nn.Module):
    """``x + gamma * values * softmax(queries' keys)'`` over pixels; ``gamma`` starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            nn.Conv2d(width, width // 8, 1),
            nn.Conv2d(width, width // 8, 1),
            nn.Conv2d(width, width, 1),
        )
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, maps: Tensor) -> Tensor:
        """``B D h w``."""
        query, key, value = (part(maps).flatten(2) for part in (self.query, self.key, self.value))
        weights = (query.transpose(1, 2) @ key).softmax(2)
        return maps + self.gamma * (value @ weights.transpose(1, 2)).view_as(maps)


class Critic(nn.Module):
    """Score maps ``B K h w`` to values ``B 1 h' w'``; higher means more like the teacher's."""

    def __init__(self, classes: int, stages: int = 4, width: int = 64) -> None:
        super().__init__()
        widths = [classes, *(width * 2**number for number in range(stages))]
        self.norm = nn.BatchNorm2d(classes)
        self.convs = nn.ModuleList(SpectralConv(a, b) for a, b in pairwise(widths))
        self.attention = nn.ModuleList(SelfAttention(channels) for channels in widths[1:][-2:])
        self.last = nn.Conv2d(widths[-1], 1, LAST)

    def forward(self, scores: Tensor) -> Tensor:
        """See the class.

        Raises:
            ValueError: the maps are too small to be halved so often.
        """
        least = LAST * 2 ** len(self.convs)
        if min(scores.shape[-2:]) < least:
            raise ValueError(
                f"score maps of {scores.shape[-2]}x{scores.shape[-1]} are too small for a critic that halves them "
                f"{len(self.convs)} times and needs {least}x{least}; build the method with the teacher's "
                "sizes on your images, teacher.sizes.on_crop(H, W), and it halves them less often"
            )
        maps, first = self.norm(scores), len(self.convs) - len(self.attention)
        for number, conv in enumerate(self.convs):
            maps = F.leaky_relu(conv(maps), 0.1)
            if number >= first:
                maps = self.attention[number - first](maps)
        return self.last(maps)


def strided_stages(grid: tuple[int, int], most: int = 4) -> int:
    """How many times a map of ``grid`` (h, w) can be halved so that the last convolution fits; ``most`` if unknown (0, 0).

    Raises:
        ConfigError: the map is smaller than 4 x 4.
    """
    side, stages = min(grid), 0
    if side == 0:
        return most
    if side < LAST:
        raise ConfigError(
            f"method.adversary: score maps of {grid[0]}x{grid[1]} are too small for a critic, which needs {LAST}x{LAST}; use a "
            "larger augmentation.crop, a finer student.output_stride, or method.adversary=null without its weights"
        )
    while stages < most and side // 2 >= LAST:
        side, stages = side // 2, stages + 1
    return stages


def generator_loss(fake: Tensor) -> Tensor:
    """``-mean D(student)``, for both kinds."""
    return -mean(fake)


def critic_loss(real: Tensor, fake: Tensor, kind: str) -> Tensor:
    """``hinge``: ``mean relu(1 - D(teacher)) + mean relu(1 + D(student))``; ``wgan``: ``mean D(student) - mean D(teacher)``."""
    if kind == "hinge":
        return mean(F.relu(1 - real)) + mean(F.relu(1 + fake))
    return mean(fake) - mean(real)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Mean over samples of ``(|grad D(x)| - 1)^2`` at ``x = share * real + (1 - share) * fake``; ``share`` ``B 1 1 1``."""
    between = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
    values = critic(between)
    (slope,) = torch.autograd.grad(values.sum(), between, create_graph=True)
    return mean((slope.flatten(1).norm(dim=1) - 1).square())


class Adversary(nn.Module):
    """Terms ``fool`` (gradient to the student only) and ``critic`` (gradient to the critic only) on maps of the given sizes.

    Without configuration (null) there is no critic and no term. One backward pass of both equals the published two steps, since
    both read the critic before its step.
    """

    class Config(Config):
        """``kind`` hinge (CIRKD repository) or wgan, with ``penalty`` times the gradient penalty in ``critic`` (SKD, IFVD: 10).

        ``optimizer`` is the critic's own: CIRKD's Adam by default.
        """

        kind: Literal["hinge", "wgan"] = "hinge"
        penalty: float = Field(default=0.0, ge=0)
        optimizer: OptimizerConfig = OptimizerConfig(
            kind="adam",
            lr=4e-4,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            learning_rate=LearningRateConfig(shape="constant"),
        )

    def __init__(self, config: Any, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        self.critic = Critic(sizes.classes, strided_stages(sizes.grid)) if config is not None else None

    @staticmethod
    def terms_of(config: Any) -> tuple[str, ...]:
        """Names of what a call returns: none where there is no critic."""
        return () if config is None else ("fool", "critic")

    def forward(self, student: Tensor, teacher: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
        """Both terms of logits ``B K h w``; pixels not to keep are 0 in both."""
        if self.critic is None:
            return {}
        if keep is not None:
            student, teacher = (maps.where(keep.unsqueeze(1), 0) for maps in (student, teacher))
        with frozen(self.critic):
            fool = generator_loss(self.critic(student))
        fake = student.detach()
        cost = critic_loss(self.critic(teacher), self.critic(fake), self.config.kind)
        if self.config.penalty:
            share = uniform_by_image(fake.new_empty(len(fake), 1, 1, 1))
            cost = cost + self.config.penalty * gradient_penalty(self.critic, teacher, fake, share)
        return {"fool": fool, "critic": cost}

    def players(self) -> Mapping[str, tuple[nn.Module, OptimizerConfig]]:
        """The critic and its optimizer, where there is one."""
        return {} if self.critic is None else {"critic": (self.critic, self.config.optimizer)}
