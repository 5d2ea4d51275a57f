"""Weighted mixtures of losses, e.g. 0.25 cross-entropy + 0.75 Jaccard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kd.config import ConfigError
from kd.losses.loss import Loss
from kd.types import Outputs


def check_weights(names: Iterable[str], weights: Mapping[str, float]) -> None:
    """Each term needs a weight, each weight a term.

    Raises:
        ConfigError: naming the first one that is alone.
    """
    terms = set(names)
    unknown = sorted(weights.keys() - terms)
    for name in sorted(terms - weights.keys()):
        instead = f"; of {', '.join(unknown)}, which weights has, nothing computes a term" if unknown else ""
        raise ConfigError(
            f"weights.{name}: is missing, but the term '{name}' is computed; set it (0 only logs the term){instead}"
        )
    for name in unknown:
        there = ", ".join(sorted(terms))
        raise ConfigError(f"weights.{name}: nothing computes '{name}' (terms: {there}); drop it with weights.{name}=null")


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """``sum of weight * term``.

    Raises:
        ConfigError: a term has no weight.
    """
    check_weights(terms, {name: weight for name, weight in weights.items() if name in terms})
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


class Mixture(nn.Module):
    """Named losses on one target. ``mixture(logits, target)`` is their weighted sum; :meth:`terms` gives them one by one.

    >>> loss = Mixture({"ce": CrossEntropy(), "jaccard": JaccardMetricLoss(smooth=1.0)}, {"ce": 0.25, "jaccard": 0.75})
    """

    def __init__(self, losses: Mapping[str, Loss], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.fields: dict[str, str] = {name: loss.config.field for name, loss in losses.items()}
        self.weights = dict(weights) if weights is not None else dict.fromkeys(losses, 1.0)
        check_weights(losses, self.weights)

    if TYPE_CHECKING:

        def __call__(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
            """See :meth:`forward`."""

    def terms(self, outputs: Outputs, target: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
        """Each loss, un-weighted, on the field of the outputs that it names, at the target's resolution."""
        size = (int(target.shape[-2]), int(target.shape[-1]))
        maps = {field: outputs.at(size, field) for field in sorted(set(self.fields.values()))}
        return {name: loss(maps[self.fields[name]], target, keep) for name, loss in self.losses.items()}

    def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """Weighted sum; every loss sees the same logits ``B K *``."""
        return weighted_sum({name: loss(logits, target, keep) for name, loss in self.losses.items()}, self.weights)
