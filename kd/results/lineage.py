"""Which runs taught or served others: told by the paths in their recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kd.content import POINT
from kd.results.differences import covers, differing
from kd.results.names import judged_teacher, row_label
from kd.results.runs import Incomplete, Run, Runs


def is_teacher_of(run: Run | Incomplete, other: Run) -> bool:
    """Whether ``other``'s recipe names ``run``'s directory as its teacher, or as that of the logits in a pair; relative paths
    count from anywhere."""
    return _lies_at(run, judged_teacher(other.recipe).get("path"), other)


def only_taught(run: Run, family: Sequence[Run]) -> bool:
    """Whether ``run`` is no row beside the networks of its kind that it taught: all like it taught on another schedule."""
    own = [other for other in family if _kind(other) == _kind(run)]
    return all(any(is_teacher_of(one, other) and _kind(one)[0] != _kind(other)[0] for other in family) for one in own)


def _kind(run: Run) -> tuple[str, str]:
    return run.parts["schedule"], row_label(run.recipe)


def measured_alike(teacher: Run, student: Run) -> bool:
    """Same data, reported split and inference; how often a teacher was evaluated while it trained does not matter."""
    return not _measured_otherwise(teacher, student)


def _measured_otherwise(teacher: Run, student: Run) -> list[str]:
    """The keys in which they were not measured alike."""
    keys = differing(teacher.recipe, student.recipe, ("evaluation",))
    found = [key for key in keys if covers(("evaluation.predictor", "evaluation.report"), key)]
    if teacher.parts["data"] != student.parts["data"]:
        found += differing(teacher.recipe, student.recipe, ("data",)) or ["data"]
    return found


def why_elsewhere(run: Run, rows: Mapping[str, Sequence[Run]]) -> str:
    """Why a run that taught the rows of a block, or learnt tokens for them, is none of them."""
    students = [other for runs in rows.values() for other in runs if is_teacher_of(run, other)]
    if not students:
        return f"{run.folder} learnt tokens for these rows; it is no row itself, as it was trained otherwise"
    keys = ", ".join(_measured_otherwise(run, students[0]))
    return f"{run.folder} taught these rows and has no row: it was measured otherwise ({keys})"


def why_no_teacher(rows: Mapping[str, Sequence[Run]], elsewhere: Sequence[Run], found: Runs) -> str:
    """Why a block without a row of the teacher has none; "" where nobody taught its rows, or ``why_elsewhere`` tells it."""
    students = [run for runs in rows.values() for run in runs if run.recipe.get("teacher")]
    if not students:
        return ""
    asked = judged_teacher(students[0].recipe)
    if asked["name"] != "run":
        return f"No row of the teacher: it is no run of ours (teacher.name: {asked['name']})"
    own = [run for run in found.finished if any(is_teacher_of(run, other) for other in students)]
    begun = [run for run in found.incomplete if any(is_teacher_of(run, other) for other in students)]
    if not own:
        what = "has begun and not ended" if begun else "is not among the directories given; give it too"
        return f"No row of the teacher: {begun[0].folder if begun else asked['path']} {what}"
    for label, runs in rows.items():
        if any(run in own for run in runs):
            return f"No row of the teacher beside the others: it is one of `{label}`"
    return "" if any(run in own for run in elsewhere) else f"No row of the teacher: {own[0].folder} stands in another block"


def only_tokens_of(run: Run, other: Run) -> bool:
    """Whether ``other`` took its tokens from ``run``, which was trained on another schedule and so is no row beside it."""
    method = other.recipe.get("method") or {}
    paths = [one.get("tokens") for one in (method, *method.get("members", ()))]
    return any(_lies_at(run, path, other) for path in paths) and run.parts["schedule"] != other.parts["schedule"]


def _lies_at(run: Run | Incomplete, path: str | None, other: Run) -> bool:
    """Whether a path in ``other``'s recipe is ``run``'s directory; from where it was relative is not known any more."""
    parts, folder = Path((path or "").removesuffix("method.safetensors")).parts, run.folder.resolve()
    if not parts:
        return False
    if POINT.fullmatch(parts[-1]):  # a sweep's name tells the content, wherever it was copied to
        return folder.name == parts[-1]
    if len(parts) == 1:  # such as seed0, of which there are many
        return any(folder == parent / parts[0] for parent in other.folder.resolve().parents)
    return folder.parts[-len(parts) :] == parts
