"""A look at a folder of images and masks: all that a recipe has to say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.config import InputError, validate
from kd.data import band_files
from kd.data.audit.ranges import Measured, measure
from kd.data.bands import RGB
from kd.data.folder import Folder
from kd.data.folder_layout import Layout
from kd.data.headers import DECODING, BrokenFileError, opened, orientation
from kd.data.presence import Shower
from kd.data.split_names import SPLIT, purpose
from kd.data.survey.coding import Coding, look, understood, without_void
from kd.data.survey.names import KNOWN, coloured, numbered
from kd.data.survey.places import Places, find

LISTS = ("ImageSets/Segmentation", "ImageSets", "splits", "split", "lists")
"""Folders of list files beside the images."""
MASKS_READ = 1000
"""Where there are more, these are spread over all."""


@dataclass(frozen=True)
class Survey:
    """What was seen. ``splits`` counts the pairs; ``sizes`` are height and width of the images of train; ``lists`` are list
    files that are not where a data set looks by itself. ``bands`` tell of images that are not RGB of 8 bits."""

    root: Path
    places: Places
    coding: Coding
    splits: Mapping[str, int]
    cut: bool
    sizes: Sequence[tuple[int, int]]
    lists: Mapping[str, str]
    bands: Measured | None = None


def survey(root: Path, given: Mapping[str, Any], show: Shower, ignore: Sequence[int] | None = None) -> Survey:
    """Look at a folder. ``given`` are keys of the data set's configuration that the user has set, ``ignore`` mask values that
    mean no label.

    Raises:
        InputError: no images and masks pair up, or masks hold no classes.
    """
    if not root.is_dir():
        raise InputError(f"{root}: is no directory; give the folder that holds images and masks")
    places = find(root) if not {"images", "masks"} <= given.keys() else Places(given["images"], given["masks"], "", 0)
    data = {"images": places.images, "masks": places.masks, "mask_suffix": places.suffix, "orphans": "skip", **given}
    if SPLIT not in str(data["images"]) and (lists := listed(root)):
        data["lists"] = lists
    config = validate(Folder.Config, {"name": "folder", "root": str(root), "classes": ["any"], **data}, "data")
    layout = Layout(config, root)
    pairs = {split: layout.pairs(split) for split in layout.splits}
    masks = _spread([pair.mask for found in pairs.values() for pair in found])
    seen = look(show(masks, "looking at masks"))
    named_colours, whose = coloured(root, seen.colours)
    try:
        coding = understood(seen, numbered(root), named_colours, ignore)
    except InputError as error:
        raise InputError(f"{root / config.masks}: {error}") from None
    if any(one.colour in named_colours for one in coding.classes):
        coding.words += f", named as in {whose}"
        without_void(coding, black=whose in KNOWN and (0, 0, 0) not in named_colours)
    images = [pair.image for pair in pairs.get("train", [])]
    bands = _bands(config, images[0]) if images else None
    channels = bands.channels if bands else 3
    sizes = [size for path in show(images, "looking at images") if (size := _size(path, channels))]
    named = places._replace(images=config.images, masks=config.masks, suffix=config.mask_suffix)
    counts = {split: len(found) for split, found in pairs.items()}
    return Survey(root, named, coding, counts, bool(layout.portions), sizes, config.lists, bands)


def listed(root: Path) -> dict[str, str]:
    """Split to list file, where a folder such as ImageSets/Segmentation holds train.txt and its like."""
    for place in LISTS:
        files = [file for file in sorted((root / place).glob("*.txt")) if purpose(file.stem) == file.stem]
        found = {file.stem: f"{place}/{file.name}" for file in files}
        if "train" in found:
            return found
    return {}


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most ``MASKS_READ`` of them, from first to last."""
    count = min(len(paths), MASKS_READ)
    return [paths[place * len(paths) // count] for place in range(count)]


def _bands(config: Any, first: Path) -> Measured | None:
    """What images hold of which the first is not read as RGB of 8 bits."""
    try:
        band_files.read(first, RGB)
    except BrokenFileError:
        return measure(Folder(config, "train"))
    return None


def _size(path: Path, channels: int) -> tuple[int, int] | None:
    """Height and width as a viewer shows the picture."""
    try:
        with opened(path) as image:
            return image.size if orientation(image) >= 5 else (image.height, image.width)
    except (BrokenFileError, *DECODING):
        return band_files.size(path, channels)
