"""Measure ratios on this machine, in one run: methods beside plain KD, JML-KD's objective beside the usual way."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

EPILOG = """examples:
  kd benchmark methods                                     batch 2 of 512 x 1024 crops, 19 classes, stride 8
  kd benchmark methods cirkd@citys kd --crop 360 480 --classes 11 --batch 8 --device cuda
  kd benchmark losses                                      JML-KD's objective: as usually written, on whole maps, by blocks

Forward and backward of a method's terms on random outputs of both networks, in a process of its own: median of the repeats,
memory on top of the inputs (CPU: growth of the process). The networks' own cost: kd cost.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("what", choices=("methods", "losses"))
    presets = parser.add_argument("presets", nargs="*", metavar="PRESET", help="of a method (default: all of the library)")
    presets.completer = _presets  # type: ignore[attr-defined]
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--widths", type=int, nargs=2, default=(128, 256), metavar=("STUDENT", "TEACHER"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


def _presets(prefix: str = "", **_: Any) -> list[str]:  # noqa: ARG001
    from kd.methods.cards import presets
    from kd.recipe.library import library

    return sorted(name for found in presets(library() / "_parts" / "method").values() for name, *_ in found)


def run(options: argparse.Namespace) -> None:
    """Every preset in a process of its own, then the table."""
    from kd.config import InputError

    if options.one:
        print(json.dumps(measured(options, options.presets[0])))
        return
    if options.what == "losses":
        losses(options)
        return
    known = _presets()
    if unknown := [name for name in options.presets if name not in known]:
        raise InputError(f"there is no preset '{unknown[0]}'; presets: {', '.join(known)}")
    names = list(dict.fromkeys(["kd", *(options.presets or known)]))
    rows = [row for name in names for row in alone(options, name)]
    base = rows[0]["milliseconds"]
    print("| method | ms/step | x KD | spread | MiB | parameters |\n|---|---|---|---|---|---|")
    for row in rows:
        time, spread, memory = row["milliseconds"], row["spread"], row["mebibytes"]
        print(f"| `{row['method']}` | {time:.1f} | {time / base:.1f} | {spread:.1f} | {memory:.0f} | {row['parameters']:,} |")
    if options.json:
        crop, widths = ("x".join(map(str, pair)) for pair in (options.crop, options.widths))
        shape = f"batch {options.batch} of {crop} at stride 8, {options.classes} classes, widths {widths}, {options.device}"
        options.json.write_text(json.dumps({"shape": shape, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def losses(options: argparse.Namespace) -> None:
    """The table of the objective's ways."""
    from kd.benchmark.losses import measure
    from kd.benchmark.methods import Shape
    from kd.config import InputError
    from kd.distributed import local_device

    if options.presets:
        raise InputError(f"losses: takes no preset, here {options.presets[0]}; methods does")
    shape = Shape(tuple(options.crop), options.batch, options.classes)
    rows = measure(shape, local_device(options.device), options.repeats)
    time, memory = rows[0]["milliseconds"], rows[0]["mebibytes"]
    print("| JML-KD's objective | ms | x usual | spread | MiB | x usual |\n|---|---|---|---|---|---|")
    for row in rows:
        room = "- | -" if not memory else f"{row['mebibytes']:.0f} | {row['mebibytes'] / memory:.3f}"
        times = f"{row['milliseconds']:.0f} | {row['milliseconds'] / time:.3f} | {row['spread']:.0f}"
        print(f"| {row['way']} | {times} | {room} |")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def alone(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The rows of a preset from a process of its own, since a process's peak memory never falls."""
    from kd.commands._process import kd
    from kd.config import InputError

    command = kd("benchmark", "methods", name, "--one", "--device", options.device)
    for key in ("crop", "widths"):
        command += [f"--{key}", *map(str, getattr(options, key))]
    for key in ("batch", "classes", "repeats"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{name}: could not be measured: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def measured(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """Costs of one preset, a row for each stage; in this process."""
    from kd.benchmark.methods import Shape, measure, plain
    from kd.distributed import local_device
    from kd.methods.build import build_method
    from kd.recipe.method_words import spelled_out
    from kd.recipe.schema import method_config

    shape = Shape(tuple(options.crop), options.batch, options.classes, widths=tuple(options.widths))
    config = method_config(spelled_out(name)[0]["method"])
    method = build_method(config, *(shape.sizes(width) for width in shape.widths))
    device, stages = local_device(options.device), reversed(method.stages)  # what trains the student first: memory only grows
    costs = [measure(method, shape, device, options.repeats, stage) for stage in stages][::-1]
    names = [name if len(costs) == 1 else f"{name}, {stage.name}" for stage in method.stages]
    return [{"method": label, **plain(cost)} for label, cost in zip(names, costs, strict=True)]
