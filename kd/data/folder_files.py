"""Images and masks of a researcher's folder: found, paired by name, or read from a list file."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kd.config import ConfigError
from kd.data.band_files import ARRAYS
from kd.data.reading import SUFFIXES
from kd.files import is_file

LONGEST = 4096
"""Characters of a path that a file may have; longer lines of a list are not worth looking for."""


class Pair(NamedTuple):
    """An image, its mask, and their name: the path below the folder of images, without suffix."""

    name: str
    image: Path
    mask: Path


class Strays(NamedTuple):
    """Images without a mask, and masks without an image."""

    images: list[Path]
    masks: list[Path]


def stem(name: str) -> str:
    """A path without its picture suffix; dots elsewhere stay. Unicode is composed: file systems spell accents differently."""
    head, dot, tail = name.rpartition(".")
    return unicodedata.normalize("NFC", head if f"{dot}{tail}".lower() in (*SUFFIXES, *ARRAYS) else name)


def pictures(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> Iterator[Path]:
    """All pictures below a folder, linked folders included, but no link that leads back up; hidden files and what archives of
    macOS leave behind are none."""
    for base, folders, names in os.walk(folder, followlinks=True):
        here = Path(base).resolve()
        inner = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        folders[:] = [name for name in inner if not here.is_relative_to((here / name).resolve())]
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield Path(base) / name


def index(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> dict[str, Path]:
    """The pictures below a folder, by their path in it without suffix.

    Raises:
        ConfigError: two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in pictures(folder, suffixes):
        key = stem(path.relative_to(folder).as_posix())
        if key in found:
            raise ConfigError(
                f"{folder}: holds {found[key].name} and {path.name}, two pictures of one stem; which one is meant cannot be "
                "told, so remove or rename one"
            )
        found[key] = path
    return found


def indices(images: Path, masks: Path, suffix: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks by the image's stem: masks are what ends in ``suffix``. It also tells them apart in a common folder.
    Where no picture is an image, arrays are.

    Raises:
        ConfigError: two files have one stem, or one folder holds both and there is no suffix.
    """
    photos, labels = index(images), index(masks)
    if images.resolve() == masks.resolve():
        if not suffix:
            raise ConfigError(
                f"{images}: is the folder of images and of masks; set data.mask_suffix (e.g. _mask) to tell them apart, or "
                "data.images and data.masks to two folders"
            )
        photos = {key: path for key, path in photos.items() if not key.endswith(suffix)}
    photos = photos or index(images, ARRAYS)
    return photos, {key.removesuffix(suffix): path for key, path in labels.items() if key.endswith(suffix)}


def matched(photos: dict[str, Path], labels: dict[str, Path]) -> tuple[list[Pair], Strays]:
    """Pairs by stem, sorted, and what has no partner."""
    pairs = [Pair(key, photos[key], labels[key]) for key in sorted(photos) if key in labels]
    lonely = [photos[key] for key in sorted(photos) if key not in labels]
    return pairs, Strays(lonely, [labels[key] for key in sorted(labels) if key not in photos])


class ListFile:
    """A list file: one image name a line, or an image and its mask separated by blanks or a tab.

    A name is a path below the folder of images (with or without suffix), below the root, or absolute. Blank lines, a byte
    order mark, foreign line ends and blanks around a line are forgiven; names may hold blanks.
    """

    def __init__(self, file: Path, root: Path, images: Path, masks: Path, suffix: str) -> None:
        self.file, self.root, self.folders = file, root, (images, masks)
        self.photos, self.labels = indices(images, masks, suffix)

    def lines(self) -> list[str]:
        """What is written, each line once.

        Raises:
            ConfigError: the file is missing, no text, or empty.
        """
        try:
            text = self.file.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{self.file}: cannot be read ({error.strerror}); correct data.lists or the file") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.file}: is no UTF-8 text; save it as UTF-8, one image name a line") from None
        lines = list(dict.fromkeys(line.strip().replace("\\", "/") for line in text.splitlines() if line.strip()))
        if not lines:
            raise ConfigError(f"{self.file}: is empty; it must hold one image name a line, or an image and its mask")
        return lines

    def pairs(self) -> tuple[list[Pair], Strays]:
        """The pairs in the list's order, and the listed images that have no mask.

        Raises:
            ConfigError: a line names no image.
        """
        found = [(line, self._read(line)) for line in self.lines()]
        lost = [line for line, entry in found if entry is None]
        if lost:
            raise ConfigError(
                f"{self.file}: {len(lost)} of {len(found)} lines name no image (or an image and no mask beside it), first "
                f"'{lost[0]}'; names are looked for in {self.folders[0]} and {self.root}. Correct the list, data.images or "
                "data.masks"
            )
        entries = [entry for _, entry in found if entry is not None]
        pairs = [Pair(self._name(image), image, mask) for image, mask in entries if mask is not None]
        return pairs, Strays([image for image, mask in entries if mask is None], [])

    def _read(self, line: str) -> tuple[Path, Path | None] | None:
        """Image and mask of a line. Blanks may belong to names, so every cut is tried that gives two files."""
        image = self._find(line, 0)
        if image is not None:
            return image, self.labels.get(self._name(image))
        separator = r"\s*\t\s*" if "\t" in line else r"\s+"
        for blank in re.finditer(separator, line):
            image, mask = self._find(line[: blank.start()], 0), self._find(line[blank.end() :], 1)
            if image is not None and mask is not None:
                return image, mask
        return None

    def _find(self, name: str, kind: int) -> Path | None:
        """The file of a name; ``kind`` 0 for images, 1 for masks."""
        if len(name) > LONGEST:
            return None
        known = self.labels if kind else self.photos
        for key in (stem(name), stem(name.lstrip("/"))):
            if key in known:
                return known[key]
        options = (self.folders[kind] / name, self.root / name, self.root / name.lstrip("/"))
        kinds = SUFFIXES if kind else (*SUFFIXES, *ARRAYS)
        return next((path for path in options if path.suffix.lower() in kinds and is_file(path)), None)

    def _name(self, image: Path) -> str:
        """The path below the folder of images, or below the root, without suffix."""
        for folder in (self.folders[0], self.root):
            if image.is_relative_to(folder):
                return stem(image.relative_to(folder).as_posix())
        return stem(image.as_posix().lstrip("/"))
