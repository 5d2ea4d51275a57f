"""Weighted mixtures of losses, e.g. 0.25 cross-entropy + 0.75 Jaccard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kd.config import ConfigError
from kd.losses.label_smoothing import LabelSmoothing, smoothed_pixels, soften
from kd.losses.loss import Loss, by_blocks, is_hard
from kd.losses.streamed import Smoothed, sums
from kd.types import IGNORE, Outputs


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
        ConfigError: a term has no weight, or a weight no term.
    """
    check_weights(terms, weights)
    if not terms:
        raise ConfigError("terms: there are none; a loss or method gives them by name")
    if shaped := [name for name, term in terms.items() if term.ndim]:
        raise ConfigError(
            f"terms.{shaped[0]}: has the shape {list(terms[shaped[0]].shape)}; a term is a scalar, such as the mean over pixels"
        )
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


class Mixture(nn.Module):
    """Named losses on one target. ``mixture(logits, target)`` is their weighted sum; :meth:`terms` gives them one by one.

    >>> loss = Mixture({"ce": CrossEntropy(), "jaccard": JaccardMetricLoss(smooth=1.0)}, {"ce": 0.25, "jaccard": 0.75})
    """

    def __init__(self, losses: Mapping[str, Loss], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if taken := [name for name in losses if hasattr(nn.ModuleDict, name)]:
            raise ConfigError(f"loss has a term '{taken[0]}', which is a word of torch's own; call it otherwise")
        self.losses = nn.ModuleDict(losses)
        self.fields: dict[str, str] = {name: loss.config.field for name, loss in losses.items()}
        self.weights = dict(weights) if weights is not None else dict.fromkeys(losses, 1.0)
        check_weights(losses, self.weights)

    if TYPE_CHECKING:

        def __call__(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
            """See :meth:`forward`."""

    def terms(
        self, outputs: Outputs, target: Tensor, keep: Tensor | None = None, smoothing: LabelSmoothing | None = None
    ) -> dict[str, Tensor]:
        """Each loss, un-weighted, on the field of the outputs that it names, at the target's resolution.

        ``smoothing`` softens hard labels first. Losses that are made of sums over pixels never hold maps of that resolution,
        see :func:`kd.losses.loss.maps`.
        """
        size = (int(target.shape[-2]), int(target.shape[-1]))
        found = self._by_blocks(outputs, target, smoothing) if keep is None and is_hard(target) else {}
        rest = [name for name in self.losses if name not in found]
        if rest and smoothing is not None:
            target, keep = soften(target, outputs.logits.shape[1], smoothing)
        whole = {field: outputs.at(size, field) for field in sorted({self.fields[name] for name in rest})}
        found |= {name: self.losses[name](whole[self.fields[name]], target, keep) for name in rest}
        return {name: found[name] for name in self.losses}

    def _by_blocks(self, outputs: Outputs, target: Tensor, smoothing: LabelSmoothing | None) -> dict[str, Tensor]:
        if not by_blocks(outputs.logits):
            return {}
        hard, keep = smoothing is None, target != IGNORE
        soft = None if smoothing is None else Smoothed(smoothed_pixels(target, smoothing), smoothing.epsilon)
        wanted = {name: names for name, loss in self.losses.items() if (names := loss.summed(hard)) is not None}  # type: ignore[operator]
        groups: dict[tuple[str, float], list[str]] = {}
        for name in wanted:
            temperature = getattr(self.losses[name].config, "temperature", 1.0)
            groups.setdefault((self.fields[name], temperature), []).append(name)
        found: dict[str, Tensor] = {}
        for (field, temperature), names in groups.items():
            union = frozenset().union(*(wanted[name] for name in names))
            seen = sums(outputs, target, keep, union, field=field, soft=soft, student_temperature=temperature)
            found |= {name: self.losses[name].from_sums(seen, hard) for name in names}  # type: ignore[operator]
        return found

    def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
        """Weighted sum; every loss sees the same logits ``B K *``."""
        return weighted_sum({name: loss(logits, target, keep) for name, loss in self.losses.items()}, self.weights)
