"""Official data sets from what their sites offer, archives or extracted folders, to the layout that ``kd.data`` reads.

Each file of ``kd/data/prepare/convert`` plans one data set. A plan is made and checked before anything is written; what is
finished is skipped, so the same call goes on where it was stopped; sources are only read.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kd.config import ConfigError, InputError
from kd.data.prepare.archives import Member, members
from kd.files import write_whole
from kd.lookup import lookup

Shower = Callable[[Sequence[Any], str], Iterable[Any]]
"""Wraps a sequence, and a title, with a progress bar."""
RESERVE = 1.02
"""File systems need a little more than the bytes."""


@dataclass(frozen=True)
class Job:
    """A file to write: ``target`` below the root, the content of ``member``, converted if there is a ``convert``.

    ``convert`` takes the content and where it comes from, for messages.
    """

    target: str
    member: Member
    convert: Callable[[bytes, str], bytes] | None = None

    def finished(self, root: Path) -> bool:
        """Whether the file is there, and as long as its source if it is a copy."""
        path = root / self.target
        return path.is_file() and (self.convert is not None or path.stat().st_size == self.member.size)


@dataclass
class Plan:
    """What is to be written. ``texts`` are small files by their path; ``counts`` maps what is counted to (found, official).

    ``checks`` are the configurations that must open when all is written, each with its splits.
    """

    jobs: list[Job] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    checks: list[tuple[dict[str, Any], tuple[str, ...]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def bad_counts(self) -> list[str]:
        """What differs from the published data set."""
        return [
            f"{found} {what} (published: {official})" for what, (found, official) in self.counts.items() if found != official
        ]


def sources_text() -> str:
    """For each data set that can be prepared: its name, what is needed and where it is to be had."""
    return "\n\n".join(f"{name}\n{_indented(text)}" for name, text in converters().items())


def converters() -> dict[str, str]:
    """Data sets that can be prepared, and what their files say of the sources. Imports none of them."""
    spec = importlib.util.find_spec("kd.data.prepare.convert")
    assert spec is not None
    assert spec.submodule_search_locations
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.py"))
    texts = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: text for name, text in texts.items() if name != "__init__"}


def prepare(
    name: str, sources: Sequence[Path], root: Path, *, complete: bool = True, dry: bool = False, show: Shower | None = None
) -> list[str]:
    """Write a data set below ``root``. Returns lines that tell what was (or, ``dry``, would be) done.

    ``complete`` false accepts other numbers of images than published; ``show`` draws progress.

    Raises:
        ConfigError: there is no such data set.
        InputError: sources lack files, are damaged, or are not the published ones; the disk is too small.
    """
    if name not in converters():
        raise ConfigError(f"'{name}' cannot be prepared; choose one of {', '.join(converters())}")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file; give a folder for the data set")
    with ExitStack() as stack:
        plan: Plan = importlib.import_module(f"kd.data.prepare.convert.{name}").plan(members(sources, root, stack))
        if complete and plan.bad_counts():
            raise InputError(
                f"{', '.join(str(path) for path in sources)}: {'; '.join(plan.bad_counts())}. Is a source missing or "
                "incomplete? --any-count prepares what is there"
            )
        if not plan.jobs:
            raise InputError(
                f"{', '.join(str(path) for path in sources)}: holds nothing of {name} that could be prepared. "
                f"{' '.join(converters()[name].split())}"
            )
        todo = [job for job in plan.jobs if not job.finished(root)]
        needed, free = sum(job.member.size for job in todo), _free(root)
        report = [*_summary(plan, todo), *plan.notes, f"to write: {_mb(needed)}; free: {_mb(free)}"]
        if needed * RESERVE > free:
            raise InputError(f"{root}: needs {_mb(needed * RESERVE)}, {_mb(free)} are free; make room or choose another disk")
        if dry:
            return [*report, "nothing was written (dry run)"]
        _write(todo, root, show)
    for target, text in plan.texts.items():
        write_whole(root / target, partial(Path.write_bytes, data=text.encode()))
    return [*report, *_opened(name, plan, root, complete), f"ready: data.root={root}"]


def _summary(plan: Plan, todo: Sequence[Job]) -> list[str]:
    every, left = (Counter(job.target.split("/")[0] for job in jobs) for jobs in (plan.jobs, todo))
    counted = [
        f"{what}: {found}" + ("" if found == official else f" (published: {official})")
        for what, (found, official) in plan.counts.items()
    ]
    return [*counted, *(f"{folder}: {count} files, {count - left[folder]} of them finished" for folder, count in every.items())]


def _free(root: Path) -> int:
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _write(jobs: Sequence[Job], root: Path, show: Shower | None) -> None:
    """Members are read one after the other, as archives want; conversions share the processor's cores."""
    workers = min(8, os.cpu_count() or 1)
    parts = [jobs[start : start + 4 * workers] for start in range(0, len(jobs), 4 * workers)]
    with ThreadPoolExecutor(workers) as pool:
        for part in parts if show is None else show(parts, f"writing {root}"):
            contents = (job.member.read() for job in part)
            list(pool.map(lambda job, content: _finish(job, content, root), part, contents))


def _finish(job: Job, content: bytes, root: Path) -> None:
    converted = content if job.convert is None else job.convert(content, str(job.member))
    write_whole(root / job.target, partial(Path.write_bytes, data=converted))


def _opened(name: str, plan: Plan, root: Path, complete: bool) -> list[str]:
    """Open every split as a training will."""
    cls = lookup("kd.data", name, "Dataset")
    extra = {} if complete or "count" not in cls.Config.model_fields else {"count": "any"}
    lines = []
    for knobs, splits in plan.checks:
        config = cls.Config.model_validate({"name": name, "root": str(root), **knobs, **extra})
        told = "".join(f" ({key}={value})" for key, value in knobs.items())
        lines += [f"{split}{told}: {len(cls(config, split))} images" for split in splits]
    return lines


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())
