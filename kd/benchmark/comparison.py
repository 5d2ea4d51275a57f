"""Ways to compute the same thing, measured side by side: time in turns in one process, memory each in a fresh one.

A group is a module with ``COMPARISONS``, a mapping from titles to :class:`Comparison`; the first way of each is the usual one,
restated from the mathematics, and what the others are told as ratios to.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from kd.benchmark.setting import Setting
from kd.networks.cost import peak_memory

Ways = Mapping[str, Callable[[], Any]]
"""By name: what does the work once, on inputs that are there already."""


@dataclass(frozen=True)
class Comparison:
    """``make`` prepares the inputs and gives the ways; ``moved`` counts the bytes that must be read and written at the very
    least, where memory is the limit."""

    make: Callable[[Setting], Ways]
    moved: Callable[[Setting], int] | None = None


def compare(group: str, title: str, setting: Setting, repeats: int) -> list[dict[str, Any]]:
    """A row for each way: median and spread (largest minus smallest) of its milliseconds, MiB on top of the inputs, and both as
    ratios to the first way; ``bandwidth`` is the share of what the machine copies a second, where that is the limit.

    Args:
        group: the module's name.
        title: which of its comparisons.
    """
    comparison = _find(group, title)
    measured = times(comparison.make(setting), repeats, setting.device)
    memory = {way: _memory(group, title, way, setting) for way in measured}
    first = next(iter(measured))
    base = statistics.median(measured[first])
    rows = []
    for way, found in measured.items():
        median = statistics.median(found)
        row = {"comparison": title, "way": way, "milliseconds": median, "ratio": median / base}
        row |= {"spread": max(found) - min(found), "mebibytes": memory[way], "memory_ratio": _ratio(memory[way], memory[first])}
        if comparison.moved is not None:
            row["bandwidth"] = comparison.moved(setting) / (median / 1000) / bandwidth(setting.device)
        rows.append(row)
    return rows


def _find(group: str, title: str) -> Comparison:
    found: Comparison = import_module(group).COMPARISONS[title]
    return found


def times(ways: Ways, repeats: int, device: str) -> dict[str, list[float]]:
    """Milliseconds of each way; they take turns, so that a busy moment strikes all of them."""
    for work in ways.values():
        work()
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, work in ways.items():
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            found[way].append(1000 * (time.perf_counter() - began))
    return found


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _memory(group: str, title: str, way: str, setting: Setting) -> float | None:
    """MiB of one pass in a process that has never held more; None where the system does not tell."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([group])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_alone, group, title, way, setting, torch.get_num_threads()).result()


def _alone(group: str, title: str, way: str, setting: Setting, threads: int) -> float | None:
    torch.set_num_threads(threads)
    comparison = _find(group, title)
    comparison.make(setting.small())[way]()  # what is loaded once for all is no cost of a pass
    work = comparison.make(setting)[way]
    device = torch.device(setting.device)
    before = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    found = peak_memory(work, device)["mib"]
    return None if found is None else found - before


def _ratio(memory: float | None, base: float | None) -> float | None:
    return memory / base if memory is not None and base else None


def bandwidth(device: str, size: int = 2**26) -> float:
    """Bytes a second, read plus written, of copying one large array into another."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = source.clone()
    found = times({"copy": lambda: target.copy_(source)}, 9, device)["copy"]
    return 2 * size / (statistics.median(found) / 1000)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| what | way | ms | x usual | spread | MiB | x usual |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        room, share = row["mebibytes"], row["memory_ratio"]
        memory = f"{'-' if room is None else f'{room:.0f}'} | {'-' if share is None else f'{share:.3f}'}"
        times = f"{row['milliseconds']:.4g} | {row['ratio']:.3f} | {row['spread']:.3g}"
        limit = f" ({row['bandwidth']:.0%} of the bandwidth)" if "bandwidth" in row else ""
        lines.append(f"| {row['comparison']} | {row['way']}{limit} | {times} | {memory} |")
    return "\n".join(lines)
