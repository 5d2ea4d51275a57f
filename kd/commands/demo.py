"""The whole toolkit on procedural images: a teacher, two baselines, five distillation methods, two seeds; table and report."""

from __future__ import annotations

import argparse
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

SWEEP = "shapes_demo"


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for kd sweep, e.g. seed=[0,1,2]")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where the runs go (default: runs/demo)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")


def run(options: argparse.Namespace) -> None:
    """Sweep, table, report: the three commands that a comparison takes."""
    started = time.perf_counter()
    command("sweep", SWEEP, *options.overrides, "--jobs", str(options.jobs), "--output", options.output)
    command("table", options.output)
    command("report", options.output)
    print(f"\ntook {time.perf_counter() - started:.0f} s; a second call skips what is finished")
    print("These images and networks are toys and two seeds are few: the demo shows the workflow, not which method is better.")
    print(f"open {options.output / 'report.html'}")


def command(*words: str | Path) -> None:
    """Run one of the commands; where it fails, so does the demo, with its code."""
    from kd.commands._process import kd

    print(f"\n$ kd {' '.join(map(str, words))}", flush=True)
    with subprocess.Popen(kd(*map(str, words))) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while (code := process.returncode) is None:
            with suppress(KeyboardInterrupt):  # the command has got it too, and ends by itself
                process.wait()
    if code:
        raise SystemExit(code)
