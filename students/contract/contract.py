"""The rules of a method in the order in which they are looked at, and the verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from kd.blame import blame
from students.contract import checks
from students.contract.ranks import two_are_one
from students.contract.resuming import LoadTeacher, resumes
from students.contract.subject import Breach, Subject

Look = Callable[[Subject], None]


class Verdict(NamedTuple):
    """``state`` is ok, FAILED (``problem`` says what, where, and the remedy) or waits (for rules that failed before it)."""

    state: str
    rule: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.state:7s} {self.rule}{f': {self.problem}' if self.problem else ''}"


def rules(load_teacher: LoadTeacher) -> list[dict[str, Look]]:
    """Groups of rules, by what they say. Those of a group rest on all groups before: what fails there would break them too."""
    return [
        {"forward returns the declared terms as scalars": checks.declared},
        {
            "outputs and labels stay as they are": checks.inputs_unchanged,
            "gradients reach the student and the method's parameters": checks.student_taught,
            "no gradient reaches the teacher": checks.teacher_left_alone,
            "needs names all that is read of the teacher": checks.needs_told,
            "ignored pixels, images and batches are finite": checks.ignored_pixels,
            "teachers of other widths and strides, odd sizes": checks.any_teacher,
            "a batch of one image": checks.one_image,
            "half precision is computed in float32": checks.half_precision,
        },
        {
            "a resumed run is the same to the last bit": partial(resumes, load_teacher=load_teacher),
            "two processes compute what one does": two_are_one,
        },
    ]


def examine(subject: Subject, load_teacher: LoadTeacher) -> Iterator[Verdict]:
    """A verdict on each rule, as soon as it is known."""
    failed = False
    for group in rules(load_teacher):
        waits = failed
        for rule, look in group.items():
            problem = "" if waits else _problem(look, subject)
            failed = failed or bool(problem)
            yield Verdict("waits" if waits else "FAILED" if problem else "ok", rule, problem)


def _problem(look: Look, subject: Subject) -> str:
    try:
        look(subject)
    except Breach as breach:
        return str(breach)
    except Exception as error:  # in the method's own code: any
        return blame(error)
    return ""
