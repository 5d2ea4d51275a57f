"""Is this machine fit to train? What a colleague would look at first, each finding with what to do about it.

Nothing heavy is imported before a check needs it, so that a broken installation is diagnosed rather than suffered.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path

from students.doctor.finding import Finding
from students.doctor.services import datasets, hub, wandb

PROJECT = "segmentation-kd"
GIB = 2**30
NAME, LEAST, EXTRA = r"^[\w.-]+", r">=\s*([\d.]+)", r"extra == ['\"](\w+)['\"]"
"""Parts of a line such as ``onnx>=1.16; extra == "export"``."""


def diagnose() -> Iterator[Finding]:
    """All findings, one check after the other. A check that breaks is a problem itself."""
    for check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # whatever is broken, the other checks go on
            reason = next(iter(str(error).splitlines()), "")
            yield Finding("problem", check.__name__, f"cannot be examined ({type(error).__name__}: {reason})")


def python() -> Iterator[Finding]:
    """The interpreter."""
    version, least = platform.python_version(), "3.10"
    old = _numbers(version) < _numbers(least)
    remedy = f"the toolkit needs Python {least} or newer" if old else ""
    yield Finding("problem" if old else "ok", "python", f"{version} at {sys.executable}", remedy)


def packages() -> Iterator[Finding]:
    """Core packages and optional extras, against what the project requires."""
    try:
        required = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        yield Finding("problem", "packages", f"{PROJECT} is not installed here", "run `make .venv`, or pip install -e .")
        return
    extras: dict[str, list[str]] = {}
    for line in required:
        name, least, extra = (next(iter(re.findall(pattern, line)), "") for pattern in (NAME, LEAST, EXTRA))
        if extra:
            extras.setdefault(extra, []).extend(_lacking(name, least))
        else:
            yield _core(name, least)
    for extra in (extra for extra in extras if extra not in ("all", "dev")):
        if extras[extra]:
            install = f"pip install '{PROJECT}[{extra}]', if you need it"
            yield Finding("note", "extra", f"{extra}: {', '.join(extras[extra])}", install)
        else:
            yield Finding("ok", "extra", extra)


def _core(name: str, least: str) -> Finding:
    lacking = _lacking(name, least)
    if lacking:
        return Finding("problem", "package", lacking[0], f"pip install '{name}>={least}'")
    return Finding("ok", "package", f"{name} {metadata.version(name)}")


def _lacking(name: str, least: str) -> list[str]:
    """Why a package does not do: nothing, or one sentence."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return [f"{name} is not installed"]
    older = _numbers(found) < _numbers(least)
    return [f"{name} is {found}, older than {least}"] if older else []


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def library() -> Iterator[Finding]:
    """Whether the packages work together: a torchvision built for another torch fails on import."""
    for name in ("kd.recipe.loading", "kd.networks.build", "students.run", "teachers.load"):
        import_module(name)
    yield Finding("ok", "library", "torch, torchvision, timm and all of the toolkit can be imported")


def gpu() -> Iterator[Finding]:
    """CUDA devices, driver, bf16."""
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        card = shutil.which("nvidia-smi") is not None
        remedy = "nvidia-smi is here: update the driver, or install a torch for its CUDA version" if card else ""
        yield Finding("note", "gpu", f"none that torch {torch.__version__} ({built}) can use; runs use the CPU", remedy)
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            half = "bf16" if torch.cuda.is_bf16_supported() else "no bf16 (fp16 with a scaler is used)"
        text = f"{number}: {about.name}, {about.total_memory / GIB:.0f} GiB, {half}"
        yield Finding("ok", "gpu", f"{text}, CUDA {torch.version.cuda}, driver {_driver()}")


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter(done.stdout.split()), "unknown")


def cpu() -> Iterator[Finding]:
    """Cores and threads."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    text = f"{cores} cores for this process, torch uses {threads} threads"
    if threads > cores:
        yield Finding("note", "cpu", text, f"more threads than cores are slow: set OMP_NUM_THREADS={cores}")
    else:
        yield Finding("ok", "cpu", text)


def disk() -> Iterator[Finding]:
    """Room and permission in the working directory."""
    folder, free = Path.cwd(), shutil.disk_usage(Path.cwd()).free / GIB
    text = f"{free:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        yield Finding("problem", "disk", f"{folder} cannot be written", "change the directory, or give --output to every tool")
    elif free < 1:
        yield Finding("problem", "disk", text, "make room: a run keeps two checkpoints, each about 4 times its student")
    else:
        yield Finding("ok" if free >= 10 else "note", "disk", text, "" if free >= 10 else "enough for a few runs only")


def memory() -> Iterator[Finding]:
    """Shared memory, through which the data loader's workers hand over batches."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        yield Finding("note", "shm", "there is no /dev/shm", "if workers die with a bus error, set run.workers=0")
        return
    size = shutil.disk_usage(folder).total / GIB
    enough = size >= 1
    remedy = "workers may die with a bus error: docker run --shm-size=8g, or run.workers=0"
    yield Finding("ok" if enough else "note", "shm", f"{size:.2g} GiB in /dev/shm", "" if enough else remedy)


def processes() -> Iterator[Finding]:
    """What several processes need."""
    import torch.distributed as dist

    beside = Path(sys.executable).with_name("torchrun")
    runner = str(beside) if beside.exists() else shutil.which("torchrun")
    backends = [name for name in ("nccl", "gloo") if dist.is_available() and getattr(dist, f"is_{name}_available")()]
    text = f"torchrun {'at ' + runner if runner else 'not found'}; backends {', '.join(backends) or 'none'}"
    usable = bool(runner and backends)
    yield Finding(
        "ok" if usable else "note", "processes", text, "" if usable else "one process works; for more install torch anew"
    )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    library,
    gpu,
    cpu,
    memory,
    disk,
    processes,
    datasets,
    hub,
    wandb,
)
