"""The ``kd`` command in a process of its own."""

from __future__ import annotations

import sys

PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from kd.commands.main import main; sys.exit(main())"


def kd(*words: str) -> list[str]:
    """The command line that runs ``kd`` by this very Python, wherever the console command is.

    ``python -m kd`` would put the current folder first on the path, where a folder called ``students`` could hide ours.
    """
    return [sys.executable, "-c", PROGRAM, *words]
