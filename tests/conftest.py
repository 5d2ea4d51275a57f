"""One thread a process: several test workers share the cores, and OpenMP's barriers punish more threads than cores."""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", f"{tempfile.gettempdir()}/hypothesis")  # not beside the tests

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers_faults import FAULTS
from helpers_fuzz import Tally

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


@pytest.fixture
def tally(request: pytest.FixtureRequest, record_property: Any) -> Iterator[Tally]:
    """Counts the inputs of a test, see :mod:`helpers_fuzz`."""
    found = Tally(request.node.name)
    yield found
    record_property("inputs", str(found))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """With KD_FAULTS: how much was tried."""
    reports = [report for some in terminalreporter.stats.values() for report in some] if FAULTS else []
    known = (pair for report in reports for pair in getattr(report, "user_properties", ()))
    for told in sorted({value for key, value in known if key == "inputs"}):
        terminalreporter.write_line(told)
