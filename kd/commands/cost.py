"""What a network costs: parameters, multiply-adds, measured time and memory; no weights needed, data only by `folder`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd.commands._completion import beside, recipes
from kd.commands._plan import run as planned

EPILOG = """examples:
  kd cost camvid/r18 --size 360 480 --teacher
  kd cost camvid/r18 student.output_stride=16 --batch 8 --backward
  kd cost runs/camvid/r18_jml_kd/seed0 --size 1024 2048 --device cuda
  kd cost camvid/r18 jml_kd data.root=~/camvid --plan gpus=4,nodes=2,between=11

MACs are half of what torch's FLOP counter counts: convolutions and matrix products, per image. Time and memory are those of
this machine in float32, on random images. A plan is of a METHOD's training steps, measured on one device here, its data and
teacher at hand: what they would take on gpus x nodes devices, time and memory, and what to set where they do not fit. Links:
within= and between= machines, GB/s (100, 3), latency= us a hop (10, 30); memory= GiB of a device (default: of the GPU here).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    model = parser.add_argument(
        "model", metavar="MODEL", help="a recipe, or a directory with student.safetensors and student.yaml"
    )
    model.completer = recipes  # type: ignore[attr-defined]
    words = parser.add_argument(
        "words", nargs="*", metavar="METHOD | key=value", help="e.g. student.backbone=resnet50; a METHOD for --plan"
    )
    words.completer = beside  # type: ignore[attr-defined]
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: 512 512")
    parser.add_argument("--batch", type=int, help="images per pass (default: 1)")
    parser.add_argument("--backward", action="store_true", help="forward and backward in train mode")
    parser.add_argument(
        "--teacher", action="store_true", help="also the recipe's teacher, forward only; its files must be there"
    )
    parser.add_argument("--plan", metavar="KEY=VALUE,...", help="train on many devices: gpus (a machine), nodes, within, ...")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")


def subjects(options: argparse.Namespace, device: Any) -> dict[str, tuple[Any, Any]]:
    """What to measure: name to (module, images to outputs)."""
    from kd.config import InputError
    from kd.data.build import open_split
    from kd.lookup import lookup
    from kd.networks.build import build_network, load_network
    from kd.recipe.loading import load
    from kd.recipe.schema import plain
    from teachers.load import load_teacher

    if Path(options.model).is_dir():
        if options.teacher or options.words:
            raise InputError(f"{options.model}: is a directory; --teacher and key=value need a recipe, e.g. its recipe.yaml")
        network, _ = load_network(Path(options.model))
        return {"student": (network.to(device), network)}
    untrained, method = [*options.words, "student.pretrained=false"], "kd" if options.teacher else "ce"
    recipe, _ = load(options.model, untrained, default=method)
    known = getattr(lookup("kd.data", recipe.data.name, "Dataset"), "classes", None)
    classes = known if isinstance(known, tuple) else open_split(recipe.data, "train").classes  # folders name their own
    network = build_network(recipe.student, len(classes)).to(device)
    if not options.teacher:
        return {"student": (network, network)}
    if recipe.teacher is None:
        raise InputError(f"--teacher: {options.model} has none; drop the option, or name a recipe that distils")
    if "network" in plain(recipe)["teacher"]:
        recipe, _ = load(options.model, [*untrained, "teacher.network.pretrained=false"], default=method)
    teacher = load_teacher(recipe.teacher, classes, device, network.channels)
    return {"student": (network, network), "teacher": (teacher, teacher.look)}


def run(options: argparse.Namespace) -> None:
    """Build, measure, print."""
    from kd.config import InputError
    from kd.distributed import local_device
    from kd.files import write_json
    from kd.networks.cost import measure, table
    from students.environment import environment
    from students.progress import say

    if options.plan is not None:
        planned(options)
        return
    size, batch = tuple(options.size or (512, 512)), 1 if options.batch is None else options.batch
    if min(*size, batch) < 1:
        raise InputError(f"--size {list(size)} and --batch {batch}: all must be positive")
    if options.backward and batch < 2:
        raise InputError("--backward: a pooled batch norm cannot train on one image; add --batch 2")
    device = local_device(options.device)
    found = {}
    measured = subjects(options, device)
    channels = measured["student"][0].channels
    for name, (module, look) in measured.items():
        backward = options.backward and name == "student"
        height, width = size
        say(f"{name} of {options.model}: passes of {batch} x {height}x{width} on {device}, for ten seconds or so")
        sizes = {"batch": batch, "backward": backward, "channels": channels}
        found[name] = measure(module, look, module.sizes, size, **sizes)
        print(table(found[name], f"{name} of {options.model}"))
    place = environment(device)
    print(f"float32, {place['device']}, {place['threads']} threads, torch {place['torch']}")
    if options.json:
        write_json(options.json, {"model": options.model, "environment": place, **found})
