"""Where a folder keeps its images and its masks: by the names of its folders, by partners of one name, at last by content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd.config import InputError
from kd.data.band_files import ARRAYS
from kd.data.folder_files import pictures, stem
from kd.data.headers import DECODING, BrokenFileError, is_lossy, opened
from kd.data.reading import SUFFIXES
from kd.data.split_names import SPLIT, SPLITS, spelled

IMAGES = "images image imgs img rgb photos photo pictures input inputs jpegimages leftimg8bit frames originals original"
MASKS = (
    "masks mask labels label annotations annotation annots annot gt gts groundtruth ground_truth segmentation segmentations "
    "segmentationclass targets target labelids seg"
)
WORDS = {"image": IMAGES.split(), "mask": MASKS.split()}
FEW_COLOURS = 64
"""A picture of more colours is no mask."""
LOOKED_AT = 3
"""Pictures of a folder whose content is looked at where names do not tell."""


class Places(NamedTuple):
    """Folders of images and masks below the root, ``{split}`` where splits have their own, and what masks have behind the
    image's stem; ``pairs`` counts the partners. ``others`` are further folders that pair up, and are not taken."""

    images: str
    masks: str
    suffix: str
    pairs: int
    others: tuple[str, ...] = ()


class Shelf(NamedTuple):
    """Pictures of one kind: what their folders' names say they are, and the path of each by its name below the folder."""

    kind: str
    files: dict[str, Path]


def find(root: Path) -> Places:
    """The images and masks of a folder.

    Raises:
        InputError: there are none that pair up; the message tells what is there.
    """
    for suffixes in (SUFFIXES, (*SUFFIXES, *ARRAYS)):
        shelves = _shelves(root, suffixes)
        found = [one for one in (_paired(*pair, shelves) for pair in _candidates(shelves)) if one.pairs]
        if found:
            break
    if not found:
        there = "; ".join(f"{name or '.'}: {len(shelf.files)}" for name, shelf in list(shelves.items())[:8]) or "none"
        raise InputError(
            f"{root}: holds no images and masks that pair up by name, such as images/7.jpg and masks/7.png, or 7_mask.png "
            f"(what stands before the image's name, mask_7.png, is not read: rename such); pictures found: {there}. Say where "
            "they are: kd init FOLDER --images DIR --masks DIR"
        )
    best = max(found, key=lambda one: (one.pairs, _clarity(one, shelves)))
    others = [one for one in found if not {one.images, one.masks} & {best.images, best.masks} and _clarity(one, shelves)[0]]
    return best._replace(others=tuple(f"{one.images}, {one.masks} ({one.pairs})" for one in others))


def _shelves(root: Path, suffixes: Sequence[str]) -> dict[str, Shelf]:
    """Pictures by the template of their folder."""
    found: dict[str, Shelf] = {}
    for path in pictures(root, suffixes):
        parts = path.relative_to(root).parts
        template, kind, depth, split = _template(parts[:-1])
        name = "/".join([split, *parts[depth:]])
        found.setdefault(template, Shelf(kind, {})).files[stem(name)] = path
    return found


def _template(folders: Sequence[str]) -> tuple[str, str, int, str]:
    """``train/images`` or ``images/train`` with ``{split}``, what its name says, how many folders it takes, and the split."""
    parts: list[str] = []
    kind = split = ""
    for depth, folder in enumerate(folders):
        told, found, of = _word(folder)
        if (kind and told) or (split and of) or not (told or of or not parts):
            return "/".join(parts), kind, depth, split
        parts.append(found)
        kind, split = kind or told, split or of
    return "/".join(parts), kind, len(folders), split


def _word(folder: str) -> tuple[str, str, str]:
    """What a folder's name says, the name with ``{split}`` in it, and the split that it names."""
    low, words = folder.lower(), spelled(" ".join(SPLITS.values()))
    for form in (rf"(?P<split>{words})[_-]?(?P<rest>.*)", rf"(?P<rest>.*?)[_-]?(?P<split>{words})"):
        match = re.fullmatch(form, low)
        if match and (not match["rest"] or _kind(match["rest"])):
            start, end = match.span("split")
            return _kind(match["rest"]), folder[:start] + SPLIT + folder[end:], folder[start:end]
    return _kind(low), folder, ""


def _kind(word: str) -> str:
    plain = word.replace("-", "_").strip("_")
    return next((kind for kind, words in WORDS.items() if plain in words), "")


def _candidates(shelves: dict[str, Shelf]) -> Iterator[tuple[str, str]]:
    """Pairs of templates that may be images and masks; one may be both, told apart by a suffix."""
    yield from ((name, name) for name in shelves)
    for images, masks in permutations(shelves, 2):
        same = (SPLIT in images) == (SPLIT in masks)
        if same and shelves[images].kind != "mask" and shelves[masks].kind != "image":
            yield images, masks


def _paired(images: str, masks: str, shelves: dict[str, Shelf]) -> Places:
    photos, labels = shelves[images].files, shelves[masks].files
    suffix = _suffix(photos, labels, images == masks)
    wanted = [f"{name}{suffix}" for name in photos if suffix or images != masks]
    return Places(images or ".", masks or ".", suffix, sum(name in labels for name in wanted))


def _suffix(photos: Iterable[str], labels: Iterable[str], together: bool) -> str:
    """What most masks carry behind the stem of an image."""
    known, endings = set(photos), Counter[str]()
    if not together and len(known & set(labels)) * 2 > len(known):
        return ""
    for name in labels:
        cuts = (match.start() for match in re.finditer(r"[_\-. ][^_\-. ]*", name))
        endings.update({name[cut:] for cut in cuts if name[:cut] in known})
    return endings.most_common(1)[0][0] if endings else ""


def _clarity(found: Places, shelves: dict[str, Shelf]) -> tuple[bool, bool]:
    """Which of two readings with as many pairs is right: the one by names, then the one whose masks look like masks."""
    images, masks = (shelves["" if name == "." else name] for name in found[:2])
    named = images.kind == "image" or masks.kind == "mask" or bool(_kind(found.suffix))
    labels = [path for name, path in masks.files.items() if name.endswith(found.suffix)]
    return named, all(map(_like_a_mask, labels[:LOOKED_AT]))


def _like_a_mask(path: Path) -> bool:
    try:
        with opened(path) as image:
            if is_lossy(path, image):
                return False
            pixels = np.array(image.convert("RGB"))
    except (BrokenFileError, *DECODING):
        return False
    return len(np.unique(pixels.reshape(-1, 3)[:: max(1, pixels.size // 300_000)], axis=0)) <= FEW_COLOURS
