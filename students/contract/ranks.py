"""Whether two processes compute what one does on the same images: two processes of the CPU, joined by gloo."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from kd.blame import blame
from kd.methods.method import Method
from kd.networks.sync_batch_norm import synchronise
from kd.recipe.schema import method_config
from students.contract.subject import STUDENT, TEACHERS, Breach, Step, Subject, labels, made, steps

IMAGES, WORLD = 4, 2
LOST = (
    "one process waits in vain for the other; each must take part in every sum and gather, with tensors of one shape, whatever "
    "its images hold"
)
PATIENCE = timedelta(seconds=20)
Numbers = dict[str, Tensor]


def two_are_one(subject: Subject) -> None:
    """Two processes with half the images each have the terms and gradients of one that sees all, and one state."""
    with TemporaryDirectory() as folder:
        facts = (folder, subject.config.model_dump(mode="json"), subject.pair)
        mp.start_processes(_member, args=facts, nprocs=WORLD, start_method=_start())
        ranks = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    if broken := sorted((found["at"], found["broken"]) for found in ranks if "broken" in found):
        own = [problem for _, problem in broken if "gloo" not in problem]  # what gloo says, where one process lost the other
        raise Breach(own[0] if own else LOST)
    method = subject.method()
    for stage, one in enumerate(computed(method, subject.pair, slice(None))):
        both = [found["stages"][stage] for found in ranks]
        _check_terms([found["terms"] for found in both], one["terms"], method.local)
        _check_gradients([found["gradients"] for found in both], one["gradients"])
        _check_state(*(found["state"] for found in both))


def _start() -> str:
    """How processes begin: a fork takes no time, but is not safe where torch has started threads or may look for a GPU."""
    safe = sys.platform == "linux" and torch.get_num_threads() == 1 and not torch.accelerator.is_available()
    return "fork" if safe else "spawn"


def _member(rank: int, folder: str, values: Any, pair: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=PATIENCE)
    try:
        method, half = Subject(method_config(values), pair).method(), IMAGES // WORLD
        synchronise(method, torch.device("cpu"))
        found: dict[str, Any] = {"stages": computed(method, pair, slice(rank * half, (rank + 1) * half))}
        dist.barrier()
    except Exception as error:  # told by the process that asks
        found = {"broken": blame(error), "at": time.time()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def computed(method: Method, pair: str, share: slice) -> list[dict[str, Numbers]]:
    """Of each stage, on a share of the images: the terms, the gradients of those that are not local, the method's state."""
    student = partial(made, STUDENT, 1, IMAGES, share=share)
    teacher = partial(made, TEACHERS[pair], 2, IMAGES, share=share)
    target = labels(IMAGES, blank=(IMAGES - 1,))[share]
    return [_numbers(step, method) for step in steps(method, student, teacher, target)]


def _numbers(step: Step, method: Method) -> dict[str, Numbers]:
    step.backward(but=method.local)
    leaves = {f"student.{name}": leaf for name, leaf in step.student.leaves.items()}
    parameters = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
    return {
        "terms": {name: term.detach().double() for name, term in step.terms.items()},
        "gradients": {name: _gradient(leaf) for name, leaf in {**leaves, **parameters}.items()},
        "state": {name: value.detach().clone() for name, value in method.state_dict().items()},
    }


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()


def _check_terms(ranks: list[Numbers], one: Numbers, local: frozenset[str]) -> None:
    remedy = (
        "Sums and means must run over the images of all processes: kd.methods.maps.mean, kd.distributed.sum_over_ranks; what "
        "is drawn at random, image by image: kd.seeds.uniform_by_image"
    )
    for name, whole in one.items():
        first, second = (found[name] for found in ranks)
        told = f"the term '{name}' is {first:.6g} and {second:.6g} in two processes, {whole:.6g} in one with the same images"
        if not _close(first, second):
            raise Breach(f"{told}. {remedy}")
        if name not in local and not _close(first, whole):
            declared = f"local = frozenset({{'{name}'}})"
            raise Breach(f"{told}. {remedy}. If it is of one process's images by definition, say so: {declared}")


def _check_gradients(ranks: list[Numbers], one: Numbers) -> None:
    """The student's, whose images lie here or there, and those of parameters, which are averaged."""
    for name, whole in one.items():
        parts = [found[name] for found in ranks]
        joined = torch.cat(parts) / WORLD if name.startswith("student.") else torch.stack(parts).mean(0)
        off = float((joined - whole).abs().max() / whole.abs().max().clamp_min(1e-12))
        if off > 1e-3 and float((joined - whole).abs().max()) > 1e-7:
            raise Breach(
                f"the gradient of {name} in two processes is off by {100 * off:.0f} % of its largest entry, though the terms "
                "agree; sums over processes must carry it: kd.distributed.sum_over_ranks instead of all_reduce"
            )


def _check_state(first: Numbers, second: Numbers) -> None:
    if differing := [name for name, value in first.items() if not torch.equal(value, second[name])]:
        raise Breach(
            f"{differing[0]}, which a step writes, differs between two processes; write what all of them have seen: "
            "kd.distributed.gather_tensor(values), or a sum by sum_over_ranks"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs() <= 2e-4 * other.abs() + 1e-6)
