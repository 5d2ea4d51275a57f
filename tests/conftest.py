"""One thread a process: several test workers share the cores, and OpenMP's barriers punish more threads than cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch

torch.set_num_threads(1)

LONGEST = (
    "test_slurm",
    "test_sweep_run",
    "test_run",
    "test_method_runs",
    "test_recipes",
    "test_mishaps",
    "test_distributed",
    "test_replay",
    "test_kills",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no worker waits for another at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
