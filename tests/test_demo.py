"""The demo as a user starts it, only shorter: sweep, table and report follow each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHORT = [
    "method=[ce,kd]",
    "seed=[0]",
    "budget.steps=2",
    "teachers={shapes/r10_teacher: {schedule.steps: 2}}",
    "teacher.floor=0",
]
SMALL = ["data.train=8", "data.val=2", "data.test=2", "evaluation.every=1", "run.previews=1", "run.workers=0"]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), *SHORT, *SMALL, *words, "--output", str(folder), "--jobs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, start_new_session=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_the_demo_is_stopped_goes_on_and_ends_with_table_and_report(tmp_path: Path) -> None:
    process = start(tmp_path)
    while process.poll() is None and not list(tmp_path.glob("*/log.txt")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    code, out, err = ended(process)
    assert (code, "| ce (baseline) |" in out) == (75, False), err
    assert "the same command goes on" in out
    code, out, err = ended(start(tmp_path))
    assert code == 0, err
    assert "3 finished of 3 points" in out
    assert "| ce (baseline) |" in out
    assert "| kd |" in out
    page = (tmp_path / "report.html").read_text()
    assert "Where teacher and student disagree" in page
    assert page.count("data:image/png") > 3


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    code, _, err = ended(start(tmp_path, "sede=1"))
    assert code == 2
    assert "did you mean 'seed'" in err
