"""``kd cost RECIPE --plan``: a recipe on several devices and machines, from steps measured here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import Any


def run(options: argparse.Namespace) -> None:
    """Compose data, teacher and bench; print the plan."""
    from kd import distributed
    from kd.data.build import open_training
    from kd.files import write_json
    from kd.recipe.loading import load
    from students.environment import environment
    from students.planning.bench import memory_here, stage_costs
    from students.planning.plan import Setting, plan
    from students.planning.remedies import Crowded
    from students.planning.samples import seconds_per_sample
    from students.planning.telling import advice, assumptions, table
    from students.planning.world import parsed
    from students.progress import say
    from teachers.load import load_teacher

    world = parsed(options.plan)
    _check_sizes(options)
    recipe, _ = load(options.model, [*options.words, "student.pretrained=false"])
    images = Setting.of(recipe, world).images
    device = distributed.local_device(recipe.run.device if options.device == "auto" else options.device)
    data = open_training(recipe.data, recipe.unlabelled)
    teacher = load_teacher(recipe.teacher, data.classes, device, data.channels) if recipe.teacher is not None else None
    say(f"steps of {options.model} on {device}, {images} images at once: half a minute or more")
    measure = partial(stage_costs, teacher=teacher, data=data, device=device, images=images, processes=world.processes)
    setting, costs = Setting.of(recipe, world, seconds_per_sample(recipe, data)), measure(recipe, compared=True)
    found: dict[str, Any] = plan(costs, setting, world.memory or memory_here(device))
    place = environment(device)
    found["assumptions"] = list(assumptions(found, place, recipe.run.workers))
    print(table(found, " ".join([options.model, *options.words])))
    print("\n".join(f"- {sentence}" for sentence in found["assumptions"]))
    if found["fits"] is False:
        remedies = Crowded(recipe, setting, costs, found["memory_limit"], device, measure).remedies()
        found["remedies"] = [asdict(remedy) for remedy in remedies]
        print(advice(remedies))
    if options.json:
        write_json(options.json, {"model": options.model, "environment": place, "plan": found})


def _check_sizes(options: argparse.Namespace) -> None:
    from kd.config import InputError

    given = {"--size": options.size, "--batch": options.batch, "--backward": options.backward, "--teacher": options.teacher}
    if told := [name for name, value in given.items() if value]:
        raise InputError(f"{told[0]}: a plan is of the recipe's own steps; set augmentation.crop or schedule.batch instead")
