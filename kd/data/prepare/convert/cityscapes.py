"""Needed: leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), or a folder that holds them or their
content. Where: the download page of the Cityscapes Dataset's site, after registration. Only images and label ids are taken.
To learn from images without labels, too: leftImg8bit_trainextra.zip (44 GB).
A folder that already holds leftImg8bit and gtFine needs no preparation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kd.config import InputError
from kd.data.cityscapes import IMAGE, IMAGES, LABEL, Cityscapes
from kd.data.prepare.archives import Member, grouped
from kd.data.prepare.plan import Job, Plan

CITY = r"([a-z][a-z-]*)/(\2_\d+_\d+)"
PHOTO = re.compile(rf"(?:^|.*/)leftImg8bit/(train|val|test|train_extra)/{CITY}{IMAGE}\.(?i:png)")
LABELS = re.compile(rf"(?:^|.*/)gtFine/(train|val)/{CITY}{LABEL}\.(?i:png)")


def plan(members: Sequence[Member]) -> Plan:
    """Images of all splits that are given, labels of train and val.

    Raises:
        InputError: images and labels do not pair up.
    """
    images, labels = grouped(members, PHOTO), grouped(members, LABELS)
    paired = {key for key in images if key[0] in Cityscapes.splits}
    for present, other, what in ((paired, set(labels), "label map"), (set(labels), paired, "image")):
        lonely = sorted(present - other)
        if lonely:
            raise InputError(
                f"{len(lonely)} files have no {what}, first {'/'.join(lonely[0])}; give both leftImg8bit_trainvaltest.zip and "
                "gtFine_trainvaltest.zip, complete"
            )
    splits = [split for split, _, _ in images]
    given = [split for split in IMAGES if split in splits or split != "train_extra"]
    counts = {f"{split} images": (splits.count(split), IMAGES[split]) for split in given}
    jobs = [*_jobs(images, "leftImg8bit", IMAGE), *_jobs(labels, "gtFine", LABEL)]
    return Plan(jobs, counts=counts, checks=[({}, tuple(split for split in IMAGES if split in splits))])


def _jobs(found: dict[tuple[str, ...], Member], top: str, suffix: str) -> list[Job]:
    return [Job(f"{top}/{split}/{city}/{name}{suffix}.png", member) for (split, city, name), member in found.items()]
