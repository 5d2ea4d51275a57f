"""Where an exception comes from, in one line: for errors in code that is not ours."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

HOUSE = Path(__file__).parent.parent
OURS = tuple(str(HOUSE / room) for room in ("kd", "students", "teachers"))
OTHERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
LONGEST = 300


def blame(error: BaseException) -> str:
    """Type, message, and the last line that ran in the user's own file: ``KeyError: 'x' (my_methods.py:17)``.

    Where none of the user's lines is involved it is the last one of this package, else the last one.
    """
    text = " ".join(str(error).split())
    told = f"{type(error).__name__}: {text[:LONGEST]}{'...' if len(text) > LONGEST else ''}".removesuffix(": ")
    if isinstance(error, SyntaxError):  # names file and line itself
        return told
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    ours = [frame for frame in frames if _below(frame.filename, OURS)]
    theirs = [frame for frame in frames if frame not in ours and not _below(frame.filename, OTHERS)]
    frame = next((found[-1] for found in (theirs, ours, frames) if found), None)
    return f"{told} ({_short(frame.filename)}:{frame.lineno})" if frame else told


def _below(file: str, folders: tuple[str, ...]) -> bool:
    return file.startswith(tuple(f"{folder}/" for folder in folders))


def _short(file: str) -> str:
    path = Path(file)
    folder = next((folder for folder in (Path.cwd(), HOUSE) if path.is_relative_to(folder)), None)
    return str(path.relative_to(folder)) if folder else file
