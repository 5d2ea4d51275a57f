"""Needed: VOCtrainval_11-May-2012.tar (2 GB), and for train_aug SBD: benchmark.tgz (1.4 GB, needs scipy: pip install
'segmentation-kd[sbd]'), or label maps that others converted of it, an archive or folder SegmentationClassAug. Where: the site
of PASCAL VOC 2012 (development kit); the Semantic Boundaries Dataset's site (Berkeley). Only what segmentation needs is taken.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd.config import InputError
from kd.data.dataset import LabelError
from kd.data.list_files import stems
from kd.data.prepare.archives import Member, grouped
from kd.data.prepare.plan import Job, Plan
from kd.data.reading import BrokenFileError
from kd.data.voc import IMAGES, SUFFIXES, VOC
from kd.types import IGNORE

NAME = r"(\d{4}_\d{6})"
PATTERNS = {
    "image": re.compile(rf"(?:^|.*/)JPEGImages/{NAME}\.(?i:jpe?g)"),
    "label": re.compile(rf"(?:^|.*/)SegmentationClass/{NAME}\.(?i:png)"),
    "png": re.compile(rf"(?:^|.*/)SegmentationClassAug/{NAME}\.(?i:png)"),
    "mat": re.compile(rf"(?:^|.*/)cls/{NAME}\.mat"),
}
LISTS = "ImageSets/Segmentation"
LINE = (224, 224, 192)
"""What VOC paints ignored pixels with."""


def plan(members: Sequence[Member]) -> Plan:
    """VOC's images, labels and lists, and with SBD its labels and the list trainaug.

    Raises:
        InputError: VOC's lists, or files that they name, are missing, or scipy is.
    """
    lists = {split: _list(members, split) for split in ("train", "val")}
    found = {kind: {name: member for (name,), member in grouped(members, each).items()} for kind, each in PATTERNS.items()}
    sbd = {**found["mat"], **found["png"]}
    if found["mat"].keys() - found["png"].keys():
        _scipy()
    augmented = sorted((set(sbd) | set(lists["train"])) - set(lists["val"])) if sbd else []
    official = {*lists["train"], *lists["val"]}
    jobs = [
        *_jobs(found["image"], official | set(augmented), "JPEGImages", ".jpg"),
        *_jobs(found["label"], official, "SegmentationClass", ".png"),
        *_jobs(sbd, {*augmented, *lists["val"]} & set(sbd), "SegmentationClassAug", ".png"),
    ]
    names = {**lists, "trainaug": augmented} if sbd else lists
    texts = {f"{LISTS}/{split}.txt": "".join(f"{name}\n" for name in listed) for split, listed in names.items()}
    counts = {f"{split} images": (len(listed), IMAGES[split]) for split, listed in names.items()}
    checks: list[tuple[dict[str, Any], tuple[str, ...]]] = [({"train": "official"}, ("train", "val"))]
    if sbd:
        return Plan(jobs, texts, counts, [({"train": "aug"}, ("train",)), *checks])
    return Plan(
        jobs, texts, counts, checks, ["no SBD given: data.train=official only; recipes use train_aug, so add benchmark.tgz"]
    )


def _list(members: Sequence[Member], split: str) -> list[str]:
    pattern = re.compile(rf"(?:^|.*/){LISTS}/{split}\.txt")
    found = next((member for member in members if pattern.fullmatch(member.name)), None)
    names = stems(found.read().decode("utf-8-sig", "replace"), SUFFIXES) if found else []
    if not names:
        problem = "is empty" if found else "is missing"
        raise InputError(
            f"{LISTS}/{split}.txt {problem} in the sources; give VOCtrainval_11-May-2012.tar, or VOCdevkit as extracted"
        )
    return names


def _jobs(there: dict[str, Member], wanted: set[str], folder: str, suffix: str) -> list[Job]:
    """In the order of the archive, which a compressed one can be read in quickly."""
    missing = sorted(wanted - there.keys())
    if missing:
        raise InputError(
            f"{len(missing)} files of {folder} are missing in the sources, first {missing[0]}{suffix}; give the complete "
            "VOCtrainval_11-May-2012.tar"
        )
    return [
        Job(f"{folder}/{name}{suffix}", member, _painted if member.name.endswith(".mat") else None)
        for name, member in there.items()
        if name in wanted
    ]


def _painted(content: bytes, source: str) -> bytes:
    """The label map of an SBD file as a PNG with VOC's palette."""
    labels = _segmentation(content, source)
    wrong = labels[(labels >= len(VOC.classes)) & (labels != IGNORE)]
    if wrong.size:
        raise LabelError(f"{source}: {wrong.size} pixels hold label {wrong[0]}; SBD's are 0..{len(VOC.classes) - 1}")
    image = Image.fromarray(labels)
    palette = [*(part for colour in VOC.colours for part in colour), *[0] * (3 * (IGNORE - len(VOC.colours))), *LINE]
    image.putpalette(palette)
    written = BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def _segmentation(content: bytes, source: str) -> NDArray[np.uint8]:
    """The array ``GTcls.Segmentation``, ``H W``."""
    try:
        values = _scipy().loadmat(BytesIO(content))["GTcls"][0, 0]["Segmentation"]
        labels = np.asarray(values, np.uint8)
    except (KeyError, IndexError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise BrokenFileError(f"{source}: holds no array GTcls.Segmentation ({error}); fetch SBD again") from None
    if labels.ndim != 2:
        raise BrokenFileError(
            f"{source}: GTcls.Segmentation has {labels.ndim} axes; it must be height x width. Fetch SBD again"
        )
    return labels


def _scipy() -> Any:
    try:
        import scipy.io
    except ImportError:
        raise InputError(
            "reading SBD's .mat files needs scipy: pip install 'segmentation-kd[sbd]'; or give label maps that are already "
            "converted, a folder or archive SegmentationClassAug"
        ) from None
    return scipy.io
