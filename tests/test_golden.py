"""Parity with published code, through the production functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import check_golden
import numpy as np
import pytest

FOLDER = Path(__file__).parent / "golden"
FILES = sorted([*FOLDER.glob("*.npz"), *FOLDER.glob("*.json")])
FEWER_OUTPUTS = {"metrics_binary": 27, "metrics_multiclass": 33, "metrics_multiclass_absent": 20}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parity(path: Path) -> None:
    result = check_golden.check(path)
    assert not result.problem, result
    if path.suffix == ".json":
        return
    with np.load(path) as file:
        told = [key for key in file.files if key.startswith("out_") and not key.startswith(check_golden.RECORDED)]
    outputs = [key for key in told if not key.endswith("_f64")]
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


@pytest.mark.parametrize(("factor", "problem"), [(1.0, ""), (1.001, "beyond tolerance")])
def test_a_gradient_that_names_its_term_is_compared(tmp_path: Path, factor: float, problem: str) -> None:
    source = FOLDER / "jml_hard_present.npz"
    with np.load(source) as file:
        slope = file["out_grad_logits"] * factor
    _copy(source, tmp_path / source.name, out_grad_loss_logits=slope)
    result = check_golden.check(tmp_path / source.name)
    assert result.problem == problem
    assert result.compared == 3


@pytest.mark.parametrize(("added", "problem"), [(1e-6, ""), (1e-4, "beyond tolerance")])
def test_a_gradient_that_vanishes_may_differ_by_the_rounding_of_its_value(tmp_path: Path, added: float, problem: str) -> None:
    source, key = FOLDER / "afdcd_random_mask.npz", "out_grad_ctr_feat_s"
    with np.load(source) as file:
        slope, value = file[key], float(file["out_ctr"])
    assert np.abs(slope).max() < 1e-9 * value
    _copy(source, tmp_path / source.name, **{key: slope + np.float32(added)})
    assert check_golden.check(tmp_path / source.name).problem == problem


def test_one_grey_level_is_no_difference_but_one_label_is(tmp_path: Path) -> None:
    source = FOLDER / "resize_jdt_0.8.npz"
    with np.load(source) as file:
        image, label = file["out_image"].astype(int), file["out_label"]
    _copy(source, tmp_path / source.name, out_image=np.clip(image + 3, 0, 255).astype(np.uint8))
    assert check_golden.check(tmp_path / source.name).problem == "beyond tolerance"
    _copy(source, tmp_path / source.name, out_label=np.where(np.arange(label.size).reshape(label.shape) == 7, 0, label + 1))
    assert check_golden.check(tmp_path / source.name).problem == "beyond tolerance"


def test_damage_and_missing_folders_are_told_and_stop_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _copy(FOLDER / "kd_cirkd_T1.npz", tmp_path / "kd_cirkd_T1.npz")
    for name, content in {"a.npz": b"", "head_jdt_b.npz": b"PK\x03\x04", "initialisation_jdt_deeplabv3.json": b"{"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "initialisation_jdt_unet.json").write_text("{}")

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["check_golden.py", *words])
        return check_golden.main()

    assert run(str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "1 passed, 4 failed" in out
    assert run(str(tmp_path / "none"), str(tmp_path)) == 1
    assert run(str(tmp_path), str(tmp_path / "none")) == 1
    assert capsys.readouterr().err.count("none: is no directory") == 2
    assert run(str(tmp_path), "kd_*.npz") == 0


def test_a_wrong_spread_is_noticed(tmp_path: Path) -> None:
    source = FOLDER / "initialisation_jdt_deeplabv3.json"
    told = json.loads(source.read_text())
    told["bottleneck.0.weight"]["std"] *= 1.05
    (tmp_path / source.name).write_text(json.dumps(told))
    assert check_golden.check(tmp_path / source.name).problem == "beyond tolerance"


def test_a_file_without_adapter_fails(tmp_path: Path) -> None:
    _copy(FOLDER / "jml_hard_present.npz", tmp_path / "unheard_of.npz")
    assert "no adapter" in check_golden.check(tmp_path / "unheard_of.npz").problem


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, check_golden.__file__, str(FOLDER), "kd_cirkd_*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "2 passed, 0 failed" in done.stdout
    both = subprocess.run([*command[:3], str(tmp_path), "kd_cirkd_*"], capture_output=True, text=True, timeout=120)
    assert both.returncode == 0
    _copy(FOLDER / "kd_cirkd_T1.npz", tmp_path / "kd_cirkd_T1.npz", out_loss=np.float32(3))
    failed = subprocess.run([*command[:2], str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1
    assert "FAIL" in failed.stdout
