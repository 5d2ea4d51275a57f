"""Which runs taught or served others: told by the paths in their recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kd.content import POINT
from kd.results.differences import covers, differing
from kd.results.names import row_label
from kd.results.runs import Run


def is_teacher_of(run: Run, other: Run) -> bool:
    """Whether ``other``'s recipe names ``run``'s directory as its teacher; relative paths count from anywhere."""
    return _lies_at(run, (other.recipe.get("teacher") or {}).get("path"), other)


def only_taught(run: Run, family: Sequence[Run]) -> bool:
    """Whether ``run`` is no row beside the networks of its kind that it taught: all like it taught on another schedule."""
    own = [other for other in family if _kind(other) == _kind(run)]
    return all(any(is_teacher_of(one, other) and _kind(one)[0] != _kind(other)[0] for other in family) for one in own)


def _kind(run: Run) -> tuple[str, str]:
    return run.parts["schedule"], row_label(run.recipe)


def measured_alike(teacher: Run, student: Run) -> bool:
    """Same data, reported split and inference; how often a teacher was evaluated while it trained does not matter."""
    keys = differing(teacher.recipe, student.recipe, ("evaluation",))
    alike = not any(covers(("evaluation.predictor", "evaluation.report"), key) for key in keys)
    return alike and teacher.parts["data"] == student.parts["data"]


def only_tokens_of(run: Run, other: Run) -> bool:
    """Whether ``other`` took its tokens from ``run``, which was trained on another schedule and so is no row beside it."""
    method = other.recipe.get("method") or {}
    paths = [one.get("tokens") for one in (method, *method.get("members", ()))]
    return any(_lies_at(run, path, other) for path in paths) and run.parts["schedule"] != other.parts["schedule"]


def _lies_at(run: Run, path: str | None, other: Run) -> bool:
    """Whether a path in ``other``'s recipe is ``run``'s directory; from where it was relative is not known any more."""
    parts, folder = Path((path or "").removesuffix("method.safetensors")).parts, run.folder.resolve()
    if not parts:
        return False
    if POINT.fullmatch(parts[-1]):  # a sweep's name tells the content, wherever it was copied to
        return folder.name == parts[-1]
    if len(parts) == 1:  # such as seed0, of which there are many
        return any(folder == parent / parts[0] for parent in other.folder.resolve().parents)
    return folder.parts[-len(parts) :] == parts
