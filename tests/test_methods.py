"""The contract of every method, over all files of ``kd/methods``: a new file is tested without editing this one."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kd.config import ConfigError
from kd.lookup import lookup, options
from kd.methods.jml_kd import JmlKd
from kd.methods.method import Method
from kd.recipe.schema import method_config
from kd.types import IGNORE, Outputs, Sizes
from students.objective import build_method, on_crop

METHODS = sorted(options("kd.methods", "Method"))
CLASSES, STRIDE = 5, 8
STUDENT = Sizes(CLASSES, STRIDE, 6, True, (4, 8), (4, 8))
TEACHERS = {
    "wider": Sizes(CLASSES, STRIDE, 10, True, (8, 16), (4, 8)),
    "narrower": Sizes(CLASSES, STRIDE, 3, True, (2, 4), (4, 8)),
}


def outputs(sizes: Sizes, seed: int, height: int = 64, width: int = 80, dtype: torch.dtype = torch.float32) -> Outputs:
    """Random outputs of a network with these sizes, as leaves."""
    source = torch.Generator().manual_seed(seed)

    def maps(channels: int, stride: int) -> Tensor:
        shape = (2, channels, -(-height // stride), -(-width // stride))
        return torch.randn(shape, generator=source).to(dtype).requires_grad_()

    pyramid = tuple(maps(c, s) for c, s in zip(sizes.pyramid, sizes.pyramid_strides, strict=True))
    logits, aux = maps(CLASSES, sizes.stride), maps(CLASSES, sizes.stride)
    return Outputs(logits, aux, maps(sizes.embedding, sizes.stride), pyramid)


def target(height: int = 64, width: int = 80) -> Tensor:
    """Labels with an ignored block."""
    labels = torch.randint(0, CLASSES, (2, height // 8, width // 8), generator=torch.Generator().manual_seed(7))
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels = torch.nn.functional.pad(labels, (0, width - labels.shape[2], 0, height - labels.shape[1]), value=IGNORE)
    labels[:, :16, :24] = IGNORE
    return labels


KNOBS = {"several": {"members": [{"name": "kd"}, {"name": "cwd"}]}}
"""What a method cannot do without."""


def method(name: str, teacher: Sizes = TEACHERS["wider"], crop: tuple[int, int] = (64, 80), **knobs: Any) -> Method:
    """A method in its last stage."""
    torch.manual_seed(0)
    cls = lookup("kd.methods", name, "Method")
    config = cls.Config(name=name, **(KNOBS.get(name, {}) | knobs))
    built: Method = cls(config, on_crop(STUDENT, crop), on_crop(teacher, crop))
    built.enter(built.stages[-1])
    return built


def leaves(made: Outputs) -> list[Tensor]:
    return [made.logits, made.aux_logits, made.embedding, *made.pyramid]  # type: ignore[list-item]


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("name", METHODS)
def test_terms_are_finite_named_scalars_and_teach_the_student_only(name: str, teacher: str) -> None:
    built, seen = method(name, TEACHERS[teacher]), set()
    for stage in built.stages:
        built.enter(stage)
        built.zero_grad()
        mine, its = outputs(STUDENT, 1), outputs(TEACHERS[teacher], 2)
        terms = built(mine if stage.trains_student else None, its, target())
        seen |= set(terms)
        assert all(term.ndim == 0 and math.isfinite(term.detach()) and term.dtype == torch.float32 for term in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert stage.trains_student == any(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves(mine))
        assert all(leaf.grad is None or not leaf.grad.any() for leaf in leaves(its))
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves(mine))
        assert all(p.grad is not None for p in built.parameters() if p.requires_grad)
    assert seen == set(built.terms)


@pytest.mark.parametrize("name", METHODS)
def test_odd_sizes_and_another_stride_of_the_teacher(name: str) -> None:
    coarse = Sizes(CLASSES, 16, 10, True, (8, 16), (8, 16))
    terms = method(name, coarse, (65, 83))(outputs(STUDENT, 1, 65, 83), outputs(coarse, 2, 65, 83), target(65, 83))
    assert all(math.isfinite(term.detach()) for term in terms.values())


@pytest.mark.parametrize("name", METHODS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    sizes = TEACHERS["wider"]
    exact = method(name)(outputs(STUDENT, 1), outputs(sizes, 2), target())
    with torch.autocast("cpu", torch.bfloat16):
        half = method(name)(outputs(STUDENT, 1, dtype=torch.bfloat16), outputs(sizes, 2, dtype=torch.bfloat16), target())
    for term, value in exact.items():
        assert half[term].dtype == torch.float32
        assert float(half[term].detach()) == pytest.approx(float(value.detach()), rel=0.03, abs=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_labels_is_finite(name: str) -> None:
    mine = outputs(STUDENT, 1)
    terms = method(name)(mine, outputs(TEACHERS["wider"], 2), torch.full((2, 64, 80), IGNORE))
    torch.stack(list(terms.values())).sum().backward()
    assert all(math.isfinite(term.detach()) for term in terms.values())
    assert mine.logits.grad is None or mine.logits.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_ignored_pixels_do_not_matter_or_can_be_masked(name: str) -> None:
    """Away from the mask's border, so that upsampling does not carry ignored logits into labelled pixels."""
    knobs: dict[str, Any] = (
        {"kd_mask": "valid"} if "kd_mask" in lookup("kd.methods", name, "Method").Config.model_fields else {}
    )
    if name == "several":
        knobs = {"members": [{"name": "kd", "kd_mask": "valid"}, {"name": "cwd", "kd_mask": "valid"}]}
    mine, its = outputs(STUDENT, 1), outputs(TEACHERS["wider"], 2)
    before = method(name, **knobs)(mine, its, target())
    changed = [replace(made, logits=made.logits.detach().clone()) for made in (mine, its)]
    for made in changed:
        made.logits[:, :, 0, 0] += 9
    after = method(name, **knobs)(*changed, target())
    assert {term: float(value.detach()) for term, value in before.items()} == {
        term: float(value.detach()) for term, value in after.items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_it_needs_what_it_says(name: str) -> None:
    built, its = method(name), outputs(TEACHERS["wider"], 2)
    fields = {"aux_logits": None, "embedding": None, "pyramid": ()}
    unused = {field: empty for field, empty in fields.items() if field not in built.needs}
    whole = copy.deepcopy(built)(outputs(STUDENT, 1), its, target())
    spare = built(outputs(STUDENT, 1), replace(its, **unused), target())
    assert {k: float(v.detach()) for k, v in whole.items()} == {k: float(v.detach()) for k, v in spare.items()}
    for field in built.needs - {"logits"}:
        with pytest.raises((ValueError, AttributeError, TypeError, IndexError)):
            method(name)(outputs(STUDENT, 1), replace(its, **{field: fields[field]}), target())


@pytest.mark.parametrize("name", METHODS)
def test_state_round_trips(name: str) -> None:
    first, other = method(name), method(name)
    first(outputs(STUDENT, 1), outputs(TEACHERS["wider"], 2), target())
    other.load_state_dict(first.state_dict())
    same = [m(outputs(STUDENT, 3), outputs(TEACHERS["wider"], 4), target()) for m in (first, other)]
    assert {k: float(v.detach()) for k, v in same[0].items()} == {k: float(v.detach()) for k, v in same[1].items()}


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
