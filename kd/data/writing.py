"""Files that are whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        return partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
