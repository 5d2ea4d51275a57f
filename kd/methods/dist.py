"""DIST: match predictions up to scale and shift, by correlation instead of divergence."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from kd.config import ConfigError
from kd.distributed import sum_over_ranks
from kd.keywords import keywords
from kd.methods.maps import KdMask, mean, pair, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes

EPSILON = 1e-8


def correlation(p: Tensor, q: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along ``dim``; the product of the norms gets 1e-8, as in the published code."""
    p, q = p - p.mean(dim, keepdim=True), q - q.mean(dim, keepdim=True)
    return (p * q).sum(dim) / (p.norm(dim=dim) * q.norm(dim=dim) + EPSILON)


def inter_class(p: Tensor, q: Tensor, keep: Tensor | None = None) -> Tensor:
    """``1 - mean over pixels of corr over the classes``; probabilities ``B K h w``."""
    return mean(1 - correlation(p, q, 1), keep)


def intra_class(p: Tensor, q: Tensor, keep: Tensor | None = None) -> Tensor:
    """``1 - mean over classes of corr over all pixels of the batch``, of all ranks; probabilities ``B K h w``."""
    weight = p.new_ones(p[:, :1].shape) if keep is None else keep.unsqueeze(1).to(p.dtype)
    over, classes = (0, 2, 3), (1, -1, 1, 1)
    count = sum_over_ranks(weight.sum()).detach()

    def centred(values: Tensor) -> Tensor:
        middle = sum_over_ranks((values * weight).sum(over)) / count.clamp_min(1)
        return (values - middle.view(classes)) * weight

    p, q = centred(p), centred(q)
    product, p_norm, q_norm = (sum_over_ranks((a * b).sum(over)) for a, b in ((p, q), (p, p), (q, q)))
    found = product / (_root(p_norm) * _root(q_norm) + EPSILON)
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
            keep = valid(target, theirs, self.config.kd_mask)
            p, q = (mine / temperature).softmax(1), (theirs / temperature).softmax(1)
            terms[f"inter{end}"] = temperature**2 * inter_class(p, q, keep)
            batchwise = self.config.variant == "code"
            intra = 1 - mean(correlation(p, q, 0)) if batchwise else intra_class(p, q, keep)
            terms[f"intra{end}"] = temperature**2 * intra
        return terms
