"""Fill a store: each sample is written whole or not at all, and the same call goes on where it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kd.config import ConfigError, InputError
from kd.data import band_files
from kd.data.band_files import ARRAYS
from kd.data.build import named_splits, open_images
from kd.data.dataset import Dataset
from kd.data.headers import opened
from kd.data.lazy_torchvision import functional
from kd.data.store.place import NOTE, description, differences, sample_file
from kd.data.store.stored import HEADER, is_whole, pixel_bytes, write_sample
from kd.files import FULL, write_whole
from kd.sealed import write_sealed

Shower = Callable[[Any, str], Iterable[Any]]
"""Wraps a sized iterable, and a title, with a progress bar."""
RESERVE = 1.02
"""File systems need a little more than the bytes."""


class Job(NamedTuple):
    """A sample to be stored."""

    data: Dataset
    number: int
    path: Path


def store(
    config: Any, folder: Path, splits: Sequence[str] = (), *, workers: int = 0, dry: bool = False, show: Shower | None = None
) -> list[str]:
    """Store splits of a data set (default: all that it names). Returns lines on what was (``dry``: would be) done.

    Args:
        config: of the data set, as in a recipe.
        folder: of the store; its own, or new.
        workers: processes that decode.
        show: draws progress.

    Raises:
        InputError: the folder holds something else, a file cannot be read, or the disk is too small.
    """
    if "store" not in type(config).model_fields:
        raise ConfigError(f"data: {config.name} reads no files, so there is nothing to store")
    config = config.model_copy(update={"store": None})
    _check_folder(folder, config)
    jobs: list[Job] = []
    report: list[str] = []
    for split in splits or named_splits(config):
        data = open_images(config, split)
        wanted = [Job(data, index, sample_file(folder, split, data, index)) for index in range(len(data))]
        todo = [job for job in wanted if not is_whole(job.path, data.bands)]
        report.append(f"{split}: {len(wanted)} samples, {len(wanted) - len(todo)} of them stored before")
        jobs += todo
        if not dry:
            _tidy(folder / split, wanted)
    needed = sum(_room(job, config) for job in (jobs if show is None else show(jobs, "measuring")))
    free = shutil.disk_usage(next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())).free
    report.append(f"to write: {_gb(needed)}; free: {_gb(free)}")
    if needed * RESERVE > free:
        raise InputError(f"{folder}: needs {_gb(needed * RESERVE)}, {_gb(free)} are free; make room or choose another disk")
    if dry:
        return [*report, "nothing was written (dry run)"]
    write_sealed(folder / NOTE, description(config))
    _write(jobs, folder, workers, show)
    return [*report, f"ready: data.store={folder}"]


def _check_folder(folder: Path, config: Any) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / NOTE).is_file()):
        raise InputError(f"{folder}: is no store; give --store a new folder, or an empty one")
    if (folder / NOTE).is_file() and (different := differences(folder, config)):
        raise InputError(
            f"{folder}: holds a store of other data ({different}); give --store another folder, or remove this one"
        )


def _tidy(folder: Path, wanted: Sequence[Job]) -> None:
    """Remove what no sample is any more, such as those of files that have changed since."""
    names = {job.path.name for job in wanted}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in names:
            path.unlink()


def _room(job: Job, config: Any) -> int:
    """Bytes of a stored sample, asked of the image's header."""
    deep, bands = pixel_bytes(job.data.bands), job.data.bands
    if size := getattr(config, "resize", None):
        return HEADER.size + deep * size[0] * size[1]
    path = job.data.files(job.number).image
    if path is None:
        return 0
    if (not bands.plain or path.suffix.lower() in ARRAYS) and (found := band_files.size(path, bands.channels)):
        return HEADER.size + deep * found[0] * found[1]
    with opened(path) as image:
        return HEADER.size + deep * image.height * image.width


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


class _Writing(TorchDataset[str]):
    """Stores a sample in the process that decodes it; an error's text, or ""."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> str:
        job = self.jobs[index]
        try:
            image, labels = job.data.read(job.number)
            write_whole(job.path, partial(write_sample, image=image, labels=labels))
        except InputError as error:
            return str(error)
        except OSError as error:
            if error.errno in FULL:
                return f"{job.path.parent}: the disk is full; make room, then the same command goes on"
            return f"{error.filename}: {error.strerror}"
        return ""


def _write(jobs: Sequence[Job], folder: Path, workers: int, show: Shower | None) -> None:
    functional()  # before workers fork, and so that files are decoded as in training
    loader: Any = DataLoader(_Writing(jobs), batch_size=None, num_workers=workers, worker_init_fn=_one_thread)
    for problem in loader if show is None else show(loader, f"writing {folder}"):
        if problem:
            raise InputError(problem)


def _one_thread(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)
