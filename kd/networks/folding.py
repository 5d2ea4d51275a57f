"""Batch norms of a resting network folded into the convolutions before them."""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

M = TypeVar("M", bound=nn.Module)
STEPS = (nn.Conv2d, nn.BatchNorm2d)
_KNOWN: dict[Hashable, dict[str, str]] = {}
"""Norms' names to those of the convolutions before them, by the program that they were read from."""


def fold(module: nn.Module) -> int:
    """Fold, in place, every batch norm that only follows a convolution; returns how many there were.

    ``(W x - mean) / sqrt(var + eps) * gain + bias`` is a convolution again. The result is the same up to rounding, as long as
    the module stays in eval mode. A norm stays as it is where the convolution's output is also used otherwise, where either is
    called twice, or where the program around them cannot be read off the code (control flow that depends on values).

    Raises:
        ValueError: the module is in train mode, in which a norm is no fixed map.
    """
    if module.training:
        raise ValueError("the module is in train mode, in which batch norms follow the batch; call .eval() first")
    if not any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return 0
    program = _program(module)
    pairs = _KNOWN.get(program)
    if pairs is None:
        pairs = _named_pairs(module)
        if program:
            _KNOWN[program] = pairs
    for norm, conv in pairs.items():
        _scale(module.get_submodule(conv), module.get_submodule(norm))
        module.set_submodule(norm, _rest(module.get_submodule(norm)))
    return len(pairs)


def resting(module: M, channels_last: bool = True) -> M:
    """A copy that only looks, sooner: in eval mode, batch norms folded, convolutions in channels_last."""
    twin = copy.deepcopy(module).train(False)
    fold(twin)
    if channels_last:
        twin.to(memory_format=torch.channels_last)
    return twin


def _named_pairs(module: nn.Module) -> dict[str, str]:
    twin = _twin(module)
    names = {part: name for name, part in twin.named_modules()}
    return {names[norm]: names[conv] for norm, conv in _pairs(twin, set())}


def _twin(module: nn.Module) -> nn.Module:
    """A copy with the same tensors: reading a program may leave stand-ins for tensors in the modules that it runs through."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


class _Facts(pickle.Pickler):
    """Writes down all that a module is, but for the values of parameters and of norms' buffers: a program that depends on the
    first cannot be read, and none depends on the others."""

    def __init__(self, file: io.BytesIO, module: nn.Module) -> None:
        super().__init__(file)
        norms = (part for part in module.modules() if isinstance(part, nn.BatchNorm2d))
        self.free = {id(tensor) for norm in norms for tensor in norm.buffers(recurse=False)}

    def persistent_id(self, obj: Any) -> tuple[str, ...] | None:
        """The kind and shape of a tensor, and its values where they count."""
        if not isinstance(obj, torch.Tensor):
            return None
        kind = (type(obj).__name__, str(obj.dtype), str(obj.shape))
        if isinstance(obj, nn.Parameter) or id(obj) in self.free:
            return kind
        values = obj.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        return (*kind, hashlib.sha256(values).hexdigest())


def _program(module: nn.Module) -> Hashable | None:
    """What the pairs of a module depend on; None where it cannot be told. Reading them takes a tenth of a second and more, and
    runs look at one network again and again."""
    written = io.BytesIO()
    try:
        _Facts(written, module).dump(module)
    except Exception:  # what a module of any library holds beside tensors may be anything
        return None
    return hashlib.sha256(written.getvalue()).hexdigest(), tuple(type(part) for part in module.modules())


class _Tracer(fx.Tracer):
    """Looks into all modules, also of other libraries, but convolutions, norms, and those whose code cannot be read."""

    def __init__(self, unreadable: set[nn.Module]) -> None:
        super().__init__()
        self.unreadable = unreadable

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module stays one step of the program."""
        whole = isinstance(m, STEPS) or m in self.unreadable
        return whole or super().is_leaf_module(m, module_qualified_name)


def _pairs(module: nn.Module, unreadable: set[nn.Module]) -> Iterator[tuple[nn.BatchNorm2d, nn.Conv2d]]:
    """Norms and the convolutions before them: in the module's own program; where that cannot be read, in its parts', and in its
    own around those parts that cannot be read either, or that hold neither, which are not looked into."""
    graph = _read(module, set())
    if graph is None:
        for child in module.children():
            if not any(isinstance(part, STEPS) for part in child.modules()):
                unreadable.add(child)
            elif not isinstance(child, STEPS):
                yield from _pairs(child, unreadable)
        graph = _read(module, unreadable)
    if graph is None:
        unreadable.add(module)
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        if node.op != "call_module" or not node.args or not isinstance(before := node.args[0], fx.Node):
            continue
        if before.op != "call_module" or len(before.users) > 1 or calls[node.target] + calls[before.target] > 2:
            continue
        norm, conv = module.get_submodule(str(node.target)), module.get_submodule(str(before.target))
        if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d) and _can(conv, norm):
            yield norm, conv


def _read(module: nn.Module, unreadable: set[nn.Module]) -> fx.Graph | None:
    try:
        return _Tracer(unreadable).trace(module)
    except Exception:  # whatever the code of any library does with a stand-in for a tensor
        return None


def _can(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return norm.running_mean is not None and not parametrize.is_parametrized(conv)


@torch.no_grad()
def _scale(conv: Any, norm: Any) -> None:
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gain = (var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
    bias = -mean if conv.bias is None else conv.bias.double() - mean
    bias = bias * gain + (0.0 if norm.bias is None else norm.bias.double())
    weight = conv.weight.double() * gain.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)


def _rest(norm: nn.Module) -> nn.Module:
    """What a norm does beside normalising: timm's have an activation inside."""
    inner = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    return nn.Sequential(*inner) if inner else nn.Identity()
