"""Files that are whole or not there, and their names."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kd.config import InputError


def grouped(lines: Iterable[str], what: str) -> list[str]:
    """Lines ``FILE: cause`` by their cause: ``12 images: cause; first: FILE``. One whose cause no other has stays as it is.

    Causes that differ only in that they quote their own file are one.
    """
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, cause = line.partition(": ")
        found.setdefault(cause.replace(f" '{name}'", ""), []).append(line)
    firsts = {cause: some[0] for cause, some in found.items()}
    return [
        first if len(found[cause]) == 1 else f"{len(found[cause])} {what}: {cause}; first: {first.partition(': ')[0]}"
        for cause, first in firsts.items()
    ]


def at_home(path: str | Path) -> Path:
    """With ``~`` written out, where it means a home that there is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's raises where there is no such user)


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; no also where none can be called so."""
    return os.path.isfile(path)  # noqa: PTH113 (pathlib's raises where a name is too long)


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder, likewise."""
    return os.path.isdir(path)  # noqa: PTH112


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a file beside ``path``, then give it its name. Missing folders are made. Returns ``path``.

    A link stays one, and what is no regular file, such as ``/dev/stdout``, is written to instead of replaced.

    Raises:
        OSError: with the file's name, also where the disk is full.
    """
    if path.is_symlink() and path.is_file():
        path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):
        write(path)
        return path
    partial = path.with_name(f".{path.name}.partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            return partial.replace(path)
        except BaseException as error:
            full = _is_full(path.parent, error)
            with suppress(OSError):
                partial.unlink(missing_ok=True)  # what is of no use must not keep the disk full
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            raise


def leads_out(folder: Path) -> Path | None:
    """A link directly in a folder by which what is written there would land elsewhere."""
    inside = folder.resolve()
    links = (path for path in sorted(folder.iterdir()) if path.is_symlink())
    return next((path for path in links if not path.resolve().is_relative_to(inside)), None)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within the block errors of the system are of ``path``, whatever file, or none, they name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _is_full(folder: Path, error: BaseException) -> bool:
    """Whether a writer has failed since the disk is full, in whatever words its library says so."""
    if isinstance(error, OSError):
        return error.errno in FULL
    if isinstance(error, (KeyboardInterrupt, SystemExit)) or not folder.is_dir():
        return False
    return "No space left" in str(error) or shutil.disk_usage(folder).free < NOTHING


FULL = (errno.ENOSPC, errno.EDQUOT)
NOTHING = 2**16
"""Bytes; of a full disk hardly so many are left, beside what was written last."""


DEEPEST = 64
"""Levels of a JSON text; what is written here has less than ten."""


def parsed(text: str | bytes) -> Any:
    """The values of a JSON text.

    Raises:
        ValueError: it is none, or nested so deeply that it can only be meant to do harm.
    """
    opened = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    try:
        value = json.loads(text)
        if sum(map(text.count, opened)) > DEEPEST:  # type: ignore[arg-type]
            _measure(value, DEEPEST)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    return value


def _measure(value: Any, left: int) -> None:
    if left == 0:
        raise RecursionError
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _measure(inner, left - 1)


def read_json(path: Path) -> Any:
    """What :func:`write_json` wrote.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); restore it, or move the directory away and run anew") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON aside, then rename."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text aside, then rename."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def file_name(text: str) -> str:
    """A text as part of a directory's name."""
    return re.sub(r"[^A-Za-z0-9_.=+@-]+", "_", text).strip("_")
