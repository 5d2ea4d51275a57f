"""Options of sbatch that a user gives: which are the user's, and what times mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kd.config import InputError

OURS = {"array", "comment", "dependency", "error", "kill-on-invalid-dep", "nodes", "ntasks", "ntasks-per-node", "open-mode"}
OURS |= {"output", "requeue", "signal"}


def words_of(given: Iterable[str]) -> dict[str, str]:
    """Options from ``KEY=VALUE`` words; the last of a key counts."""
    return dict(word.partition("=")[::2] for word in given)


def check_options(options: Mapping[str, str]) -> None:
    """Refuse options of sbatch's that follow from the sweep, or are none.

    Raises:
        InputError: naming it.
    """
    for key, value in options.items():
        if key in OURS:
            raise InputError(f"--sbatch {key}={value}: follows from the sweep; give none of {', '.join(sorted(OURS))}")
        if not re.fullmatch(r"[a-z][a-z-]*", key) or not value.isprintable() or not value:
            raise InputError(f"--sbatch {key}={value!r}: is KEY=VALUE, a long option of sbatch, e.g. --sbatch partition=gpu")
    minutes(options)


def minutes(options: Mapping[str, str]) -> int:
    """Of a job, by its option ``time``, in Slurm's way to write it: ``90``, ``4:00:00``, ``2-12``; a day without.

    Raises:
        InputError: it is none.
    """
    text = options.get("time", "1-0")
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise InputError(f"--sbatch time={text}: is no time; give minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS")
    days, *rest = (int(part or 0) for part in found.groups())
    hours, mins, seconds = rest if found[1] or found[4] else (0, *rest[:2])
    return max(1, (days * 24 + hours) * 60 + mins + -(-seconds // 60))
