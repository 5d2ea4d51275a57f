"""DIST: match predictions up to scale and shift, by correlation instead of divergence."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd.config import ConfigError
from kd.distributed import sum_over_ranks
from kd.keywords import keywords
from kd.methods.maps import KdMask, mean, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes

EPSILON = 1e-8


class _Products(torch.autograd.Function):
    """Sums of ``a b`` and of ``a a`` along dimensions that stay as 1, with a gradient for ``a`` alone, formed in one pass."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Both."""
        ctx.save_for_backward(a, b)
        return (a * b).sum(dims, keepdim=True), (a * a).sum(dims, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, crossed: Tensor, own: Tensor) -> tuple[Tensor, None, None]:
        """``crossed b + 2 own a``."""
        a, b = ctx.saved_tensors
        return torch.addcmul(crossed * b, 2 * own, a), None, None


def correlation(p: Tensor, q: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along ``dim``, differentiable in ``p``; 1e-8 is added to the norms' product, as published."""
    a, b = _centred(p, dim), _centred(q, dim)
    crossed, own = _Products.apply(a, b, (dim,))
    return (crossed / (_root(own) * _root((b * b).sum(dim, keepdim=True)) + EPSILON)).squeeze(dim)


def _centred(values: Tensor, dim: int) -> Tensor:
    """Without the mean, which needs no gradient: what it is multiplied by has mean 0 itself."""
    return values - values.detach().mean(dim, keepdim=True)


def inter_class(p: Tensor, q: Tensor, keep: Tensor | None = None) -> Tensor:
    """``1 - mean over pixels of corr over the classes``; probabilities ``B K h w``."""
    return mean(1 - correlation(p, q, 1), keep)


def intra_class(p: Tensor, q: Tensor, keep: Tensor | None = None) -> Tensor:
    """``1 - mean over classes of corr over all pixels of the batch``, of all ranks; probabilities ``B K h w``."""
    weight = p.new_ones(p[:, :1].shape) if keep is None else keep.unsqueeze(1).to(p.dtype)
    over = (0, 2, 3)
    count = sum_over_ranks(weight.sum()).detach()

    def centred(values: Tensor) -> Tensor:
        total = sum_over_ranks((values.detach() * weight).sum(over, keepdim=True))
        apart = values - total / count.clamp_min(1)
        return apart if keep is None else apart * weight

    a, b = centred(p), centred(q)
    crossed, own = (sum_over_ranks(part) for part in _Products.apply(a, b, over))
    found = crossed / (_root(own) * _root(sum_over_ranks((b * b).sum(over, keepdim=True))) + EPSILON)
    return (1 - found.mean()) * (count > 0)


def _root(squares: Tensor) -> Tensor:
    """Square root whose gradient is 0, not infinite, at 0."""
    zero = squares <= 0
    return squares.where(~zero, 1).sqrt().where(~zero, 0)


class DIST(Method):
    """``inter``, ``intra``: ``T^2 (1 - correlation)`` of the softened predictions, over the classes of each pixel and over the
    pixels of each class; ``inter_aux``, ``intra_aux`` the same on the auxiliary heads.

    Huang et al., arXiv 2205.10536; weights beta and gamma of the paper are those of ``inter`` and ``intra``. Segmentation code:
    T = 1, both 1, and 0.4 of both on the auxiliary head. Pixels of the whole batch make one row per class, over all ranks (the
    code: of one process). ``variant: code`` is mmrazor's function on a 4-D map, where ``intra`` correlates over the batch for
    each class and pixel, another loss and degenerate for small batches.

    Fails where: the student's prediction is constant, e.g. a zero-initialised classifier: the gradient explodes.
    """

    class Config(Method.Config):
        """``temperature`` divides both logits; ``aux`` also compares the auxiliary heads."""

        temperature: float = Field(default=1.0, gt=0)
        aux: bool = True
        variant: Literal["paper", "code"] = "paper"
        kd_mask: KdMask = "all"

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.fields = {"": "logits", **({"_aux": "aux_logits"} if config.aux else {})}
        if config.aux and not (student.aux and teacher.aux):
            raise ConfigError(
                "method.aux: is true, but a network has no auxiliary head; give it one, or set method.aux=false "
                "weights.inter_aux=null weights.intra_aux=null"
            )
        self.needs = frozenset(self.fields.values())

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """Those of the auxiliary heads where they are compared, too."""
        return tuple(f"{name}{end}" for end in ("", "_aux")[: 1 + config.aux] for name in ("inter", "intra"))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        temperature, terms = self.config.temperature, {}
        for end, field in self.fields.items():
            mine, theirs = pair(student, teacher, field)
            keep = valid(target, teacher, theirs, self.config.kd_mask)
            p, q = (mine / temperature).softmax(1), (theirs / temperature).softmax(1)
            terms[f"inter{end}"] = temperature**2 * inter_class(p, q, keep)
            batchwise = self.config.variant == "code"
            intra = 1 - mean(correlation(p, q, 0)) if batchwise else intra_class(p, q, keep)
            terms[f"intra{end}"] = temperature**2 * intra
        return terms
