"""Train a small teacher and four students on procedural images, then compare them. Needs no download; minutes on two cores."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEACHER, STUDENTS = "r10_teacher", ("tiny_ce", "tiny_ce_jml", "tiny_kd", "tiny_jml_kd")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all runs, e.g. schedule.steps=600 seed=1")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="where the runs go (default: runs/demo)")
    return parser.parse_intermixed_args()


def train(name: str, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """One run; resumed or skipped if it is already there."""
    recipe = ROOT / "recipes" / "shapes" / f"{name}.yaml"
    print(f"\n{name}: {recipe.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}", flush=True)
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(recipe), "--output", str(folder), *overrides]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(code)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def table(results: dict[str, dict[str, Any]]) -> str:
    """One row a run: last checkpoint on the reported split, and what it cost."""
    head = "run            method     mIoU  mIoU_I  mIoU_C    ECE  steps  s/step  Mparam"
    rows = [head, "-" * len(head)]
    for name, result in results.items():
        scores, cost = result["last"][result["reported_on"]], result["cost"]
        numbers = " ".join(
            f"{scores[key]:{width}.2f}" for key, width in (("mIoU", 6), ("mIoU_I", 7), ("mIoU_C", 7), ("ECE", 6))
        )
        price = f"{result['steps']:6d} {cost['seconds_per_step']:7.3f} {cost['student_parameters'] / 1e6:7.2f}"
        rows.append(f"{name:14s} {result['method'] or '-':8s} {numbers} {price}")
    return "\n".join(rows)


def main() -> int:
    """Teacher first, then the students with it."""
    options = arguments()
    started = time.perf_counter()
    folder = {name: options.output / name for name in (TEACHER, *STUDENTS)}
    results = {TEACHER: train(TEACHER, folder[TEACHER], options.overrides)}
    for name in STUDENTS:
        taught = [f"teacher.path={folder[TEACHER]}"] if name.endswith("kd") else []
        results[name] = train(name, folder[name], [*options.overrides, *taught])
    split = results[TEACHER]["reported_on"]
    print(f"\nSplit {split}, last checkpoint, one seed; percent. One seed is no comparison: differences of a point are noise.")
    print(table(results))
    print(f"\npicture: {folder['tiny_jml_kd'] / 'previews' / 'final.png'}")
    print(f"took {time.perf_counter() - started:.0f} s; a second call skips what is finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
