"""What a network costs: parameters, multiply-adds, time and memory of one pass, on random images."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd.config import InputError
from kd.types import Outputs, Sizes

SECONDS, LEAST, MOST, WARM_UP = 8.0, 5, 50, 2


def measure(
    module: nn.Module,
    look: Callable[[Tensor], Outputs],
    sizes: Sizes,
    size: tuple[int, int],
    *,
    batch: int = 1,
    backward: bool = False,
    channels: int = 3,
) -> dict[str, Any]:
    """Plain values by name: ``parameters``, ``macs`` (per image), ``stride`` ..., ``seconds`` and ``memory`` (per pass).

    ``look`` maps uint8 images ``B 3 H W`` (or of other ``channels``) of ``size`` to outputs, on the device of ``module``. With
    ``backward`` a pass is forward and backward in train mode, batch norms included; otherwise forward in eval mode without
    gradients. All in float32.

    Raises:
        InputError: the pass does not fit into memory.
    """
    device = next(module.parameters()).device
    image = _images((batch, channels, *size)).to(device)
    module.train(backward)

    def work() -> None:
        with torch.set_grad_enabled(backward):
            outputs = look(image)
        if backward:
            heads = [head for head in (outputs.logits, outputs.aux_logits) if head is not None]
            torch.stack([head.float().mean() for head in heads]).sum().backward()
            module.zero_grad(set_to_none=True)

    try:
        memory = peak_memory(work, device)  # first, before freed memory is kept for reuse
        return {
            "parameters": parameters(module),
            "macs": multiply_adds(work) / batch,
            "stride": sizes.stride,
            "embedding": sizes.embedding,
            "pyramid": list(sizes.pyramid),
            "pyramid_strides": list(sizes.pyramid_strides),
            "size": list(size),
            "batch": batch,
            "pass": "forward and backward" if backward else "forward",
            "seconds": latency(work, device),
            "memory": memory,
        }
    except torch.OutOfMemoryError:
        raise InputError(
            f"{batch} images of {size[0]}x{size[1]} do not fit into the memory of {device}; lower --batch or --size"
        ) from None


def _images(shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def parameters(module: nn.Module) -> dict[str, int]:
    """Numbers of parameters: ``total``, ``trainable``, and of each part (``backbone``, ``head``, ``aux_head``)."""
    while len(children := dict(module.named_children())) == 1 and not list(module.parameters(recurse=False)):
        (module,) = children.values()
    found = {name: _count(child) for name, child in children.items()}
    trainable = sum(p.numel() for p in module.parameters() if p.requires_grad)
    return {"total": _count(module), "trainable": trainable, **{name: count for name, count in found.items() if count}}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def multiply_adds(work: Callable[[], object]) -> int:
    """Half of what torch's FLOP counter counts: convolutions, matrix products and attention; norms and resampling are free."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() // 2


def latency(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of one pass after a warm-up: ``median`` and quartiles over ``repeats``, which end after some seconds."""
    for _ in range(WARM_UP):
        work()
    found: list[float] = []
    while len(found) < LEAST or (len(found) < MOST and sum(found) < SECONDS):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began)
    low, median, high = statistics.quantiles(found, n=4)
    return {"median": median, "low": low, "high": high, "repeats": len(found)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """MiB of one pass, and what was measured: all that torch allocated on a GPU, weights included; on a CPU the growth of the
    process's resident memory, weights excluded (null where the system does not tell)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        _wait(device)
        return {"mib": torch.cuda.max_memory_allocated(device) / 2**20, "kind": "allocated by torch at most, with weights"}
    kind = "growth of the process's resident memory, without weights"
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is kept for reuse would hide the pass
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: forget the peak so far
        before = _resident("VmRSS")
    except (OSError, AttributeError):
        work()
        return {"mib": None, "kind": kind}
    work()
    return {"mib": max(0.0, _resident("VmHWM") - before), "kind": kind}


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def table(values: dict[str, Any], title: str) -> str:
    """What :func:`measure` found, for people."""
    seconds, memory = values["seconds"], values["memory"]
    counts, (height, width) = values["parameters"], values["size"]
    parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in counts.items() if name not in ("total", "trainable"))
    levels = ", ".join(f"{wide} /{step}" for wide, step in zip(values["pyramid"], values["pyramid_strides"], strict=True))
    times = f"{1e3 * seconds['median']:.1f} ms (quartiles {1e3 * seconds['low']:.1f} to {1e3 * seconds['high']:.1f}"
    rows = {
        "parameters": f"{counts['total'] / 1e6:.2f} M, {counts['trainable'] / 1e6:.2f} M trainable ({parts})",
        "MACs": f"{values['macs'] / 1e9:.2f} G per image, {values['pass']}",
        "logits": f"stride {values['stride']}",
        "embedding": f"{values['embedding']} channels" if values["embedding"] else "none",
        "pyramid": f"{levels} (channels /stride)" if levels else "none",
        "latency": f"{times}, {seconds['repeats']} passes)",
        "memory": "not known here" if memory["mib"] is None else f"{memory['mib']:.0f} MiB ({memory['kind']})",
    }
    head = f"{title}, batch {values['batch']} of {height}x{width}, {values['pass']}"
    return "\n".join([head, *(f"  {name:11s} {text}" for name, text in rows.items())])
