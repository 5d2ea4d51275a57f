"""A data set that is read from a store."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from kd.config import ConfigError
from kd.data.bands import Bands
from kd.data.dataset import Dataset, Files
from kd.data.headers import BrokenFileError
from kd.data.lazy_torchvision import functional
from kd.data.store.place import NOTE, differences, sample_file
from kd.files import at_home

HEADER = struct.Struct("<8sII")
"""Magic word, height, width; behind it the image, ``H W C``, a byte or a float32 each, and the labels, ``H W``, a byte each."""
TAIL = struct.Struct("<I")
"""CRC-32 of all before; stores were once written without."""
MAGIC = b"kd-pixel"


class Stored(Dataset):
    """The samples of ``data``, mapped into memory: what is not looked at is not read from the disk.

    The tensors share the store's pages, privately: writing to them changes no file.
    """

    def __init__(self, data: Dataset, paths: Sequence[Path]) -> None:
        self.data, self.paths = data, list(paths)
        self.sound: set[int] = set()
        self.classes, self.colours, self.channels = data.classes, data.colours, data.channels

    @property
    def bands(self) -> Bands:
        """As the data set says."""
        return self.data.bands

    def __len__(self) -> int:
        return len(self.data)

    def identity(self, index: int) -> str:
        """As the data set calls it."""
        return self.data.identity(index)

    def files(self, index: int) -> Files:
        """What it was read from."""
        return self.data.files(index)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Image ``C H W``, uint8 or float32, the channels of a pixel side by side, and labels uint8 ``H W``.

        Raises:
            BrokenFileError: the stored file is missing or damaged.
        """
        path = self.paths[index]
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            magic, height, width = HEADER.unpack_from(content)
        except (OSError, ValueError, struct.error) as error:
            raise _broken(path, str(error)) from None
        deep = pixel_bytes(self.bands)
        end = HEADER.size + deep * height * width
        if magic != MAGIC or len(content) not in (end, end + TAIL.size):
            raise _broken(path, "it is no whole sample")
        if index not in self.sound and not _is_sound(content, end):
            raise _broken(path, "it does not hold what was written there")
        self.sound.add(index)  # once a process: afterwards what is not looked at is not read
        pixels = torch.frombuffer(content, dtype=torch.uint8, offset=HEADER.size, count=deep * height * width)
        image, labels = pixels.split([(deep - 1) * height * width, height * width])
        image = image if self.bands.range is None else image.view(torch.float32)
        return image.view(height, width, self.channels).permute(2, 0, 1), labels.view(height, width)


def _is_sound(content: mmap.mmap, end: int) -> bool:
    return len(content) == end or zlib.crc32(memoryview(content)[:end]) == TAIL.unpack_from(content, end)[0]


def pixel_bytes(bands: Bands) -> int:
    """What a pixel takes with its label."""
    return bands.channels * (1 if bands.range is None else 4) + 1


def _broken(path: Path, problem: str) -> BrokenFileError:
    return BrokenFileError(f"{path}: cannot be read ({problem}); remove it and let `kd prepare RECIPE --store` write it again")


def write_sample(path: Path, image: Tensor, labels: Tensor) -> None:
    """What :meth:`Stored.read` reads."""
    with path.open("wb") as file:
        found, head = 0, HEADER.pack(MAGIC, *labels.shape)
        for part in (head, image.permute(1, 2, 0).contiguous().numpy().data, labels.contiguous().numpy().data):
            found = zlib.crc32(part, found)
            file.write(part)
        file.write(TAIL.pack(found))


def is_whole(path: Path, bands: Bands) -> bool:
    """Whether a sample is there, and as long as its header says."""
    try:
        with path.open("rb") as file:
            magic, height, width = HEADER.unpack(file.read(HEADER.size))
        return magic == MAGIC and path.stat().st_size == HEADER.size + pixel_bytes(bands) * height * width + TAIL.size
    except (OSError, struct.error):
        return False


def from_store(data: Dataset, config: Any, split: str) -> Dataset:
    """The split as ``config.store`` has it; ``data`` itself where the store has no such split.

    Raises:
        ConfigError: there is no store, it is of other data, incomplete, or stale.
    """
    folder = at_home(config.store)
    again = (
        f"`kd prepare RECIPE --store {quote(str(folder))}` writes what is missing; data.store=null reads the files themselves"
    )
    if not (folder / NOTE).is_file():
        raise ConfigError(f"data.store: {folder} holds no store; {again}")
    if different := differences(folder, config):
        raise ConfigError(f"data.store: {folder} is of other data ({different}); store this data elsewhere, or data.store=null")
    if not (folder / split).is_dir():
        return data
    there = {path.name for path in (folder / split).iterdir()}
    paths = [sample_file(folder, split, data, index) for index in range(len(data))]
    if missing := [index for index, path in enumerate(paths) if path.name not in there]:
        raise ConfigError(
            f"data.store: {folder}: {len(missing)} of {len(data)} samples of {split} are not stored, or their files have "
            f"changed since, first {data.identity(missing[0])}; {again}"
        )
    functional()  # so that files are decoded as in training
    stored = Stored(data, paths)
    if not all(torch.equal(*pair) for pair in zip(stored.read(0), data.read(0), strict=True)):
        raise ConfigError(
            f"data.store: {folder} is stale: {data.identity(0)} is read otherwise today; remove the folder, then {again}"
        )
    return stored
