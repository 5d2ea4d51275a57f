"""DSD, double similarity distillation: how attention shifts from map to map, and which classes share pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kd.config import ConfigError
from kd.keywords import keywords
from kd.losses.formed import Gradients, formed
from kd.losses.loss import global_mean
from kd.methods.maps import KdMask, chosen, mean, pair, square_lengths, valid
from kd.methods.method import Method
from kd.types import Outputs, Sizes, full_precision, resample


def energy(features: Tensor) -> Tensor:
    """``B D h w`` to ``B 1 h w``: each pixel's mean squared feature."""
    return square_lengths(features).unsqueeze(1) / features.shape[1]


def residuals(energies: Sequence[Tensor], keep: Tensor | None = None) -> Tensor:
    """How attention differs between each two maps, ``P B N``: energies ``B 1 h w`` of one grid, made unit vectors ``a`` of each
    image, and ``a_j - a_i`` made one again, for each of the ``P`` pairs ``i < j``."""
    flat = torch.stack([values.flatten(1) for values in energies])
    attention = F.normalize(flat if keep is None else flat.where(keep.flatten(1), 0), dim=2)
    return torch.stack([F.normalize(later - early, dim=1) for early, later in combinations(attention, 2)])


def pixel_similarity(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    keep: Tensor | None = None,
    corners: tuple[bool, bool] = (False, False),
) -> Tensor:
    """Mean over images, pixels and pairs of maps of the squared difference of both networks' residual attention.

    Maps ``B D h w`` of any widths, of the student and of the teacher, as many of both. Energies are resampled to the grid of
    the teacher's last map, as ``corners`` (of both networks' ``align_corners``) says; ``keep`` is bool ``B h w`` of that grid.
    """
    size = (int(teacher[-1].shape[-2]), int(teacher[-1].shape[-1]))
    its = residuals([resample(energy(maps.detach()), size, corners[1]) for maps in teacher], keep)

    def make(*wanted: bool) -> tuple[Tensor, Gradients]:
        energies = [energy(maps).requires_grad_(any(wanted)) for maps in student]
        with torch.set_grad_enabled(any(wanted)):  # a graph of one channel; that of the features is never made
            mine = residuals([resample(values, size, corners[0]) for values in energies], keep)
            total = (mine - its).square().sum(dtype=torch.float64).to(mine.dtype)
        if not any(wanted):
            return total, (None,) * len(student)
        slopes = torch.autograd.grad(total, energies)
        both = zip(student, slopes, wanted, strict=True)
        return total.detach(), tuple(maps * (slope * 2 / maps.shape[1]) if flag else None for maps, slope, flag in both)

    return global_mean(formed(make, *student), len(its) * (its[0].numel() if keep is None else keep))


def shares(logits: Tensor, temperature: float, keep: Tensor | None = None) -> Tensor:
    """``B K K``: inner products of the classes' softmax over pixels, of logits ``B K h w`` averaged over windows of 2 x 2."""
    if keep is None:
        maps = F.avg_pool2d(logits, 2, 2, ceil_mode=True)
    else:
        mask = keep.unsqueeze(1).to(logits.dtype)
        count = F.avg_pool2d(mask, 2, 2, ceil_mode=True)
        maps = F.avg_pool2d(logits * mask, 2, 2, ceil_mode=True) / count.where(count > 0, 1)
        maps = maps.masked_fill(count == 0, -1e30)
    spread = (maps.flatten(2) / temperature).softmax(2)
    return spread @ spread.transpose(1, 2).contiguous()


def category_similarity(student: Tensor, teacher: Tensor, temperature: float = 4.0, keep: Tensor | None = None) -> Tensor:
    """Mean over images and pairs of classes of the squared difference of both networks' :func:`shares`; logits ``B K h w``."""
    return mean((shares(student, temperature, keep) - shares(teacher.detach(), temperature, keep)).square())


class DSD(Method):
    """``psd``: mean over pixels of ``(r_s - r_t)^2`` with ``r = (a_j - a_i) / |a_j - a_i|``, ``a = A / |A|``, ``A`` the mean
    squared feature, for each two of three maps; ``csd``: mean over pairs of classes of ``(G_s - G_t)^2``, ``G = M M'``, ``M``
    the softmax over pixels of ``z / T``.

    Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", IEEE TIP 2021, arXiv 2107.08591, as in the
    CIRKD repository: the backbone's last level, the embedding and the logits (averaged over 2 x 2 pixels for ``csd``), T = 4,
    weights 1000 and 10 and no plain KD. Where levels lie on other grids their energies are resampled to that of the teacher's
    logits.

    Fails where: ``csd`` is counted on. A softmax over N pixels is about 1 / N, its products too: as released the term is about
    1e-8 on maps of 64 x 128 with logits that vary by a few units, and less on larger ones, so that the published weight of 10
    leaves nothing of it (very peaked logits excepted). ``psd`` too falls as 1 / pixels while its weight stays.
    """

    class Config(Method.Config):
        """``temperature`` divides the logits of ``csd``."""

        temperature: float = Field(default=4.0, gt=0)
        kd_mask: KdMask = "all"

    needs = frozenset({"logits", "embedding", "pyramid"})
    terms = ("psd", "csd")

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        if lacking := sorted(self.needs - student.fields):
            raise ConfigError(
                f"method: DSD reads {' and '.join(lacking)} of both networks, which this student does not give; choose a "
                "student of kd.networks, or a method that reads logits, such as kd"
            )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """Both terms by name."""
        mine, theirs = pair(student, teacher)
        keep = valid(target, theirs, self.config.kd_mask)
        corners = (student.align_corners, teacher.align_corners)
        return {
            "psd": pixel_similarity(taps(student), taps(teacher), keep, corners),
            "csd": category_similarity(mine, theirs, self.config.temperature, keep),
        }


def taps(outputs: Outputs) -> list[Tensor]:
    """The maps between which attention shifts: the backbone's last level, the embedding, the logits."""
    return [full_precision(maps) for maps in (chosen(outputs, -1), chosen(outputs, "embedding"), outputs.logits)]
