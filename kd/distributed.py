"""Several processes, or one: everything here does nothing when the process is alone.

The world comes from torchrun's environment only (RANK, LOCAL_RANK, WORLD_SIZE).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kd.config import ConfigError

T = TypeVar("T")
PR_SET_PDEATHSIG = 1


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and talks to people."""
    return rank() == 0


@contextmanager
def world(device: torch.device, timeout_seconds: int = 300) -> Iterator[None]:
    """Join torchrun's world for the duration of the block. A lost peer is an error after ``timeout_seconds``, not a hang.

    Raises:
        SystemExit: another process is gone, in a line; not 2, since the user has nothing to change.
    """
    _end_with_launcher()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise SystemExit(
            f"error (rank {rank()}): another process of this run is gone, or does not answer ({reason}); what it said stands "
            "elsewhere. The same command goes on from the last checkpoint, by itself under `kd launch --max-restarts N`"
        ) from None
    finally:
        dist.destroy_process_group()


def _end_with_launcher() -> None:
    """Have Linux ask a rank to stop when torchrun is gone, so that none trains on beside its successors."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def local_device(choice: str = "auto") -> torch.device:
    """``auto``: this process's own GPU if there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or has no driver for it.
    """
    if choice not in ("auto", "cuda") or (choice == "cuda" and not torch.cuda.is_available()):
        try:
            found = torch.empty(0, device=choice).device
            if found.type == "meta":
                raise RuntimeError("it computes nothing")
            return found
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"run.device: is '{choice}'; {reason}. Use auto, cpu, or a device this machine has") from None
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


class _Sum(torch.autograd.Function):
    """All-reduce in both directions, as often as wanted: each rank's loss depends on each rank's summands."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ARG004
        return _Sum.apply(grad.contiguous())


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes, with gradient.

    A loss that is a function of such sums has the same value on every rank, and DistributedDataParallel's averaging of
    gradients then gives exactly the gradient of one process that sees the whole batch.
    """
    return _Sum.apply(values) if world_size() > 1 else values


def max_over_ranks(values: Tensor) -> Tensor:
    """The elementwise maximum over all processes. No gradient."""
    if world_size() == 1:
        return values.detach()
    top = values.detach().clone()
    dist.all_reduce(top, op=dist.ReduceOp.MAX)
    return top


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up anywhere. A collective call."""
    if world_size() == 1:
        return flag
    return bool(max_over_ranks(torch.tensor(int(flag), device=device)).item())


def gather(value: T) -> list[T]:
    """Every rank's object, in order of rank, on every rank."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_tensor(values: Tensor) -> Tensor:
    """Every rank's tensor, which must have one shape, one after the other along the first axis. No gradient."""
    if world_size() == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(world_size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


class _Join(torch.autograd.Function):
    """The gradient of a rank's part is what all ranks' losses say of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.count = len(values)
        return gather_tensor(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _Sum.apply(grad.contiguous())[rank() * ctx.count :][: ctx.count]


def join_ranks(values: Tensor) -> Tensor:
    """:func:`gather_tensor` with gradient, which fits :func:`sum_over_ranks`."""
    return _Join.apply(values) if world_size() > 1 else values


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
