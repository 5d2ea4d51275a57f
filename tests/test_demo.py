"""The demo as a user starts it, only shorter: sweep, table and report follow each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHORT = ["method=[ce,kd]", "seed=[0]", "budget.steps=2", "schedule.steps=2", "teacher.floor=0"]
SMALL = ["data.train=8", "data.val=2", "data.test=2", "evaluation.every=1", "run.previews=1", "run.workers=0"]


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), *words, *SHORT, *SMALL, "--output", str(folder), "--jobs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=220, cwd=ROOT, env=environment)


def test_the_demo_ends_with_table_and_report(tmp_path: Path) -> None:
    done = demo(tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "3 finished of 3 points" in done.stdout
    assert "| ce (baseline) |" in done.stdout
    assert "| kd |" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "Where teacher and student disagree" in page
    assert page.count("data:image/png") > 3
    wrong = demo(tmp_path / "demo", "sede=1")
    assert wrong.returncode == 2
    assert "did you mean 'seed'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
