"""Dilated depthwise convolutions that train at the speed of undilated ones on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LAST = torch.channels_last


def train_by_phases(network: nn.Module) -> None:
    """Let every dilated depthwise convolution of a network that keeps its map's size be a :class:`PhasedConv2d`, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _fits(module):
            module.__class__ = PhasedConv2d


class PhasedConv2d(nn.Conv2d):
    """A depthwise convolution of dilation d whose training step on a CPU runs undilated, on each of d x d phases of the pixels.

    Pixels d apart never meet others, so ``x[:, :, i::d, j::d]`` are d x d images on which the kernel lies undilated: the same
    sums, in the forward pass bit for bit. oneDNN has a fast backward kernel only without dilation: this is 2 to 3 times faster.
    Elsewhere (resting, autocast, a GPU, compiled, exported) this is its base class.
    """

    def forward(self, image: Tensor) -> Tensor:
        """``B C H W`` to ``B C H W``."""
        plain = torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if plain or not self.training or image.device.type != "cpu":
            return super().forward(image)
        result: Tensor = _Phases.apply(image, self.weight, self.dilation[0])
        return result if self.bias is None else result + self.bias[:, None, None]


class _Phases(torch.autograd.Function):
    """The convolution without bias; the phases of the input are kept in place of the input."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, dilation: int) -> Tensor:
        """``B C H W``."""
        phases = _split(image, dilation)
        ctx.save_for_backward(phases, weight)
        ctx.dilation, ctx.size = dilation, image.shape[-2:]
        return _join(F.conv2d(phases, weight, padding=weight.shape[-1] // 2, groups=len(weight)), dilation, ctx.size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Of input and weight."""
        phases, weight = ctx.saved_tensors
        padding = [weight.shape[-1] // 2] * 2
        undilated = ([1, 1], padding, [1, 1], False, [0, 0], len(weight))
        of_phases, of_weight, _ = torch.ops.aten.convolution_backward(
            _split(gradient, ctx.dilation), phases, weight, None, *undilated, [True, True, False]
        )
        return _join(of_phases, ctx.dilation, ctx.size), of_weight, None


def _split(image: Tensor, dilation: int) -> Tensor:
    """``B C H W`` to ``d d B C h w``, joined in the first dimension; what a phase lacks of the others' size is zero."""
    image = F.pad(image, (0, -image.shape[-1] % dilation, 0, -image.shape[-2] % dilation))
    places = range(dilation)
    return torch.cat([image[..., i::dilation, j::dilation] for i in places for j in places]).contiguous(memory_format=LAST)


def _join(phases: Tensor, dilation: int, size: torch.Size) -> Tensor:
    """The inverse of :func:`_split`."""
    count, channels = phases.shape[:2]
    image = phases.new_empty(count // dilation**2, channels, *size).contiguous(memory_format=LAST)
    for place, phase in enumerate(phases.split(len(image))):
        own = image[..., place // dilation :: dilation, place % dilation :: dilation]
        own.copy_(phase[..., : own.shape[-2], : own.shape[-1]])
    return image


def _fits(conv: nn.Conv2d) -> bool:
    """A square odd kernel of one dilation > 1 for each channel, with zeros around, that keeps the map's size."""
    dilation, kernel = conv.dilation[0], conv.kernel_size[0]
    squares = conv.dilation == (dilation, dilation) and conv.kernel_size == (kernel, kernel) and conv.stride == (1, 1)
    keeps = conv.padding == (dilation * (kernel // 2),) * 2 and conv.padding_mode == "zeros" and kernel % 2 == 1
    return squares and keeps and dilation > 1 and conv.groups == conv.in_channels == conv.out_channels > 1
