"""Runs sorted into blocks of comparable rows. What does not compare is refused, and the difference named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from kd.config import ConfigError, InputError
from kd.results.differences import covers, differing, flat
from kd.results.lineage import is_teacher_of, measured_alike, only_taught, only_tokens_of
from kd.results.names import dataset_label, is_plain, row_label, short_teacher, student_label, teacher_label
from kd.results.row_names import named_rows, shortened
from kd.results.runs import Run

COMPARED = ("data", "augmentation", "student", "teacher", "schedule", "evaluation")
"""What all rows of a block share; the teacher among the rows that have one."""
SAME_TEACHER = {"teacher.path", "teacher.cache", "teacher.logits.path", "teacher.features.path"}
"""Keys in which rows with one teacher's weights may differ: where they lay; whether its answers were kept, as the row says."""


@dataclass(frozen=True)
class Choices:
    """``by``: dotted keys that make blocks of their own. ``allow``: dotted keys in which the rows of a block may differ.
    ``apart``: dotted keys by which rows are told apart, such as the steps of a baseline that got longer than the others.

    ``baseline`` is the label of the row that the others are compared with (default: plain cross-entropy).
    """

    by: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    baseline: str | None = None


@dataclass(frozen=True)
class Group:
    """The rows of one data set and pair: label to runs, by seed.

    ``teachers`` are the runs that taught, if they are there; ``elsewhere`` runs that taught or learnt tokens for these, but
    were trained or measured otherwise, so that their numbers do not belong here. ``matched``: a sweep has set the steps of all
    rows so that they cost the same time; only then may they differ unasked.
    """

    dataset: str
    student: str
    teacher: str | None
    by: Mapping[str, Any]
    rows: Mapping[str, Sequence[Run]]
    baseline: str | None
    teachers: Sequence[Run] = ()
    elsewhere: Sequence[Run] = ()
    matched: bool = False


def group(runs: Sequence[Run], choices: Choices) -> list[Group]:
    """Blocks in the order of the runs.

    One block for each data set, student and teacher (and each value of ``by``). The rows without a teacher stand in the block
    of each teacher. A student that did nothing but teach others here makes no block; it becomes their ``teachers``. So does a
    run that taught networks of its own kind, or only learnt tokens for others, on a schedule of its own.

    Raises:
        ConfigError: rows that claim the same pair differ in a part that they must share, two runs are the same recipe and
            seed, the baseline is ambiguous or unknown, or a key of ``by`` unknown.
    """
    _check_keys(runs, choices.allow, "--allow")
    _check_keys(runs, choices.by, "--by")
    _check_keys(runs, choices.apart, "--apart")
    families: dict[tuple[str, str, str], list[Run]] = {}
    learnt = [run for run in runs if run.role == "tokens" or any(only_tokens_of(run, other) for other in runs)]
    for run in runs:
        if run in learnt:
            continue
        names = dataset_label(run.recipe), student_label(run.recipe), json.dumps(_values(run, choices.by))
        families.setdefault(names, []).append(run)
    taught_alike = [run for family in families.values() for run in family if only_taught(run, family)]
    families = {names: [run for run in family if run not in taught_alike] for names, family in families.items()}
    teaching = {names for names, family in families.items() if all(_taught(run, runs) for run in family)}
    if len(teaching) == len(families):
        teaching = set()
    helpers = [run for names, family in families.items() if names in teaching for run in family] + taught_alike + learnt
    found = [_blocks(names, family, helpers, choices) for names, family in families.items() if names not in teaching]
    groups = _told_apart([block for blocks in found for block in blocks])
    labels = sorted({label for block in groups for label in block.rows})
    if choices.baseline and not any(block.baseline for block in groups):
        raise ConfigError(f"--baseline {choices.baseline}: there is no such row; rows: {', '.join(labels)}")
    return groups


def _told_apart(groups: list[Group]) -> list[Group]:
    """Blocks that would have one heading, of teachers of one name with other weights, are headed by the path, too."""
    heads = [(one.dataset, one.student, short_teacher(one.teacher), json.dumps(dict(one.by), default=str)) for one in groups]
    return [
        replace(one, by={**one.by, "teacher.path": one.teacher}) if one.teacher and heads.count(head) > 1 else one
        for one, head in zip(groups, heads, strict=True)
    ]


def _check_keys(runs: Sequence[Run], keys: Iterable[str], word: str) -> None:
    """A misspelt key would silently mean nothing."""
    known = {leaf for run in runs for part in run.recipe for leaf, _ in flat(run.recipe[part], part)}
    for key in keys:
        if not any(covers((key,), leaf) for leaf in known):
            raise ConfigError(f"{word} {key}: no recipe.yaml has such a key; give a dotted key like schedule.steps")


def _values(run: Run, keys: Iterable[str]) -> dict[str, Any]:
    leaves = dict(leaf for part in run.recipe for leaf in flat(run.recipe[part], part))
    return {key: leaves.get(key) for key in keys}


def _taught(run: Run, runs: Iterable[Run]) -> bool:
    return any(is_teacher_of(run, other) for other in runs)


def _blocks(names: tuple[str, str, str], family: list[Run], helpers: list[Run], choices: Choices) -> list[Group]:
    alone = [run for run in family if not run.recipe.get("teacher")]
    taught: dict[str | None, list[Run]] = {}
    for run in family:
        if run.recipe.get("teacher"):
            merged = covers(choices.allow, "teacher.path")
            taught.setdefault("several" if merged else _called(run, family), []).append(run)
    return [_block(names, name, [*alone, *runs], helpers, choices) for name, runs in (taught or {None: []}).items()]


def _called(run: Run, family: Sequence[Run]) -> str | None:
    """The teacher as the first run spells it that learnt from the same weights."""
    return next(teacher_label(other.recipe) for other in family if other is run or _learnt_from_the_same(other, run))


def _learnt_from_the_same(one: Run, other: Run) -> bool:
    marks = [(run.teacher or {}).get("mark") for run in (one, other)]
    return None not in marks and marks[0] == marks[1]


def _block(names: tuple[str, str, str], teacher: str | None, family: list[Run], helpers: list[Run], choices: Choices) -> Group:
    rows = named_rows(family, choices.allow, choices.apart)
    baseline = _baseline(rows, choices.baseline)
    first = rows[baseline][0] if baseline else family[0]
    matched = _cost_the_same(family)
    allow = (*choices.allow, *choices.apart)
    free = (*allow, "schedule.steps") if matched else allow
    for run in family:
        _agree(first, run, [part for part in COMPARED if part != "teacher"], free)
    taught = [run for run in family if run.recipe.get("teacher")]
    for run in taught:
        _agree(taught[0], run, ["teacher"], allow)
        _same_weights(taught[0], run, allow)
    for runs in rows.values():
        _once(runs)
    ours = [run for run in helpers if any(is_teacher_of(run, other) for other in taught)]
    same = [run for run in ours if measured_alike(run, first)]
    tokens = [run for run in helpers if any(only_tokens_of(run, other) for other in taught)]
    others = [run for run in (*ours, *tokens) if run not in same]
    return Group(names[0], names[1], teacher, json.loads(names[2]), rows, baseline, same, others, matched)


def _cost_the_same(family: Sequence[Run]) -> bool:
    """Whether a sweep has set the steps of all, and their steps times their measured step times agree to a step."""
    plans = [(run.recipe["schedule"]["steps"], run.plan["calibrated_seconds_per_step"]) for run in family if run.plan]
    times = [steps * seconds for steps, seconds in plans]
    return len(plans) == len(family) and max(times) - min(times) <= max(seconds for _, seconds in plans)


def _agree(one: Run, other: Run, parts: Sequence[str], allow: tuple[str, ...]) -> None:
    for part in parts:
        if one.parts[part] == other.parts[part] or covers(allow, part):
            continue
        keys = differing(one.recipe, other.recipe, (part,))
        if part == "teacher" and set(keys) <= SAME_TEACHER and _learnt_from_the_same(one, other):
            continue
        refused = {key: values for key, values in keys.items() if not covers(allow, key)}
        if keys and not refused:
            continue
        listed = "; ".join(f"{key}: {shortened(mine)} and {shortened(theirs)}" for key, (mine, theirs) in refused.items())
        revisions = " and ".join(str(run.environment.get("revision")) for run in (one, other))
        key = next(iter(refused), part)
        raise ConfigError(
            f"{one.folder} and {other.folder} do not compare: {part} differs "
            f"({listed or f'not in recipe.yaml; they were run by the revisions {revisions}'}). Rows of one table share data, "
            "augmentation, student, teacher, schedule and evaluation. Give fewer directories, "
            f"--by {key} for a table each, --apart {key} for a row each, or --allow {key} to mix them and have the table say so"
        )


def _same_weights(one: Run, other: Run, allow: tuple[str, ...]) -> None:
    marks = [(run.teacher or {}).get("mark") for run in (one, other)]
    if None not in marks and marks[0] != marks[1] and not covers(allow, "teacher.path"):
        raise ConfigError(
            f"{one.folder} and {other.folder} do not compare: {teacher_label(one.recipe)} taught them with different weights "
            f"({shortened(marks[0])} and {shortened(marks[1])}); run those of the older teacher anew"
        )


def _once(runs: Sequence[Run]) -> None:
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise InputError(
                f"{one.folder} and {other.folder} are both seed {one.seed} of one row; a seed counts once: give one of them"
            )


def _baseline(rows: Mapping[str, Sequence[Run]], wanted: str | None) -> str | None:
    if wanted:
        same = [label for label, runs in rows.items() if wanted in (label, row_label(runs[0].recipe))]
        return wanted if wanted in rows else same[0] if len(same) == 1 else None
    plain = [label for label, runs in rows.items() if is_plain(runs[0].recipe)]
    if len(plain) > 1:
        raise ConfigError(f"several rows train on cross-entropy alone: {'; '.join(plain)}. Choose with --baseline LABEL")
    return plain[0] if plain else None
