"""A plan for people: a table, what it takes for granted, and what to do where it does not fit."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from students.planning.plan import RESERVE
from students.planning.remedies import Remedy

GIB, WIDTH, RESTLESS = 2**30, 120, 0.15
NAMES = {"average": "averaged weights", "buckets": "buckets of gradients", "teacher_copy": "its copy for steps"}


def table(plan: dict[str, Any], title: str) -> str:
    """Everything a plan holds, stage by stage and as a whole."""
    world = plan["world"]
    lines = [
        f"{title} on {world['gpus']} x {world['nodes']} devices: batch {plan['batch']} = {world['processes']} processes x "
        f"{plan['accumulate']} parts x {plan['images']} images"
    ]
    for stage in plan["stages"]:
        lines += [f"stage {stage['name']}, {stage['steps']} steps", *_rows(_stage(stage, world["processes"]))]
    return "\n".join([*lines, "in all", *_rows(_whole(plan))])


def _rows(rows: dict[str, str]) -> Iterator[str]:
    for name, text in rows.items():
        if text:
            yield textwrap.fill(text, WIDTH, initial_indent=f"  {name:13s} ", subsequent_indent=" " * 16)


def _stage(stage: dict[str, Any], processes: int) -> dict[str, str]:
    rows = {"computation": time(stage["compute"])}
    if processes > 1:
        sent = f"{stage['sent'] / 1e6:.1f} MB of gradients in {stage['buckets']} messages"
        rows["all-reduce"] = f"{time(stage['all_reduce'])} for {sent}"
        few = f"{stage['small_messages']} messages, mostly of batch norms"
        rows["small sums"] = f"{time(stage['small_messages_seconds'])} for {few}"
    rows["waiting"] = f"{time(stage['waiting'])} for samples" if stage["waiting"] else ""
    rows["step"] = _span(stage["step"], time)
    if processes > 1:
        rows["step"] += ": gradients sent behind the computation, or after it"
        rows["one device"] = f"{time(stage['alone'])} for the same batch, in parts"
    parts = stage["memory"]
    told = [f"{NAMES.get(name, name)} {size(value)}" for name, value in parts.items() if value and name != "total"]
    known = "activations not known here" if parts["total"] is None else size(parts["total"])
    rows["memory"] = f"{known}: {', '.join(told)}"
    return rows


def _whole(plan: dict[str, Any]) -> dict[str, str]:
    accelerators = f"{_span(plan['accelerator_hours'], number)} accelerator-hours"
    rows = {
        "time": f"{_span(plan['hours'], duration)} for {plan['steps']} steps, {accelerators}",
        "speed": f"{_span(plan['images_per_second'], number)} images/s",
    }
    if plan["world"]["processes"] > 1:
        shares = _span([100 * share for share in plan["efficiency"]], number)
        rows["speed"] += f", {_span(plan['speed_up'], number)} times one device's: an efficiency of {shares} %"
    limit = plan["memory_limit"]
    if plan["fits"] is None:
        why = "say memory=GIB in --plan" if limit is None else "the system does not tell what activations take"
        rows["fits"] = f"not checked: {why}"
    else:
        rows["fits"] = f"{'yes' if plan['fits'] else 'NO'}: {size(plan['memory'])} of {size(limit)} a device"
    return rows


def assumptions(plan: dict[str, Any], place: dict[str, Any], workers: int) -> Iterator[str]:
    """What a plan takes for granted, a sentence each."""
    world = plan["world"]
    images = " and ".join(map(str, plan["measured_images"]))
    yield f"Steps of {images} images were measured on {place['device']}, {place['threads']} threads; all devices are like it."
    if plan["spread"] > RESTLESS:
        yield f"Their times spread by {plan['spread']:.0%}: something else was running; plan again when it is quiet."
    if world["processes"] > 1:
        yield "The recipe's batch is the whole batch: more devices change neither steps nor rates."
        yield (
            f"All-reduce: one ring of {world['processes']} processes, {world['bandwidth']:g} GB/s and {world['delay']:g} us a "
            "hop as on its slowest link (within=, between=, latency=), float32, 25 MiB a message."
        )
        yield "Nothing hides the small sums; a loss's own few, and what a processor does to join processes, are not counted."
    readers = f"{workers} workers a process, with a core each" if workers else "the process itself"
    yield f"Samples are read by {readers}, {time(plan['seconds_per_sample'])} each. Evaluations and checkpoints come on top."
    if place["device_type"] == "cpu":
        yield "Memory is without the interpreter and its libraries, about 1 GiB a process."
    if plan["memory_limit"] is not None:
        yield f"{RESERVE:.0%} of a device's memory stay free for its driver. Activations grow as a line with the images."


def advice(remedies: Sequence[Remedy]) -> str:
    """What would make it fit."""
    if not remedies:
        return "It does not fit, and no key of the recipe helps: take a smaller student, or devices with more memory."
    head = "set one of these" if any(one.fits for one in remedies) else "none of these is enough alone, join some"
    lines = [
        f"  {one.change}: {size(one.memory)}, {'fits' if one.fits else 'too much'}; step {_span(one.step, time)}; {one.about}"
        for one in remedies
    ]
    return "\n".join([f"It does not fit; {head}:", *lines])


def time(seconds: float) -> str:
    """In ms below a second."""
    return f"{number(1e3 * seconds)} ms" if seconds < 1 else f"{number(seconds)} s"


def duration(hours: float) -> str:
    """In minutes below two hours."""
    return f"{number(60 * hours)} min" if hours < 2 else f"{number(hours)} h"


def size(count: float) -> str:
    """Bytes in MiB below a GiB."""
    return f"{number(count / 2**20)} MiB" if count < GIB else f"{number(count / GIB)} GiB"


def number(value: float) -> str:
    """Three digits, more before the point where there are."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _span(ends: Sequence[float], tell: Callable[[float], str]) -> str:
    low, high = map(tell, ends)
    return low if low == high else f"{low} to {high}"
