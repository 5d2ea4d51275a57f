"""Needed: the training set of the DeepGlobe 2018 land cover track, 803 pairs ID_sat.jpg and ID_mask.png, as an archive
or a folder. Where: the DeepGlobe challenge's CodaLab page, or Kaggle's "DeepGlobe Land Cover Classification Dataset". The
images of its valid and test folders have no public masks and are left out. Written too: index maps that decode faster.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from kd.config import InputError
from kd.data.deepglobe import FOLDS, IMAGE, IMAGES, INDEX, MASK, decode
from kd.data.headers import FORMATS
from kd.data.prepare.archives import Member, grouped
from kd.data.prepare.plan import Job, Plan
from kd.data.reading import BrokenFileError

PHOTO = re.compile(rf"(?:^|.*/)(\d+){IMAGE}\.(?i:jpe?g)")
PAINTED = re.compile(rf"(?:^|.*/)(\d+){MASK}\.(?i:png)")


def plan(members: Sequence[Member]) -> Plan:
    """Pairs of image and mask, and an index map of each mask.

    Raises:
        InputError: a mask has no image.
    """
    images, masks = grouped(members, PHOTO), grouped(members, PAINTED)
    lonely = sorted(masks.keys() - images.keys())
    if lonely:
        raise InputError(f"{len(lonely)} masks have no image, first {masks[lonely[0]]}; is the source complete?")
    jobs = [Job(f"train/{number}{IMAGE}.jpg", member) for (number,), member in images.items() if (number,) in masks]
    for (number,), member in masks.items():
        jobs += [Job(f"train/{number}{MASK}.png", member), Job(f"train/{number}{INDEX}.png", member, _index)]
    if len(masks) < FOLDS:
        raise InputError(
            f"the source holds {len(masks)} pairs ID{IMAGE}.jpg and ID{MASK}.png; {FOLDS} folds need {FOLDS} or more"
        )
    return Plan(jobs, counts={"labelled images": (len(masks), IMAGES)}, checks=[({}, ("train", "val"))])


def _index(content: bytes, source: str) -> bytes:
    """A painted mask as an index PNG."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            colours = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenFileError(f"{source}: cannot be decoded ({error}); fetch this file again") from None
    written = BytesIO()
    Image.fromarray(decode(colours, source)).save(written, "PNG")
    return written.getvalue()
