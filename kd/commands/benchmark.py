"""Measure ratios on this machine, in one run: parts of a distillation beside the usual way to write them, methods beside KD."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kd.commands import _benchmark_presets

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "losses": "kd.benchmark.losses",
        "methods": "kd.benchmark.methods",
        "step": "students.step_costs",
        "metrics": "kd.benchmark.metrics",
        "data": "kd.benchmark.data",
        "eval": "kd.benchmark.evaluation",
    }
)
"""The module of each group of comparisons."""
EPILOG = """examples:
  kd benchmark losses                                      JML-KD's objective: as usually written, on whole maps, by blocks
  kd benchmark methods --only KD --crop 256 512            the methods' terms: as usually written, and the methods themselves
  kd benchmark eval                                        logits to labels, whole images, sliding windows; metrics: counts
  kd benchmark losses --classes 150 --crop 512 512 --json losses.json
  kd benchmark data                                        samples from PNG, from JPEG and from a store, on one thread
  kd benchmark presets                                     every method's terms beside plain KD's
  kd benchmark presets cirkd@citys --crop 360 480 --classes 11 --batch 8 --device cuda

Times are medians of forward and backward on random inputs; what is compared takes turns in one process. Memory is what a
process of its own holds at most on top of the inputs. Times mean little on another machine, ratios do. Networks: kd cost.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("what", choices=(*GROUPS, "presets"))
    presets = parser.add_argument("presets", nargs="*", metavar="PRESET", help="of a method (default: all of the library)")
    presets.completer = _benchmark_presets.names  # type: ignore[attr-defined]
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--widths", type=int, nargs=2, default=(128, 256), metavar=("STUDENT", "TEACHER"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", metavar="WORD", help="only comparisons whose title holds this word")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    """A group's comparisons, or every preset in a process of its own; then the table."""
    if options.one:
        print(json.dumps(_benchmark_presets.measured(options, options.presets[0])))
        return
    _check(options)
    text, rows = _benchmark_presets.table(options) if options.what == "presets" else group(options)
    print(f"{text}\n\n{_where(options)}")
    if options.json:
        options.json.write_text(json.dumps({"shape": _where(options), "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured or kept, before anything is."""
    from kd.config import InputError

    least = {"--crop": (min(options.crop), 16), "--batch": (options.batch, 1), "--classes": (options.classes, 2)}
    least |= {"--widths": (min(options.widths), 1), "--repeats": (options.repeats, 1)}
    for word, (value, limit) in least.items():
        if value < limit:
            raise InputError(f"{word}: is {value}; it must be {limit} or more")
    if options.json and not (options.json.absolute().parent.is_dir() and os.access(options.json.absolute().parent, os.W_OK)):
        raise InputError(f"--json {options.json}: cannot be written; name a file in a folder that is there")


def _where(options: argparse.Namespace) -> str:
    """What the numbers hold for."""
    import torch

    setting = _benchmark_presets.setting(options)
    crop, widths = ("x".join(map(str, pair)) for pair in (setting.crop, setting.widths))
    shape = f"batch {setting.batch} of {crop} at stride {setting.stride}, {setting.classes} classes, widths {widths}"
    device = "CPU" if setting.device == "cpu" else torch.cuda.get_device_name(setting.device)
    return f"{shape}; {device}, {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"


def group(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The comparisons of a group, as a table and as rows."""
    from importlib import import_module

    from kd.benchmark.comparison import compare, table
    from kd.config import InputError

    if options.presets:
        raise InputError(f"{options.what}: takes no preset, here {options.presets[0]}; `kd benchmark presets` does")
    module = GROUPS[options.what]
    known = list(import_module(module).COMPARISONS)
    titles = [title for title in known if (options.only or "") in title]
    if not titles:
        raise InputError(f"--only: is '{options.only}', which is in no title of {options.what}; they are: {', '.join(known)}")
    setting = _benchmark_presets.setting(options)
    rows = [row for title in titles for row in compare(module, title, setting, options.repeats)]
    return table(rows), rows
