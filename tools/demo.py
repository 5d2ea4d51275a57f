"""The whole toolkit on procedural images: a teacher, two baselines, five distillation methods, two seeds; table and report."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SWEEP = ROOT / "recipes" / "sweeps" / "shapes_demo.yaml"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for tools/sweep.py, e.g. seed=[0,1,2]")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where the runs go (default: runs/demo)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    return parser.parse_intermixed_args()


def tool(name: str, *words: str | Path) -> None:
    """Run one of the tools; where it fails, so does the demo, with its code."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, words)]
    print(f"\n$ python tools/{name}.py {' '.join(map(str, words))}", flush=True)
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while (code := process.returncode) is None:
            with suppress(KeyboardInterrupt):  # the tool has got it too, and ends by itself
                process.wait()
    if code:
        raise SystemExit(code)


def main() -> int:
    """Sweep, table, report: the three commands that a comparison takes."""
    options = arguments()
    started = time.perf_counter()
    sweep = SWEEP.relative_to(Path.cwd()) if SWEEP.is_relative_to(Path.cwd()) else SWEEP
    tool("sweep", sweep, *options.overrides, "--jobs", str(options.jobs), "--output", options.output)
    tool("table", options.output)
    tool("report", options.output, "--output", options.output / "report.html")
    print(f"\ntook {time.perf_counter() - started:.0f} s; a second call skips what is finished")
    print("These images and networks are toys and two seeds are few: the demo shows the workflow, not which method is better.")
    print(f"open {options.output / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
