"""What the terms of the methods cost, forward and backward: as mostly written, and by the method itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.benchmark import relations
from kd.benchmark import usual_methods as usual
from kd.benchmark.case import Case, Way, sizes_of, term
from kd.benchmark.comparison import Comparison, Ways
from kd.benchmark.setting import Setting, random_outputs, random_target
from kd.losses.loss import checked_labels
from kd.methods.afdcd import AfDCD
from kd.methods.afdcd_contrast import contrast, parts
from kd.methods.at import AT
from kd.methods.attnfd import AttnFD, Refinement
from kd.methods.cirkd import CIRKD, memory_term, mini_batch, unit
from kd.methods.cwd import CWD
from kd.methods.dist import DIST
from kd.methods.fitnet import FitNet
from kd.methods.ifvd import IFVD
from kd.methods.kd import KD
from kd.methods.maps import labels_at
from kd.methods.maskd import DISTIL, MasKD
from kd.methods.skd import SKD
from kd.types import IGNORE, Outputs, Sizes


def kd(setting: Setting) -> Case:
    """On logits."""
    return Case(usual.kd, term(KD(*sizes_of(setting)).to(setting.device), "kl"))


def at(setting: Setting) -> Case:
    """On embeddings."""
    return Case(usual.at, term(AT(*sizes_of(setting)), "attention"))


def attnfd(setting: Setting) -> Case:
    """On embeddings, through the same layers."""
    method = AttnFD(*sizes_of(setting), taps=("embedding",)).to(setting.device)
    (layers,) = method.refinements
    assert isinstance(layers, Refinement)
    return Case(
        lambda mine, its, _: usual.attnfd(usual.embedding(mine), usual.embedding(its), layers), term(method, "attention")
    )


def afdcd(setting: Setting) -> Case:
    """Both terms, through the same projector, without the mask, which is drawn; 16 groups, fewer of small widths."""
    width = setting.widths[1]
    method = AfDCD(*sizes_of(setting), groups=gcd(16, width), mask="none").to(setting.device)

    def plain(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        del target
        its = usual.embedding(teacher).detach()
        made = method.projector(method.align(usual.embedding(student)))
        return F.mse_loss(made, its, reduction="sum") / len(its) + usual.afdcd(made, its, gcd(16, width), 4)

    return Case(plain, term(method, "feature", "contrast"))


def afdcd_contrast(setting: Setting) -> Case:
    """The contrast alone and not pooled, on embeddings of the teacher's width (the student's, narrower, are repeated)."""
    groups = gcd(16, setting.widths[1])

    def ours(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        del target
        mine, its = (parts(maps, (4, 4), groups) for maps in (_wide(student, setting), usual.embedding(teacher)))
        return contrast(mine, its, groups, 0.07) / (len(mine) * 16)

    return Case(lambda mine, its, _: usual.afdcd(_wide(mine, setting), usual.embedding(its), groups, 1), ours)


def fitnet(setting: Setting) -> Case:
    """On embeddings, through the same projection."""
    method = FitNet(*sizes_of(setting)).to(setting.device)
    return Case(
        lambda mine, its, _: F.mse_loss(method.projection(usual.embedding(mine)), usual.embedding(its).detach()),
        term(method, "hint"),
    )


def dist(setting: Setting) -> Case:
    """On logits, both terms."""
    return Case(usual.dist, term(DIST(*sizes_of(setting), aux=False), "inter", "intra"))


def cwd_logits(setting: Setting) -> Case:
    """At temperature 4."""
    return Case(lambda mine, its, _: usual.cwd(mine.logits, its.logits), term(CWD(*sizes_of(setting)), "logit"))


def cwd_features(setting: Setting) -> Case:
    """At temperature 4, through the same projection."""
    method = CWD(*sizes_of(setting), maps=("embedding",)).to(setting.device)
    project = method.projection
    assert project is not None
    return Case(lambda mine, its, _: usual.cwd(project(usual.embedding(mine)), usual.embedding(its)), term(method, "feature"))


def skd(setting: Setting) -> Case:
    """The pairs, of windows of 2 x 2."""
    return Case(usual.skd, term(SKD(*sizes_of(setting), adversary=None), "pair"))


def ifvd(setting: Setting) -> Case:
    """The variation."""
    return Case(usual.ifvd, term(IFVD(*sizes_of(setting), adversary=None), "variation"))


def maskd(setting: Setting) -> Case:
    """On logits, by tokens at random."""
    return _masked(setting, setting.classes, lambda outputs: outputs)


def maskd_features(setting: Setting) -> Case:
    """On embeddings of the teacher's width (the student's, narrower, are repeated), by tokens at random."""
    return _masked(setting, setting.widths[1], lambda outputs: Outputs(_wide(outputs, setting)))


def _wide(outputs: Outputs, setting: Setting) -> Tensor:
    maps, width = usual.embedding(outputs), setting.widths[1]
    return maps.repeat(1, -(-width // maps.shape[1]), 1, 1)[:, :width]


def _masked(setting: Setting, channels: int, maps: Callable[[Outputs], Outputs]) -> Case:
    sizes = Sizes(channels, setting.stride, 0, False)
    method = MasKD(sizes, sizes, aux=False).to(setting.device)
    method.enter(DISTIL)
    tokens, ours = method.tokens.values, term(method, "mask")
    return Case(
        lambda mine, its, _: usual.maskd(maps(mine).logits, maps(its).logits, tokens),
        lambda mine, its, target: ours(maps(mine), maps(its), target),
    )


def cirkd_pairs(setting: Setting) -> Case:
    """Between all images of the batch."""
    del setting

    def ours(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
        mine, its = (unit(usual.embedding(of)) for of in (student, teacher))
        return mini_batch(mine, its, 0.1, len(target))

    return Case(usual.cirkd_pairs, ours)


def cirkd_memory(setting: Setting) -> Case:
    """Against the pixels and regions that a step draws from the memory, of the student's width."""
    width = setting.widths[0]
    drawn = [4096 // setting.classes + 1, 1024 // setting.classes + 1]
    source = torch.Generator().manual_seed(3)
    memory = [F.normalize(torch.randn(setting.classes * n, width, generator=source), dim=1).to(setting.device) for n in drawn]

    def summed(way: Callable[..., Tensor]) -> Way:
        def look(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
            mine, its = (unit(usual.embedding(of)[:, :width]) for of in (student, teacher))
            anchors = labels_at(target, student.logits).flatten(1) != IGNORE
            return torch.stack([way(mine, its.detach(), negatives, anchors, 0.1) for negatives in memory]).sum()

        return look

    return Case(summed(usual.cirkd_memory), summed(memory_term))


CASES = {
    "KD, logits": kd,
    "DIST, logits": dist,
    "CWD, logits": cwd_logits,
    "CWD, features": cwd_features,
    "SKD, pairs": skd,
    "IFVD": ifvd,
    "CIRKD, pairs": cirkd_pairs,
    "CIRKD, memory": cirkd_memory,
    "MasKD, logits": maskd,
    "MasKD, features": maskd_features,
    "AT": at,
    "FitNet": fitnet,
    "AttnFD": attnfd,
    "Af-DCD": afdcd,
    "Af-DCD, contrast": afdcd_contrast,
    **relations.CASES,
}


def enqueue(setting: Setting) -> tuple[usual.UsualBanks, CIRKD]:
    """Empty memories of the teacher's width."""
    slots = (2000, 500)
    sizes = sizes_of(setting)
    method = CIRKD(*sizes, pixel_slots=slots[0], region_slots=slots[1]).to(setting.device)
    return usual.UsualBanks(setting.classes, slots, setting.widths[1]), method


def _enqueue(setting: Setting) -> Ways:
    banks, method = enqueue(setting)
    teacher, step = random_outputs(setting, setting.widths[1], 1), count()
    embedding, labels = unit(usual.embedding(teacher).detach()), labels_at(random_target(setting), teacher.logits).flatten(1)
    return {
        "usual": lambda: banks.write(embedding, labels),
        "ours": lambda: method.remember(embedding, labels, (0, next(step))),
    }


def _ways(make: Callable[[Setting], Case], setting: Setting) -> Ways:
    student, teacher = (random_outputs(setting, width, seed) for seed, width in enumerate(setting.widths))
    target = random_target(setting)

    def step(way: Way) -> None:
        student.logits.grad = usual.embedding(student).grad = None
        with checked_labels():  # as in a run, whose loader has looked at them
            way(student, teacher, target).backward()

    return {name: partial(step, way) for name, way in make(setting)._asdict().items()}


COMPARISONS = {title: Comparison(partial(_ways, make)) for title, make in CASES.items()}
COMPARISONS["CIRKD, enqueue"] = Comparison(_enqueue)
