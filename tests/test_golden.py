"""Parity with published code, through the production functions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import check_golden
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.npz"))
FEWER_OUTPUTS = {"metrics_binary": 27, "metrics_multiclass": 33, "metrics_multiclass_absent": 20}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parity(path: Path) -> None:
    result = check_golden.check(path)
    assert not result.problem, result
    with np.load(path) as file:
        left_out = ("out_loss_f64", check_golden.RECORDED)
        outputs = [key for key in file.files if key.startswith("out_") and not key.startswith(left_out)]
    assert result.compared == FEWER_OUTPUTS.get(path.stem, len(outputs))


def _copy(source: Path, target: Path, **changes: np.ndarray) -> None:
    with np.load(source) as file:
        np.savez(target, **{key: file[key] for key in file.files} | changes)


@pytest.mark.parametrize("key", ["out_loss", "out_loss_f64", "out_grad_logits"])
def test_a_wrong_number_is_noticed(tmp_path: Path, key: str) -> None:
    source = FOLDER / "jml_hard_present.npz"
    with np.load(source) as file:
        wrong = file[key] * 1.001
    _copy(source, tmp_path / source.name, **{key: wrong})
    assert check_golden.check(tmp_path / source.name).problem == "beyond tolerance"


def test_a_file_without_adapter_fails(tmp_path: Path) -> None:
    _copy(FOLDER / "jml_hard_present.npz", tmp_path / "unheard_of.npz")
    assert "no adapter" in check_golden.check(tmp_path / "unheard_of.npz").problem


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, check_golden.__file__, str(FOLDER), "kd_cirkd_*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "2 passed, 0 failed" in done.stdout
    _copy(FOLDER / "kd_cirkd_T1.npz", tmp_path / "kd_cirkd_T1.npz", out_loss=np.float32(3))
    failed = subprocess.run([*command[:2], str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1
    assert "FAIL" in failed.stdout
