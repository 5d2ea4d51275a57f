"""Lovasz-softmax: Berman, Rannen Triki, Blaschko, "The Lovasz-Softmax loss", CVPR 2018, arXiv 1705.08790, eqs. 8-12."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd.keywords import keywords
from kd.losses.loss import Loss, global_mean, is_hard, kept_pixels, one_hot
from kd.types import full_precision


def lovasz_gradient(foreground: Tensor) -> Tensor:
    """Gradient ``K N`` of the Lovasz extension of the Jaccard loss at errors in descending order (Algorithm 1).

    ``foreground`` ``K N``: 1 where the sorted pixel belongs to the class.
    """
    inside = foreground.cumsum(1)
    size = foreground.sum(1, keepdim=True)
    jaccard = 1 - (size - inside) / (size + (1 - foreground).cumsum(1))
    return torch.cat([jaccard[:, :1], jaccard.diff(dim=1)], 1)


def lovasz_softmax(probability: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each class ``K`` for pixels ``K N`` with labels ``N``, and which classes are present (bool ``K``)."""
    foreground = one_hot(labels.unsqueeze(0), probability.shape[0])[0].to(probability.dtype)
    errors, order = (foreground - probability).abs().sort(dim=1, descending=True)
    gradient = lovasz_gradient(foreground.gather(1, order))
    return (errors * gradient).sum(1), foreground.any(1)


class LovaszSoftmax(Loss):
    """Lovasz-softmax over the classes present, on hard labels only.

    The Lovasz extension is defined at vertices of the cube, so soft labels have no meaning for it; use
    :class:`kd.losses.overlap.JaccardMetricLoss` for those. The loss sorts pixels and therefore does not add up over
    processes: with several ranks each rank's batch is one set, and the mean over ranks is taken.
    """

    class Config(Loss.Config):
        """``per_image``: each image is a set of its own (then a mean over images), instead of the whole batch."""

        per_image: bool = False

    @keywords(Config)
    def __init__(self, config: Any) -> None:
        super().__init__(config)

    def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """Scalar; see :class:`Loss` for shapes. 0 if no pixel is kept.

        Raises:
            ValueError: the target is soft.
        """
        if not is_hard(target):
            raise ValueError(
                "Lovasz-softmax needs hard labels (integers), this target is float; use JaccardMetricLoss for soft ones"
            )
        mask = kept_pixels(logits, target, keep, self.config.ignore_index)
        with torch.autocast(logits.device.type, enabled=False):
            p = full_precision(logits).softmax(1)
            sets = [slice(b, b + 1) for b in range(len(p))] if self.config.per_image else [slice(None)]
            costs, counts = zip(*[_one_set(p[s], target[s], mask[s]) for s in sets], strict=True)
        return global_mean(torch.stack(costs), torch.stack(counts))


def _one_set(p: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the present classes of one set of pixels, and 1 if the set holds any pixel, else 0."""
    kept = mask.flatten()
    costs, present = lovasz_softmax(p.movedim(1, 0).flatten(1)[:, kept], target.flatten()[kept])
    return costs.where(present, 0).sum() / present.sum().clamp_min(1), kept.any().to(p.dtype)
