"""What a run ran on, and what it cost: facts for ``result.json``."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kd.distributed import world_size

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pydantic")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, number of processes and threads, revision of the source."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "revision": revision(),
    }


def _processor() -> str:
    """Of one architecture, CPUs of other instruction sets differ in speed by two."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def revision() -> str | None:
    """The commit of the source, with ``+`` if files differ from it; None outside a git checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far, MB: allocated on the GPU, or resident on the CPU (the whole process)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
