"""The contract of every method, over all files of ``kd/methods``: a new file is tested without editing this one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from test_method_runs import PRESETS

from kd.config import ConfigError
from kd.lookup import lookup, options
from kd.methods.jml_kd import JmlKd
from kd.methods.method import Method
from kd.recipe.schema import method_config
from kd.types import Outputs, Sizes
from students.contract.contract import rules
from students.contract.subject import STUDENT, TEACHERS, Subject, labels, made, subject
from students.objective import build_method
from teachers.load import load_teacher

METHODS = sorted(options("kd.methods", "Method"))
RULES = {rule: look for group in rules(load_teacher) for rule, look in group.items()}
RESUMED = "a resumed run is the same to the last bit"
TRAINED = {"several", *(name.partition("@")[0] for name in PRESETS)}
"""Methods that test_method_runs cuts and resumes."""
KNOBS = {"several": {"members": [{"name": "kd"}, {"name": "cwd"}]}}
"""What a method cannot do without."""


def examined(name: str, **knobs: Any) -> Subject:
    """A method of the library as the contract sees it."""
    return subject(method_config({"name": name, **KNOBS.get(name, {}), **knobs}))


def last_step(one: Subject, student: Outputs, teacher: Outputs) -> dict[str, float]:
    """The terms of a method's last stage."""
    method = one.method()
    method.enter(method.stages[-1])
    return {term: float(value.detach()) for term, value in method(student, teacher, labels()).items()}


@pytest.mark.parametrize(
    ("name", "rule"), [(name, rule) for name in METHODS for rule in RULES if rule != RESUMED or name not in TRAINED]
)
def test_every_method_keeps_the_contract(name: str, rule: str) -> None:
    RULES[rule](examined(name))


@pytest.mark.parametrize("name", METHODS)
def test_ignored_pixels_do_not_matter_or_can_be_masked(name: str) -> None:
    """Away from the mask's border, so that upsampling does not carry ignored logits into labelled pixels."""
    knobs: dict[str, Any] = (
        {"kd_mask": "valid"} if "kd_mask" in lookup("kd.methods", name, "Method").Config.model_fields else {}
    )
    if name == "several":
        knobs = {"members": [{"name": "kd", "kd_mask": "valid"}, {"name": "cwd", "kd_mask": "valid"}]}
    one = examined(name, **knobs)
    pair = made(STUDENT, 1).outputs, made(one.teacher, 2).outputs
    changed = [replace(outputs, logits=outputs.logits.detach().clone()) for outputs in pair]
    for outputs in changed:
        outputs.logits[:, :, 0, 0] += 9
    assert last_step(one, *pair) == last_step(one, *changed)


@pytest.mark.parametrize("name", METHODS)
def test_it_reads_all_that_it_says(name: str) -> None:
    """The contract looks at the other half: that it reads nothing else."""
    one = examined(name)
    for field in one.method().needs - {"logits"}:
        without = replace(made(one.teacher, 2).outputs, **{field: () if field == "pyramid" else None})
        with pytest.raises((ValueError, AttributeError, TypeError, IndexError)):
            last_step(one, made(STUDENT, 1).outputs, without)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_jml_kd_refuses_a_pair_without_auxiliary_heads(role: str) -> None:
    pair = {"student": STUDENT, "teacher": TEACHERS["wider"]}
    pair[role] = replace(pair[role], aux=False)
    with pytest.raises(ConfigError, match=rf"method\.aux: is true, but the {role} has no auxiliary head.*weights\.ce_aux=null"):
        JmlKd(JmlKd.Config(), **pair)
    assert JmlKd(JmlKd.Config(aux=False), **pair).needs == {"logits"}


def test_a_teacher_that_lacks_what_a_method_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.methods.kd.KD.needs", frozenset({"logits", "embedding"}))
    pair = Sizes(3, 8, 4, False), Sizes(3, 4, 0, False)
    with pytest.raises(ConfigError, match=r"kd reads the teacher's embedding, but this teacher gives only logits; choose"):
        build_method(SimpleNamespace(name="kd"), *pair)
    monkeypatch.undo()
    for config in (
        lookup("kd.methods", "fitnet", "Method").Config(name="fitnet"),
        lookup("kd.methods", "cwd", "Method").Config(name="cwd", maps=("embedding",)),
        lookup("kd.methods", "several", "Method").Config(name="several", members=[{"name": "kd"}, {"name": "at"}]),
    ):
        with pytest.raises(ConfigError, match=r"(fitnet|cwd|at) reads the teacher's embedding"):
            build_method(config, *pair)


# ------------------------------------------------------------------------------------------- a first method of one's own


class NoTerms(Method):
    def forward(self, student: Any, teacher: Any, target: Any) -> dict[str, Any]:
        return {"x": student.logits.mean()}


class OwnInit(Method):
    terms = ("x",)

    def __init__(self, width: int) -> None:
        self.width = width


def test_a_method_that_is_none_yet_is_told_what_it_lacks() -> None:
    sizes = Sizes(3, 8, 16, False)
    for cls, message in (
        (NoTerms, r'NoTerms names no terms; .* e\.g\. terms = \("cosine",\)'),
        (OwnInit, r"OwnInit.__init__ takes \(width: .*int.*a method is made of \(config, student, teacher\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            cls.fitted(cls.Config(name="x:X"), sizes, sizes)
    with pytest.raises(
        ConfigError, match=r"NoTerms has no knob margin; declare it inside NoTerms: class Config\(Method\.Config\)"
    ):
        method_config({"name": "test_methods:NoTerms", "margin": 3})
