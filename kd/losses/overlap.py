"""Jaccard metric loss, Dice semimetric loss and Tversky loss: one function of three sums.

Wang, Ning, Blaschko, "Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels", NeurIPS 2023, arXiv 2302.05666
(JML); Wang et al., MICCAI 2023, arXiv 2303.16296 (Dice semimetric); Wang et al., NeurIPS 2023, arXiv 2310.19252 (per-image
and per-class forms). Unlike the product form of soft Jaccard, the loss is zero where prediction and soft target agree.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kd.distributed import max_over_ranks, sum_over_ranks
from kd.keywords import keywords
from kd.losses.loss import Loss, NonNegative, check_classes, class_weight_buffer, is_hard, kept_pixels, one_hot
from kd.losses.streamed import Sums
from kd.types import IGNORE, full_precision

Active = Literal["present", "label", "all", "prob", "both"] | tuple[int, ...]


class Cardinalities(NamedTuple):
    """True positives, false positives, false negatives, each ``B K``: soft counts of pixels."""

    tp: Tensor
    fp: Tensor
    fn: Tensor


def cardinalities(p: Tensor, q: Tensor, norm: float = 1, form: str = "jml1") -> Cardinalities:
    """Sums over the pixels of ``p`` and ``q`` (``B K N``, zero where ignored).

    ``TP = (|p|^n + |q|^n - |p - q|^n) / 2``, for norm 1 ``sum min(p, q)``, which does not cancel for rare classes;
    ``FP = |p|^n - TP``, ``FN = |q|^n - TP``. The form ``jml2`` (first release) has ``TP = sum p q`` with the same errors.
    """
    if norm == 1:
        in_p, in_q, overlap = p.sum(2), q.sum(2), torch.minimum(p, q).sum(2)
    else:
        in_p, in_q = (p**norm).sum(2), (q**norm).sum(2)
        overlap = (in_p + in_q - ((p - q).abs() ** norm).sum(2)) / 2
    tp = (p * q).sum(2) if form == "jml2" else overlap
    return Cardinalities(tp, in_p - overlap, in_q - overlap)


def active_classes(p: Tensor, q: Tensor, mode: Active, threshold: float) -> Tensor:
    """Bool ``B K``: the classes of each image that count; see :class:`JaccardMetricLoss`."""
    if mode == "all":
        return torch.ones(p.shape[:2], dtype=torch.bool, device=p.device)
    if not isinstance(mode, str):
        chosen = torch.zeros(p.shape[:2], dtype=torch.bool, device=p.device)
        chosen[:, list(mode)] = True
        return chosen
    evidence = {"present": lambda: q, "label": lambda: q, "prob": lambda: p, "both": lambda: p + q}[mode]()
    return evidence.detach().amax(2) > threshold


def mean_where(values: Tensor, active: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean along ``dim`` of the active entries (0 where there is none), and whether there is one."""
    count = active.sum(dim)
    return values.where(active, 0).sum(dim) / count.clamp_min(1), count > 0


class JaccardMetricLoss(Loss):
    """Jaccard metric loss of logits against hard or soft labels.

    With ``rho = (TP + smooth) / (TP + alpha FP + beta FN + smooth)`` the cost of a class is ``1 - rho`` (or ``-log rho``),
    raised to ``gamma``, times its class weight. ``alpha = beta = 1`` is Jaccard, ``0.5`` Dice, others Tversky.

    Reductions, mixed by their weights: ``per_batch`` (mIoU^D: sums over the batch of all ranks, then a mean over classes),
    ``per_image`` (mIoU^I: mean over an image's classes, then over images), ``per_class`` (mIoU^C: mean over a class's images,
    then over classes). Means are plain: class weights are not normalised.

    Active classes, separately for hard and soft targets: ``present`` (some kept pixel's target exceeds ``threshold``; the
    released code's PRESENT, an older release's LABEL, so ``label`` means the same), ``prob`` (some prediction exceeds it),
    ``both`` (their sum does), ``all``, or a list of classes. With ``all``, a class that occurs nowhere costs nearly 1 as soon
    as its predicted mass exceeds ``smooth``.

    Defaults are the released constructor's; every released configuration sets ``smooth: 1.0``. The released code keeps class
    weights off the GPU, does not sum over ranks, and computes the L1 sums by ``torch.norm``, less exact in float32.

    Raises:
        ConfigError: a knob is unknown or out of range.
        ValueError: shapes, class weights or listed classes do not fit the logits.
    """

    class Config(Loss.Config):
        """Knobs; see the class."""

        alpha: float = Field(default=1.0, ge=0)
        beta: float = Field(default=1.0, ge=0)
        gamma: float = Field(default=1.0, ge=1)
        smooth: float = Field(default=1e-3, ge=0)
        log: bool = False
        norm: float = Field(default=1, ge=1)
        form: Literal["jml1", "jml2"] = "jml1"
        per_batch: float = Field(default=1.0, ge=0)
        per_image: float = Field(default=0.0, ge=0)
        per_class: float = Field(default=0.0, ge=0)
        active_hard: Active = "present"
        active_soft: Active = "all"
        threshold: float = Field(default=0.01, ge=0)
        class_weights: tuple[NonNegative, ...] | None = None

        @model_validator(mode="after")
        def _reduces_somehow(self) -> Any:
            if self.per_batch + self.per_image + self.per_class == 0:
                raise ValueError("per_batch, per_image and per_class are all 0; at least one must weigh something")
            return self

    class_weights: Tensor | None

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("class_weights", class_weight_buffer(self.config.class_weights), persistent=False)

    def check(self, classes: int) -> None:
        """See :meth:`Loss.check`."""
        super().check(classes)
        for mode in (self.config.active_hard, self.config.active_soft):
            _check_listed(mode, classes)

    def wanted(self, hard: bool) -> frozenset[str] | None:
        """See :meth:`Loss.wanted`."""
        config = self.config
        if config.norm != 1 or config.ignore_index != IGNORE:
            return None
        mode = config.active_hard if hard else config.active_soft
        peak = {"present": "peak q", "label": "peak q", "prob": "peak p", "both": "peak p + y" if hard else "peak p + q"}
        evidence = {peak[mode]} if isinstance(mode, str) and mode != "all" else set()
        overlap = {"hard"} if hard else {"soft", "product"} if config.form == "jml2" else {"soft"}
        return frozenset(overlap | evidence)

    def from_sums(self, sums: Sums, hard: bool) -> Tensor:
        """See :meth:`Loss.from_sums`."""
        overlap, targets = (sums.hard, sums.labels) if hard else (sums.soft, sums.targets)
        tp = sums.product if self.config.form == "jml2" and not hard else overlap
        counts = Cardinalities(tp, sums.mass - overlap, targets - overlap)
        check_classes(self.class_weights, tp.shape[1])
        return self._reduce(counts, self._active(sums, hard)).to(sums.dtype)

    def _active(self, sums: Sums, hard: bool) -> Tensor:
        mode = self.config.active_hard if hard else self.config.active_soft
        _check_listed(mode, sums.mass.shape[1])
        if not isinstance(mode, str) or mode == "all":
            return active_classes(sums.mass[..., None], sums.mass[..., None], mode, 0)
        labels = (sums.labels > 0).to(sums.mass) if hard else sums.peaks["q"]
        both = sums.peaks["p + y" if hard else "p + q"]
        peak = {"present": labels, "label": labels, "prob": sums.peaks["p"], "both": both}[mode]
        return peak > self.config.threshold

    def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """Scalar; see :class:`Loss` for shapes. Exactly 0, with zero gradient, if no pixel is kept."""
        with torch.autocast(logits.device.type, enabled=False):
            return self.from_probabilities(full_precision(logits).softmax(1), target, keep)

    def from_probabilities(self, probability: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """The same for a prediction ``B K *`` that already is a probability."""
        config, classes = self.config, probability.shape[1]
        mask = kept_pixels(probability, target, keep, config.ignore_index).unsqueeze(1)
        check_classes(self.class_weights, classes)
        mode = config.active_hard if is_hard(target) else config.active_soft
        _check_listed(mode, classes)
        q = one_hot(target, classes) if is_hard(target) else target.detach()
        p = probability.where(mask, 0).flatten(2)
        q = q.to(probability.dtype).where(mask, 0).flatten(2)
        sums = cardinalities(p, q, config.norm, config.form)
        return self._reduce(sums, active_classes(p, q, mode, config.threshold))

    def _cost(self, sums: Cardinalities, active: Tensor) -> Tensor:
        config = self.config
        numerator = sums.tp + config.smooth
        denominator = numerator + config.alpha * sums.fp + config.beta * sums.fn
        # with smooth 0, nothing there and nothing predicted is a perfect score; an inactive class must not reach the logarithm
        empty = (denominator <= 0) | ~active
        rho = numerator.where(~empty, 1) / denominator.where(~empty, 1)
        cost = -rho.log() if config.log else 1 - rho
        if config.gamma > 1:
            cost = cost.clamp_min(0) ** config.gamma
        return cost if self.class_weights is None else cost * self.class_weights.to(cost)

    def _reduce(self, sums: Cardinalities, active: Tensor) -> Tensor:
        config = self.config
        total = sums.tp.sum() * 0
        if config.per_batch:
            pooled = Cardinalities(*sum_over_ranks(torch.stack([part.sum(0) for part in sums])))
            somewhere = max_over_ranks(active.any(0).to(sums.tp.dtype)) > 0
            total = total + config.per_batch * mean_where(self._cost(pooled, somewhere), somewhere, 0)[0]
        if config.per_image or config.per_class:
            cost = self._cost(sums, active)
        if config.per_image:
            means, any_class = mean_where(cost, active, 1)
            pair = sum_over_ranks(torch.stack([means.where(any_class, 0).sum(), any_class.sum().to(means)]))
            total = total + config.per_image * pair[0] / pair[1].detach().clamp_min(1)
        if config.per_class:
            pair = sum_over_ranks(torch.stack([cost.where(active, 0).sum(0), active.sum(0).to(cost)]))
            count = pair[1].detach()
            total = total + config.per_class * mean_where(pair[0] / count.clamp_min(1), count > 0, 0)[0]
        return total


def _check_listed(mode: Active, classes: int) -> None:
    if not isinstance(mode, str) and not (mode and all(0 <= number < classes for number in mode)):
        raise ValueError(f"active classes {list(mode)} must be one or more numbers of 0..{classes - 1}")
