"""Run directories, found and read: ``result.json`` is the truth, ``recipe.yaml`` names what differs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any
from zipfile import BadZipFile

import yaml

from kd.config import InputError
from kd.files import grouped, parsed
from kd.metrics.counts import Counts
from kd.metrics.scores import dataset_mean
from kd.plain_yaml import load_yaml
from kd.recipe.schema import IDENTITY, NOTHING
from kd.results.result import problem_of
from kd.results.sweep_points import asked, listed, point_of, unbegun
from kd.results.written_recipe import WrittenRecipe
from kd.sealed import digest, read_sealed

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run. The fields below ``recipe`` are those of ``result.json``.

    ``plan`` is what a sweep that matched the time of its points noted: ``budget_steps`` before matching, and the
    ``calibrated_seconds_per_step`` that the steps come from. ``agreement`` (with the teacher) is None where ``result.json``
    has none. ``asked`` are the words by which a sweep, or a command line, asked for it: axis to value, neither recipe nor seed.
    ``role`` is what a sweep wanted it for (student, teacher, tokens); "" without a sweep.
    """

    folder: Path
    recipe: Tree
    seed: int
    fingerprint: str
    parts: Mapping[str, str]
    steps: int
    selected_on: str
    reported_on: str
    last: Mapping[str, Tree]
    best: Tree | None
    teacher: Tree | None
    cost: Mapping[str, float]
    environment: Tree
    plan: Tree | None = None
    agreement: Tree | None = None
    asked: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    role: str = ""

    def miou(self, checkpoint: str = "last", split: str = "") -> float | None:
        """mIoU (D) in percent on a split (default: the reported one); None where there is no such checkpoint."""
        scores = self.last if checkpoint == "last" else self.best
        return None if scores is None else scores[split or self.reported_on]["mIoU"]


TOLERANCE = 1e-6
LATER_PARTS = {"unlabelled": NOTHING}  # came when there were runs already
OPTIONAL = ("folder", "recipe", "plan", "agreement", "asked", "code", "role")
FIELDS = tuple(name for name in Run.__dataclass_fields__ if name not in OPTIONAL)


@dataclass(frozen=True)
class Incomplete:
    """A run that has begun and has no result; ``step`` is the last one it logged, ``recipe`` None if unreadable."""

    folder: Path
    recipe: Tree | None
    step: int

    def __str__(self) -> str:
        return f"{self.folder}: incomplete, last logged at step {self.step}; the command that began it resumes it"


@dataclass(frozen=True)
class Runs:
    """What lies below some directories. ``damaged`` holds a line for each run that cannot be read,
    ``waiting`` one for each sweep of which points have not begun."""

    finished: list[Run] = field(default_factory=list)
    incomplete: list[Incomplete] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[str]:
        """Lines on the runs that no row holds, one for each cause."""
        begun = [str(run) for run in self.incomplete]
        if len(begun) > 1:
            told = [f"{run.folder} at step {run.step}" for run in self.incomplete]
            begun = [f"{len(begun)} runs: incomplete; the commands that began them resume them; last logged: {listed(told)}"]
        return begun + grouped(self.damaged, "files") + self.waiting


def load_runs(paths: Iterable[str | Path]) -> Runs:
    """Every run at or below the paths, in the order of their names, each once.

    Raises:
        InputError: a path is no directory, or there is no run at all.
    """
    paths, found, seen = list(paths), Runs(), set()
    for folder in (folder for path in paths for folder in _walk(Path(path))):
        if folder.resolve() not in seen:
            seen.add(folder.resolve())
            _read(folder, found)
    found.waiting.extend(dict.fromkeys(line for path in paths for line in unbegun(Path(path))))
    if not (found.finished or found.left_out):
        listed = ", ".join(map(str, paths))
        raise InputError(f"{listed}: holds no run (no result.json, no run.json); give directories that `kd train` wrote")
    return found


def _walk(path: Path) -> list[Path]:
    if not path.is_dir():
        raise InputError(f"{path}: is no directory; give run directories, or folders of them, e.g. runs/camvid")
    return sorted({file.parent for name in ("result.json", "run.json") for file in path.rglob(name) if file.is_file()})


def _read(folder: Path, found: Runs) -> None:
    try:
        if (folder / "result.json").is_file():
            found.finished.append(_finished(folder))
        else:
            found.incomplete.append(Incomplete(folder, _recipe(folder, optional=True), _step(folder)))
    except InputError as error:
        found.damaged.append(str(error))


def _finished(folder: Path) -> Run:
    path = folder / "result.json"
    try:
        result = read_sealed(path)
    except OSError as error:
        raise _damage(path, " ".join(str(error).split())) from None
    if problem := problem_of(result):
        raise _damage(path, problem)
    if result["reported_on"] is None:
        raise _unmeasured(folder, "nothing was measured, since evaluation.report is none")
    if result["last"][result["reported_on"]]["mIoU"] is None:
        raise _unmeasured(folder, f"mIoU on {result['reported_on']} is undefined, since no pixel there has a label")
    parts = {**LATER_PARTS, **result["parts"]}
    if missing := [part for part in IDENTITY if part not in parts]:
        raise _damage(path, f"parts has no {', '.join(missing)}")
    point = point_of(folder)
    return Run(
        folder,
        _recipe(folder, mark=result.get("recipe", "")),
        **{name: result[name] for name in FIELDS if name not in ("last", "parts")},
        last=_by_the_official_rule(folder, result),
        parts=parts,
        plan=point if point.get("calibrated_seconds_per_step") else None,
        agreement=result.get("agreement"),
        code=result.get("code") or {},
        asked=asked(point, result),
        role=point.get("role", ""),
    )


def _unmeasured(folder: Path, why: str) -> InputError:
    remedy = f"`kd evaluate {quote(str(folder))} --split SPLIT` measures another, evaluation.report=SPLIT makes runs report it"
    return InputError(f"{folder}: finished, but {why}; {remedy}")


def _by_the_official_rule(folder: Path, result: Tree) -> Tree:
    """The scores, once those of the reported split are what the counts give; of a run from before classes without labels
    counted 0 where they are predicted, with today's mIoU."""
    split, path = result["reported_on"], folder / "counts.npz"
    scores = result["last"][split]
    try:
        counts = Counts.load(path).once()
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return result["last"]  # told where the counts are needed
    today, before = dataset_mean(counts), dataset_mean(counts, absent="drop")
    if "mIoU_labelled" not in scores and abs(before - scores["mIoU"]) <= TOLERANCE:
        return {**result["last"], split: {**scores, "mIoU": today}}
    if not abs(today - scores["mIoU"]) <= TOLERANCE:
        raise _damage(folder / "result.json", f"its mIoU on {split} is {scores['mIoU']:.2f}, that of counts.npz {today:.2f}")
    return result["last"]


def _damage(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: is damaged ({reason}); restore it, or move the directory away and run anew")


def _recipe(folder: Path, optional: bool = False, mark: str = "") -> Any:
    """The resolved recipe; ``mark`` is its digest where that is known."""
    path = folder / "recipe.yaml"
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
        reason = problem_of(tree, WrittenRecipe)
        reason = "it is not that of result.json" if not reason and mark and mark != digest(tree) else reason
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    if reason and not optional:
        raise _damage(path, reason)
    return None if reason else tree


def records(folder: Path) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` holds, without lines that are cut off or no record of a step; empty if there is no such file."""
    path, found = folder / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(parsed(line))
        except ValueError:
            continue  # a run that was killed while it wrote
    return [record for record in found if isinstance(record, dict) and isinstance(record.get("step"), int)]


def number(record: Any, *keys: str) -> float | None:
    """The finite number that a record holds below some keys, if it does."""
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    finite = isinstance(record, int | float) and abs(record) <= sys.float_info.max
    return float(record) if finite else None


def _step(folder: Path) -> int:
    return max((record["step"] for record in records(folder)), default=0)


def load_counts(run: Run) -> Counts:
    """The per-image counts of a run's last checkpoint on the reported split, sorted by image.

    Raises:
        InputError: ``counts.npz`` is missing or damaged.
    """
    path = run.folder / "counts.npz"
    try:
        return Counts.load(path).once()
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; without it there is no interval") from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise _damage(path, " ".join(str(error).split())) from None
