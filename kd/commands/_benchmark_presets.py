"""What ``kd benchmark presets`` does: each preset of a method in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd.benchmark.setting import Setting


def names(prefix: str = "", **_: Any) -> list[str]:  # noqa: ARG001
    """The library's presets."""
    from kd.methods.cards import presets
    from kd.recipe.library import library

    return sorted(name for found in presets(library() / "_parts" / "method").values() for name, *_ in found)


def setting(options: argparse.Namespace) -> Setting:
    """The setting that a command line describes."""
    from kd.benchmark.setting import Setting
    from kd.distributed import local_device

    widths, device = tuple(options.widths), str(local_device(options.device))
    return Setting(tuple(options.crop), options.batch, options.classes, widths=widths, device=device)


def table(options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """Every preset's cost beside KD's, as a table and as rows."""
    from kd.config import InputError

    known = names()
    if unknown := [name for name in options.presets if name not in known]:
        raise InputError(f"there is no preset '{unknown[0]}'; presets: {', '.join(known)}")
    wanted = dict.fromkeys(["kd", *(options.presets or known)])
    rows = [row for name in wanted for row in alone(options, name)]
    base = rows[0]["milliseconds"]
    lines = ["| method | ms/step | x KD | spread | MiB | parameters |", "|---|---|---|---|---|---|"]
    for row in rows:
        time, spread, memory = row["milliseconds"], row["spread"], row["mebibytes"]
        room = "-" if memory is None else f"{memory:.0f}"
        lines.append(f"| `{row['method']}` | {time:.1f} | {time / base:.1f} | {spread:.1f} | {room} | {row['parameters']:,} |")
    return "\n".join(lines), rows


def alone(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """The rows of a preset from a process of its own, since memory once held hides what is needed later."""
    from kd.commands._process import kd
    from kd.config import InputError

    command = kd("benchmark", "presets", name, "--one", "--device", options.device)
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
    from kd.benchmark.presets import measure, plain
    from kd.methods.build import build_method
    from kd.recipe.method_words import spelled_out
    from kd.recipe.schema import method_config

    of = setting(options)
    config = method_config(spelled_out(name)[0]["method"])
    method = build_method(config, *(of.sizes(width) for width in of.widths))
    costs = [measure(method, of, options.repeats, stage) for stage in method.stages]
    labels = [name if len(costs) == 1 else f"{name}, {stage.name}" for stage in method.stages]
    return [{"method": label, **plain(cost)} for label, cost in zip(labels, costs, strict=True)]
