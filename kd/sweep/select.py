"""Some points of a sweep, by name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence

from kd.config import ConfigError
from kd.sweep.points import Point


def chosen(points: Iterable[Point], names: Iterable[str]) -> list[Point]:
    """The named points and all that they need, in the same order."""
    known = {point.name: point for point in points}
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        wanted.add(name)
        waiting += known[name].needs
    return [point for name, point in known.items() if name in wanted]


def named(points: Iterable[Point], patterns: Sequence[str]) -> list[str]:
    """The names of the points that match, ``*`` and ``?`` as in file names; all without a pattern.

    Raises:
        ConfigError: a pattern matches none.
    """
    names = [point.name for point in points]
    found: dict[str, None] = {}
    for pattern in patterns or ["*"]:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            close = difflib.get_close_matches(pattern, names, n=1)
            raise ConfigError(f"no point matches '{pattern}'; the names are, e.g., {(close or names)[0]}; --dry-run lists them")
        found.update(dict.fromkeys(matching))
    return list(found)


def waves(points: Iterable[Point]) -> Iterator[list[Point]]:
    """The points in rounds: of each round all that they need, of these points, has come before."""
    left = list(points)
    while left:
        names = {point.name for point in left}
        yield [point for point in left if not names & set(point.needs)]
        left = [point for point in left if names & set(point.needs)]
