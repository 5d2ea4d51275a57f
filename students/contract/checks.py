"""What one process can tell of a method, a function a rule. Each raises :class:`Breach` where the rule is broken."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kd.blame import blame
from kd.config import ConfigError
from kd.methods.method import Method
from kd.types import Sizes
from students.contract.subject import CROP, STUDENT, TEACHERS, Breach, Made, Step, Subject, labels, made, steps

UNEVEN = (65, 83)


def plain_steps(subject: Subject, method: Method | None = None, **facts: Any) -> Iterator[Step]:
    """Steps of all stages on usual outputs and labels."""
    method = method or subject.method()
    return steps(method, lambda: made(STUDENT, 1, **facts), lambda: made(subject.teacher, 2, **facts), labels())


def declared(subject: Subject) -> None:
    """Every stage gives scalars; all together give what ``terms`` declares, and nothing else."""
    method, seen = subject.method(), set[str]()
    there = dict(method.named_parameters())
    try:
        inspect.signature(method.forward).bind(None, None, None)
    except TypeError:
        raise Breach(
            f"forward takes {inspect.signature(method.forward)}; it is given the outputs of both networks and the labels: "
            "def forward(self, student, teacher, target)"
        ) from None
    for step in plain_steps(subject, method):
        if not isinstance(step.terms, Mapping):
            raise Breach(
                f"forward returns a {type(step.terms).__name__}; return a dictionary of names to scalars, e.g. "
                f'{{"{method.terms[0]}": value}}'
            )
        for name, term in step.terms.items():
            _check_scalar(name, term)
        seen |= step.terms.keys()
    if missing := [name for name in method.terms if name not in seen]:
        raise Breach(f"forward never returns '{missing[0]}', which terms declares; return it, or take it out of terms")
    if late := [name for name, _ in method.named_parameters() if name not in there]:
        raise Breach(f"forward makes the layer of {late[0]}, which no optimizer would train; make it in __init__")
    if strange := sorted(seen - set(method.terms)):
        raise Breach(f"forward returns '{strange[0]}', which terms does not name; add it there, so that it can be weighted")


def _check_scalar(name: str, term: Any) -> None:
    if not isinstance(term, Tensor):
        raise Breach(f"the term '{name}' is a {type(term).__name__}; return a tensor, so that it has a gradient")
    if term.ndim:
        raise Breach(f"the term '{name}' has shape {list(term.shape)}; return a scalar: kd.methods.maps.mean(values)")
    if term.dtype != torch.float32:
        raise Breach(
            f"the term '{name}' is {str(term.dtype).removeprefix('torch.')}; compute in float32, as kd.methods.maps.pair gives "
            "maps, or convert them by .float()"
        )


def inputs_unchanged(subject: Subject) -> None:
    """Neither network's outputs nor the labels are written to: other terms read them too."""
    target = labels()
    for step in steps(subject.method(), lambda: made(STUDENT, 1), lambda: made(subject.teacher, 2), target):
        changed = [f"{role}.{name}" for role in ("student", "teacher") for name in getattr(step, role).changed()]
        changed += [] if torch.equal(target, labels()) else ["target"]
        if changed:
            raise Breach(
                f"forward changes {', '.join(changed)} in place, which task loss and other methods read too; write x = x / 2 "
                "instead of x /= 2 or x.div_(2), or take a .clone() first"
            )


def student_taught(subject: Subject) -> None:
    """Every term has a gradient; it reaches the student, where the stage trains it, and all parameters of the method."""
    method = subject.method()
    for step in plain_steps(subject, method):
        if idle := [name for name, term in step.terms.items() if not term.requires_grad]:
            raise Breach(
                f"the term '{idle[0]}' has no gradient, so that it teaches nothing; compute it from the student's maps as they "
                "come, without detach, argmax or no_grad"
            )
        step.backward()
        if step.stage.trains_student and not step.student.reached():
            raise Breach("the gradient that reaches the student is 0 everywhere; no term depends on its maps")
        if not step.stage.trains_student and step.student.reached():
            raise Breach(f"the stage {step.stage.name} trains the student, though its trains_student is False")
        if idle := [name for name, parameter in method.named_parameters() if _idle(parameter)]:
            raise Breach(
                f"no term reaches {idle[0]}, a parameter of the method, so that it would never learn; use it in a term, or "
                f"make it a buffer: self.register_buffer('{idle[0].rpartition('.')[2]}', ...)"
            )
        _check_gradients(step, method, "usual maps")


def _idle(parameter: Tensor) -> bool:
    return parameter.requires_grad and parameter.grad is None


def _check_gradients(step: Step, method: Method, case: str) -> None:
    grads = {f"student.{name}": leaf.grad for name, leaf in step.student.leaves.items()}
    grads |= {name: parameter.grad for name, parameter in method.named_parameters()}
    if broken := [name for name, grad in grads.items() if grad is not None and not grad.isfinite().all()]:
        raise Breach(
            f"with {case} the gradient of {broken[0]} is not finite; clamp what goes into sqrt, log, norm and division, e.g. "
            "values.clamp_min(1e-8).sqrt()"
        )


def teacher_left_alone(subject: Subject) -> None:
    """No gradient arrives at the teacher's outputs."""
    for step in plain_steps(subject):
        step.backward()
        if reached := step.teacher.reached():
            raise Breach(
                f"the gradient reaches teacher.{reached[0]}; detach what is read of it: teacher.{reached[0]}.detach(), as "
                "kd.methods.maps.pair does"
            )


def needs_told(subject: Subject) -> None:
    """What ``needs`` does not name is not read of the teacher."""
    needs, whole = subject.method().needs, values(plain_steps(subject))
    for field, empty in (("aux_logits", None), ("embedding", None), ("pyramid", ())):
        problem = "" if field in needs else _read_anyway(subject, whole, **{field: empty})
        if problem:
            named = ", ".join(f'"{name}"' for name in sorted({field, *needs}))
            raise Breach(f"it reads teacher.{field}: without it {problem}; say so, needs = frozenset({{{named}}})")


def _read_anyway(subject: Subject, whole: list[dict[str, float]], **without: Any) -> str:
    """What happens when a field of the teacher is not there; nothing, if it is not read."""

    def spare() -> Made:
        teacher = made(subject.teacher, 2)
        return teacher._replace(outputs=replace(teacher.outputs, **without))

    try:
        found = values(steps(subject.method(), lambda: made(STUDENT, 1), spare, labels()))
    except Exception as error:  # in the method's own code: any
        return f"there is {blame(error)}"
    return "" if found == whole else "its terms are others"


def values(taken: Iterator[Step]) -> list[dict[str, float]]:
    """The terms of all stages as numbers."""
    return [{name: float(term.detach()) for name, term in step.terms.items()} for step in taken]


def ignored_pixels(subject: Subject) -> None:
    """Ignored pixels, an image and a batch without any label give finite terms and gradients."""
    for case, target in (
        ("some pixels ignored", labels()),
        ("an image that is ignored as a whole", labels(blank=(1,))),
        ("a batch that is ignored as a whole", labels(blank=(0, 1))),
    ):
        finite(subject.method(), (made(STUDENT, 1), made(subject.teacher, 2)), target, case)


def any_teacher(subject: Subject) -> None:
    """Teachers of other widths and strides are taught by or refused when the method is built, and odd sizes are no trouble."""
    for width, sizes in TEACHERS.items():
        _other(subject, sizes, CROP, f"a teacher that is {width}")
    coarse = replace(subject.teacher, stride=16, pyramid_strides=(8, 16))
    _other(subject, coarse, UNEVEN, f"images of {UNEVEN[0]}x{UNEVEN[1]} and a teacher of another stride")


def _other(subject: Subject, sizes: Sizes, size: tuple[int, int], case: str) -> None:
    try:
        method = subject.method(sizes, size)
    except ConfigError:  # it says so before training, which is its right
        return
    finite(method, (made(STUDENT, 1, size=size), made(sizes, 2, size=size)), labels(size=size), case)


def one_image(subject: Subject) -> None:
    """A batch of one image is a batch."""
    pair = made(STUDENT, 1, images=1), made(subject.teacher, 2, images=1)
    finite(subject.method(), pair, labels(images=1), "a batch of one image")


def finite(method: Method, pair: tuple[Made, Made], target: Tensor, case: str) -> None:
    """Terms and gradients of all stages are finite."""
    with told_of(case):
        for step in steps(method, lambda: pair[0], lambda: pair[1], target):
            if broken := [name for name, term in step.terms.items() if not term.isfinite()]:
                value = float(step.terms[broken[0]].detach())
                raise Breach(
                    f"with {case} the term '{broken[0]}' is {value}; divide by what is there or 1, count.clamp_min(1), as "
                    "kd.methods.maps.mean(values, keep) does"
                )
            step.backward()
            _check_gradients(step, method, case)


@contextmanager
def told_of(case: str) -> Iterator[None]:
    """Exceptions within the block say in which case they came."""
    try:
        yield
    except Breach:
        raise
    except Exception as error:
        raise Breach(f"with {case}: {blame(error)}") from error


def half_precision(subject: Subject) -> None:
    """Outputs in bfloat16, under autocast, give what the same numbers in float32 give."""
    exact = values(plain_steps(subject))
    with told_of("bfloat16 outputs under autocast"):
        found = []
        for step in _autocast(plain_steps(subject, dtype=torch.bfloat16)):
            for name, term in step.terms.items():
                _check_scalar(name, term)
            found += values(iter([step]))
    for whole, half in zip(exact, found, strict=True):
        if off := [name for name in whole if abs(half[name] - whole[name]) > 1e-3 * abs(whole[name]) + 1e-6]:
            raise Breach(
                f"the term '{off[0]}' is {half[off[0]]:.6g} of bfloat16 outputs and {whole[off[0]]:.6g} of the same numbers in "
                "float32; convert them first, as kd.methods.maps.pair does"
            )


def _autocast(taken: Iterator[Step]) -> Iterator[Step]:
    with torch.autocast("cpu", torch.bfloat16):
        yield from taken
