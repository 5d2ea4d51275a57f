"""Batch norm over all processes: torch's and timm's on CUDA, a plain one, differentiable twice, on the CPU and for methods."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from kd.distributed import sum_over_ranks, world_size
from kd.types import full_precision

MESSAGES = {"cpu": 4, "cuda": 2}
"""Exchanges of one synchronised batch norm in one forward and backward pass: sums of values and of squares each way on the CPU;
on CUDA moments are gathered forward, and the gradients' sums added backward."""


def _normalise(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    """Batch norm with the statistics of all ranks, in float32. Two passes, because E[x^2] - E[x]^2 cancels."""
    if not norm.training:
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    kind, values = values.dtype, full_precision(values)
    dims, shape = (0, 2, 3), (1, -1, 1, 1)
    count = torch.tensor([values.numel() / values.shape[1]], dtype=torch.float64, device=values.device)
    sums = sum_over_ranks(torch.cat([values.double().sum(dims), count]))
    total = sums[-1].detach()
    mean = (sums[:-1] / total).to(values.dtype)
    centred = values - mean.view(shape)
    variance = (sum_over_ranks((centred.double() ** 2).sum(dims)) / total).to(values.dtype)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        momentum = norm.momentum if norm.momentum is not None else 0.1
        norm.running_mean.lerp_(mean.detach(), momentum)
        norm.running_var.lerp_((variance.detach() * total / (total - 1)).to(norm.running_var.dtype), momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    scaled = centred * (variance + norm.eps).rsqrt().view(shape)
    if not norm.affine:
        return scaled.to(kind)
    # times 1, so that the bias has a gradient of its own: of a single value autograd hands on the tensor that came, and two
    # norms whose outputs are added would share one, in which all that is accumulated in place is mixed
    return (scaled * norm.weight.view(shape) + (norm.bias * 1).view(shape)).to(kind)


class CrossRankBatchNorm(nn.BatchNorm2d):
    """Batch norm that sums its statistics over ranks on any device."""

    def forward(self, values: Tensor) -> Tensor:
        """``B D h w`` normalised."""
        return _normalise(self, values)


class CrossRankBatchNormAct(BatchNormAct2d):
    """The same with timm's dropout and activation behind it."""

    def forward(self, values: Tensor) -> Tensor:
        """``B D h w`` normalised and activated."""
        return self.act(self.drop(_normalise(self, values)))


def synchronise(network: nn.Module, device: torch.device, twice: bool = False, processes: int = 0) -> nn.Module:
    """The network with batch norms over all processes; unchanged when alone. ``processes`` that are only planned count too.

    ``twice``: its gradients may be differentiated again, as a critic's whose gradient is penalised; torch's own on CUDA cannot.
    """
    if (processes or world_size()) == 1:
        return network
    if device.type == "cuda" and not twice:
        return convert_sync_batchnorm(network)  # torch's own conversion drops timm's activations
    for module in network.modules():
        if isinstance(module, BatchNormAct2d):
            module.__class__ = CrossRankBatchNormAct
        elif isinstance(module, nn.BatchNorm2d):
            module.__class__ = CrossRankBatchNorm
    return network
