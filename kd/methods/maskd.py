"""MasKD: learn tokens that part the map into regions, then mimic region by region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn

from kd.config import ConfigError
from kd.content import ContentPath
from kd.files import at_home
from kd.keywords import keywords
from kd.losses.cross_entropy import cross_entropy
from kd.losses.loss import global_mean
from kd.methods.maps import KdMask, mean, pair, squared_gap, valid
from kd.methods.method import Method
from kd.schedules import LearningRateConfig, OptimizerConfig
from kd.sealed import load_tensors
from kd.types import IGNORE, Outputs, Sizes, Stage, full_precision, resample

DISTIL = Stage("distil")


def masks(tokens: Tensor, maps: Tensor) -> Tensor:
    """``sigmoid(tokens' maps)``: one mask for each token, ``B T h w``, of maps ``B C h w`` and tokens ``T C``."""
    return torch.einsum("tc,bchw->bthw", tokens, maps).sigmoid()


def overlap(mask: Tensor) -> Tensor:
    """Mean over images and pairs of different tokens of ``2 <m_k, m_l> / (<m_k, m_k> + <m_l, m_l>)``; 0 for a single token."""
    flat = mask.flatten(2)
    products = flat @ flat.transpose(1, 2)
    own = products.diagonal(dim1=1, dim2=2) + 1e-12
    dice = 2 * products / (own.unsqueeze(1) + own.unsqueeze(2))
    count = mask.shape[1]
    others = ~torch.eye(count, dtype=torch.bool, device=mask.device)
    return mean(dice.where(others, 0).sum((1, 2)) / max(1, count * (count - 1)))


def masked_difference(
    student: Tensor, teacher: Tensor, mask: Tensor, keep: Tensor | None = None, variant: str = "segmentation"
) -> Tensor:
    """Mean over images, tokens and channels of the squared difference within each mask.

    ``segmentation``: ``0.5 sum m^2 (s - t)^2 / (sum m + 1e-5)``; ``detection``: without the 0.5 and the 1e-5. Maps ``B C h w``,
    masks ``B T h w``, which take no gradient.
    """
    if keep is not None:
        mask = mask.where(keep.unsqueeze(1), 0)
    mask = mask.detach()
    area = mask.sum((2, 3), keepdim=True)
    area = area.where(area > 0, 1) if variant == "detection" else area + 1e-5
    weight = (mask.square() / area).sum(1, keepdim=True)  # the squared difference is one for all masks
    total = squared_gap(student, teacher, weight)
    return (1.0 if variant == "detection" else 0.5) * global_mean(total, mask.shape[1] * student[..., 0, 0].numel())


class Tokens(nn.Module):
    """The tokens ``T C``, which start small and random; an optimizer of their own learns them."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(count, channels) * 0.01)


class MasKD(Method):
    """First ``token_ce`` and ``token_dice`` learn the tokens on the teacher alone, then ``mask`` and ``mask_aux`` teach.

    Huang et al., arXiv 2205.14589, as its segmentation code: the maps are class logits. Tokens: 8, a first stage of a quarter
    of the student's steps (10 000 beside 40 000), SGD 0.1, weights 1 and 1: cross-entropy of the logits times the sum of all
    masks, and an overlap that drives masks apart. Then 1 and 0.4 (auxiliary head, same tokens). There is no pixel KD. Unlike in
    the code the teacher stays in eval mode. ``variant: detection`` is the detection code's mask, teacher's times student's.
    ``tokens`` takes those of an earlier run, so that a sweep learns them once; its own go into ``method.safetensors``.

    Fails where: the two networks' logits differ by a constant, which changes no prediction but is regressed.
    """

    class Config(Method.Config):
        """``tokens``: a run directory or its ``method.safetensors``; if it is null, ``count`` tokens are learnt first, for
        ``share`` times the student's steps."""

        count: int = Field(default=8, ge=1)
        share: float = Field(default=0.25, gt=0)
        tokens: ContentPath | None = None
        aux: bool = True
        variant: Literal["segmentation", "detection"] = "segmentation"
        kd_mask: KdMask = "all"
        optimizer: OptimizerConfig = OptimizerConfig(
            kind="sgd", lr=0.1, momentum=0.9, weight_decay=1e-3, learning_rate=LearningRateConfig(power=0.9)
        )

    hard = frozenset({"token_ce"})

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        if config.aux and not (student.aux and teacher.aux):
            raise ConfigError(
                "method.aux: is true, but a network has no auxiliary head; give it one, or set method.aux=false "
                "weights.mask_aux=null"
            )
        self.needs = frozenset({"logits", *(("aux_logits",) if config.aux else ())})
        self.fields = {"mask": "logits", **({"mask_aux": "aux_logits"} if config.aux else {})}
        self.tokens = Tokens(config.count, teacher.classes)
        if config.tokens is not None:
            self.tokens.values = nn.Parameter(read_tokens(config.tokens, teacher.classes))
        self.stages = (DISTIL,)
        if config.tokens is None:
            self.stages = (Stage("tokens", share=config.share, trains_student=False), DISTIL)
        self._begin(self.stages[0])
        self.entered = len(self.stages) == 1

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """Those of the tokens where they are learnt, too."""
        learnt = ("token_ce", "token_dice") if config.tokens is None else ()
        return (*learnt, *("mask", "mask_aux")[: 1 + config.aux])

    def enter(self, stage: Stage) -> None:
        """Tokens learn in their own stage only."""
        self._begin(stage)
        self.entered = True

    def _begin(self, stage: Stage) -> None:
        self.learning = not stage.trains_student
        self.tokens.requires_grad_(self.learning)

    def forward(self, student: Outputs | None, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The terms of the stage.

        Raises:
            ValueError: no stage has been entered, so that tokens would be learnt for ever.
        """
        if not self.entered:
            told = ", then ".join(f"{stage.name} ({stage.share:g})" for stage in self.stages)
            raise ValueError(
                f"MasKD has the stages {told}, in shares of the student's steps; call method.enter(stage) when each of "
                "method.stages begins, and weigh the terms of each"
            )
        if self.learning or student is None:
            return self._learn(teacher, target)
        terms = {}
        for name, field in self.fields.items():
            mine, theirs = pair(student, teacher, field)
            mask = masks(self.tokens.values.to(theirs.dtype), theirs)
            if self.config.variant == "detection":
                mask = mask * masks(self.tokens.values.to(theirs.dtype), mine.detach())
            keep = valid(target, teacher, theirs, self.config.kd_mask)
            terms[name] = masked_difference(mine, theirs, mask, keep, self.config.variant)
        return terms

    def _learn(self, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        theirs = full_precision(teacher.logits.detach())
        mask = masks(self.tokens.values.to(theirs.dtype), theirs)
        size = (int(target.shape[-2]), int(target.shape[-1]))
        logits = resample(masked_logits(theirs, mask), size, teacher.align_corners)
        return {"token_ce": cross_entropy(logits, target, target != IGNORE), "token_dice": overlap(mask)}

    def players(self) -> Mapping[str, tuple[nn.Module, OptimizerConfig]]:
        """The tokens and their optimizer, where they are learnt."""
        return {"tokens": (self.tokens, self.config.optimizer)} if len(self.stages) > 1 else {}

    def keeps(self) -> Mapping[str, Tensor]:
        """The tokens."""
        return {"tokens": self.tokens.values.detach()}


def masked_logits(maps: Tensor, mask: Tensor) -> Tensor:
    """Maps ``B C h w`` times the sum of all masks."""
    return maps * mask.sum(1, keepdim=True)


def read_tokens(path: str, classes: int) -> Tensor:
    """Tokens ``T C`` of an earlier run.

    Raises:
        ConfigError: there are none, or they are for another number of classes.
    """
    file = at_home(path)
    file = file / "method.safetensors" if file.is_dir() else file
    try:
        found = load_tensors(file, "learn them anew, or copy the file again")["tokens"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ConfigError(
            f"method.tokens: {file} holds no tokens ({type(error).__name__}); give the directory of a finished MasKD run, or "
            "null to learn them first"
        ) from None
    if found.ndim != 2 or found.shape[1] != classes:
        raise ConfigError(f"method.tokens: {file} holds tokens of shape {list(found.shape)}, but there are {classes} classes")
    return found.float()
