"""Losses taken block by block are those of whole maps: values and gradients, every option, shape and label."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kd.losses import row_blocks, streamed
from kd.losses.cross_entropy import CrossEntropy
from kd.losses.kl import KL
from kd.losses.label_smoothing import LabelSmoothing
from kd.losses.loss import Loss, maps
from kd.losses.lovasz import LovaszSoftmax
from kd.losses.mixture import Mixture, weighted_sum
from kd.losses.overlap import JaccardMetricLoss
from kd.methods.jml_kd import JmlKd
from kd.types import IGNORE, Outputs, Sizes

SHAPES = [(2, 5, 6, 9, 41, 67), (1, 3, 5, 5, 5, 5), (3, 19, 4, 8, 64, 128), (2, 4, 7, 5, 28, 40), (1, 2, 1, 3, 9, 24)]
"""Images, classes, coarse grid, labels' size: strides 1 to 16, sizes that do not divide, and a grid of one row."""
OVERLAPS: dict[str, dict[str, Any]] = {
    "default": {},
    "dice": {"alpha": 0.5, "beta": 0.5, "smooth": 1.0},
    "tversky, log": {"alpha": 0.3, "beta": 0.7, "log": True, "smooth": 1.0},
    "focal": {"gamma": 2.0},
    "jml2": {"form": "jml2", "smooth": 1.0},
    "mixture": {"per_batch": 0.5, "per_image": 0.3, "per_class": 0.2, "smooth": 1.0},
    "all": {"active_hard": "all", "active_soft": "all"},
    "present": {"active_soft": "present", "threshold": 0.3},
    "prob": {"active_hard": "prob", "active_soft": "prob", "threshold": 0.6, "per_image": 1.0},
    "both": {"active_hard": "both", "active_soft": "both", "threshold": 1.2, "per_class": 1.0},
    "listed": {"active_hard": (1,), "active_soft": (0, 1)},
    "high threshold": {"active_hard": "present", "threshold": 1.5},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks also of small images."""
    monkeypatch.setattr(row_blocks, "BLOCK", 700)


def outputs(shape: tuple[int, ...], seed: int = 0, corners: bool = False, dtype: torch.dtype = torch.float64) -> Outputs:
    source = torch.Generator().manual_seed(seed)
    logits, aux = (2 * torch.randn(shape[:4], generator=source, dtype=torch.float64) for _ in range(2))
    return Outputs(logits.to(dtype), aux.to(dtype), align_corners=corners)


def labels(shape: tuple[int, ...], kind: str = "some ignored", seed: int = 7) -> Tensor:
    images, classes, *_, height, width = shape
    source = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (images, -(-height // 3), -(-width // 3)), generator=source)
    found = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].clone()
    if kind == "absent classes":
        found = found.clamp_max(1)
    found[:, : max(1, height // 4), : width // 2] = IGNORE
    if kind == "an image ignored":
        found[0] = IGNORE
    if kind == "all ignored":
        found[:] = IGNORE
    return found


def both(terms: Callable[[Outputs], dict[str, Tensor]], student: Outputs) -> Iterator[tuple[dict[str, Tensor], list[Tensor]]]:
    """Terms, and the gradient of their weighted sum, of whole maps and block by block."""
    for choice in ("whole", "blocks"):
        leaves = [maps_.clone().requires_grad_() for maps_ in (student.logits, student.aux_logits) if maps_ is not None]
        mine = Outputs(leaves[0], leaves[1], align_corners=student.align_corners)
        with maps(choice):  # type: ignore[arg-type]
            found = terms(mine)
        weights = {name: 0.3 + 0.2 * place for place, name in enumerate(found)}
        weighted_sum(found, weights).backward()
        yield found, [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def agree(terms: Callable[[Outputs], dict[str, Tensor]], student: Outputs, tolerance: float = 1e-12) -> None:
    (whole, gradients), (blocks, others) = both(terms, student)
    assert list(whole) == list(blocks)
    for name, value in whole.items():
        torch.testing.assert_close(blocks[name], value, rtol=tolerance, atol=tolerance)
    for one, other in zip(gradients, others, strict=True):
        assert (one - other).norm() <= tolerance * max(float(one.norm()), 1e-3)


def mixture(**losses: Loss) -> Mixture:
    return Mixture(losses)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_jml_kd(shape: tuple[int, ...], corners: bool) -> None:
    sizes = Sizes(shape[1], 8, 0, True)
    method = JmlKd(sizes, sizes)
    teacher = outputs(shape, 1, not corners)
    agree(lambda mine: method(mine, teacher, labels(shape)), outputs(shape, 0, corners))


@pytest.mark.parametrize("knobs", [{"temperature": 3.0}, {"temperature": 3.0, "temper_student": True}, {"aux": False}], ids=str)
def test_jml_kd_with_other_knobs(knobs: dict[str, Any]) -> None:
    sizes = Sizes(SHAPES[0][1], 8, 0, True)
    method = JmlKd(sizes, sizes, **knobs)
    agree(lambda mine: method(mine, outputs(SHAPES[0], 1), labels(SHAPES[0])), outputs(SHAPES[0]))


@pytest.mark.parametrize("kind", ["some ignored", "absent classes", "an image ignored", "all ignored"])
@pytest.mark.parametrize("knobs", OVERLAPS.values(), ids=OVERLAPS)
def test_every_option_of_the_overlap_loss(knobs: dict[str, Any], kind: str) -> None:
    shape = SHAPES[0]
    sizes = Sizes(shape[1], 8, 0, True)
    method = JmlKd(sizes, sizes, jaccard={"smooth": 1e-3, **knobs, "class_weights": (1.0, 2.0, 0.5, 3.0, 0.1)})
    agree(lambda mine: method(mine, outputs(shape, 1), labels(shape, kind)), outputs(shape))


@pytest.mark.parametrize("smoothing", [None, LabelSmoothing(), LabelSmoothing(where="everywhere", epsilon=0.1)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_task_losses_on_hard_smoothed_and_boundary_labels(shape: tuple[int, ...], smoothing: LabelSmoothing | None) -> None:
    task = mixture(
        ce=CrossEntropy(),
        ce_aux=CrossEntropy(field="aux_logits"),
        kl=KL(temperature=2.0),
        jaccard=JaccardMetricLoss(smooth=1.0, per_image=0.5),
        focal=CrossEntropy(gamma=2.0),
        **({"lovasz": LovaszSoftmax()} if smoothing is None else {}),
    )
    tolerance = 1e-11 if smoothing is None else 1e-6  # whole soft labels are float32
    agree(lambda mine: task.terms(mine, labels(shape), smoothing=smoothing), outputs(shape), tolerance)


def test_a_teacher_of_another_grid_and_one_at_the_labels_size() -> None:
    shape = SHAPES[0]
    sizes = Sizes(shape[1], 8, 0, True)
    method = JmlKd(sizes, sizes, aux=False)
    for grid in ((3, 4), (41, 67)):
        teacher = outputs((*shape[:2], *grid), 1)
        agree(lambda mine, its=teacher: method(mine, its, labels(shape)), outputs(shape))


def test_networks_that_agree_everywhere() -> None:
    """Every pixel of every class is a tie, which is worth half a gradient."""
    shape = SHAPES[0]
    sizes = Sizes(shape[1], 8, 0, True)
    method = JmlKd(sizes, sizes, aux=False)
    same = outputs(shape)
    found = dict(zip(("whole", "blocks"), both(lambda mine: method(mine, same, labels(shape)), same), strict=True))
    assert float(found["blocks"][0]["kl"]) == pytest.approx(0, abs=1e-15)
    assert float(found["blocks"][0]["jaccard_soft"]) == pytest.approx(0, abs=1e-12)


def test_extreme_logits_are_as_finite_as_on_whole_maps() -> None:
    shape = SHAPES[0]
    sizes = Sizes(shape[1], 8, 0, True)
    method = JmlKd(sizes, sizes)
    for scale in (1e3, 1e4):
        mine, its = (
            Outputs(found.logits * scale, found.aux_logits * scale)  # type: ignore[operator]
            for found in (outputs(shape, 0), outputs(shape, 1))
        )
        agree(lambda given, its=its: method(given, its, labels(shape)), mine, 1e-9)


def test_float32_is_nearer_to_float64_than_whole_maps_are() -> None:
    shape = (2, 19, 16, 32, 128, 256)
    sizes = Sizes(19, 8, 0, True)
    method, target = JmlKd(sizes, sizes), labels(shape)
    exact = next(both(lambda mine: method(mine, outputs(shape, 1), target), outputs(shape)))
    single = outputs(shape, dtype=torch.float32)
    found = list(both(lambda mine: method(mine, outputs(shape, 1, dtype=torch.float32), target), single))
    errors = [max(float((a - b).norm() / b.norm()) for a, b in zip(one[1], exact[1], strict=True)) for one in found]
    assert errors[1] <= 1e-5
    assert errors[1] <= errors[0]
    assert found[1][0]["ce"].dtype == torch.float32


def test_half_precision_is_computed_in_float32() -> None:
    shape = SHAPES[2]
    sizes = Sizes(19, 8, 0, True)
    method = JmlKd(sizes, sizes)
    mine, its = (outputs(shape, seed, dtype=torch.bfloat16) for seed in (0, 1))
    wide = Outputs(mine.logits.float(), mine.aux_logits.float())  # type: ignore[union-attr]
    (_, _), (half, gradients) = both(lambda given: method(given, its, labels(shape)), mine)
    (_, _), (full, _) = both(lambda given: method(given, its, labels(shape)), wide)
    assert all(torch.equal(half[name], full[name]) for name in full)
    assert gradients[0].dtype == torch.bfloat16


def test_a_second_derivative_is_refused_in_words() -> None:
    student = outputs(SHAPES[0])
    leaf = student.logits.requires_grad_()
    with maps("blocks"):
        value = mixture(ce=CrossEntropy()).terms(Outputs(leaf), labels(SHAPES[0]))["ce"]
    with pytest.raises(RuntimeError, match=r"have no second derivative; compute them on whole maps: run\.maps=whole"):
        torch.autograd.grad(value, leaf, create_graph=True)


def test_what_does_not_fit_is_refused() -> None:
    task, student = mixture(ce=CrossEntropy()), outputs(SHAPES[0])
    target = labels(SHAPES[0])
    target[0, -1, -1] = 77
    with pytest.raises(ValueError, match=r"hold label 77; labels are 0\.\.4"), maps("blocks"):
        task.terms(student, target)
    with pytest.raises(ValueError, match="target must be B H W and keep like it"), maps("blocks"):
        task.terms(student, labels(SHAPES[0])[:1])


def test_blocks_are_the_rule_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("kd.losses.mixture.sums", lambda *given, **knobs: seen.append(given) or streamed.sums(*given, **knobs))
    task, target = mixture(ce=CrossEntropy()), labels(SHAPES[0])
    task.terms(outputs(SHAPES[0]), target)
    assert len(seen) == 1
    with maps("whole"):
        task.terms(outputs(SHAPES[0]), target)
    assert len(seen) == 1


def test_logits_at_the_labels_size_in_any_layout() -> None:
    for shape in ((2, 5, 24, 30, 24, 30), (1, 5, 1, 30, 1, 30), (2, 5, 24, 1, 24, 1)):
        sizes = Sizes(5, 1, 0, True)
        method = JmlKd(sizes, sizes, jaccard={"smooth": 1.0, "active_hard": "both", "active_soft": "both"})
        mine, its = (outputs(shape, seed) for seed in (0, 1))
        last = torch.channels_last
        laid = Outputs(mine.logits.to(memory_format=last), mine.aux_logits.to(memory_format=last))  # type: ignore[union-attr]
        agree(lambda given, its=its, method=method, shape=shape: method(given, its, labels(shape)), laid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    shape = SHAPES[2]
    task = mixture(ce=CrossEntropy(), jaccard=JaccardMetricLoss(smooth=1.0))
    student = outputs(shape, dtype=torch.float32)

    def seen(inside: bool) -> tuple[dict[str, Tensor], Tensor]:
        leaf = student.logits.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=inside), maps("blocks"):
            terms = task.terms(Outputs(leaf), labels(shape))
            torch.stack(list(terms.values())).sum().backward()
        assert leaf.grad is not None
        return terms, leaf.grad

    (inside, gradient), (outside, other) = seen(True), seen(False)
    assert inside == outside
    assert torch.equal(gradient, other)


def test_a_loss_that_does_otherwise_is_asked_itself() -> None:
    class Half(CrossEntropy):
        def forward(self, logits: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
            return super().forward(logits, target, keep) / 2

    class Other(JaccardMetricLoss):
        def from_probabilities(self, probability: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
            return super().from_probabilities(probability, target, keep) / 2

    hooked, calls = CrossEntropy(), []
    hooked.register_forward_hook(lambda *_: calls.append(1))
    with maps("blocks"):
        found = mixture(ce=CrossEntropy(), halved=Half(), jaccard=JaccardMetricLoss(), other=Other(), hooked=hooked).terms(
            outputs(SHAPES[0]), labels(SHAPES[0])
        )
    assert float(found["halved"]) == pytest.approx(float(found["ce"]) / 2)
    assert float(found["other"]) == pytest.approx(float(found["jaccard"]) / 2)
    assert calls == [1]


def test_what_is_not_kept_does_not_matter_and_a_teacher_may_exclude_a_class() -> None:
    shape = (2, 5, 24, 30, 24, 30)
    sizes = Sizes(5, 1, 0, True)
    method, target = JmlKd(sizes, sizes, aux=False), labels((2, 5, 24, 30, 24, 30))
    mine, its = outputs(shape), outputs(shape, 1)
    mine.logits[:, :, 0, 0] = float("nan")
    its.logits[:, 2] = float("-inf")
    assert (target[:, 0, 0] == IGNORE).all()
    (whole, gradients), (blocks, others) = both(lambda given: method(given, its, target), mine)
    for name, value in whole.items():
        torch.testing.assert_close(blocks[name], value, rtol=1e-12, atol=1e-12)
    for gradient in (gradients[0], others[0]):
        gradient[:, :, 0, 0] = 0
    torch.testing.assert_close(others[0], gradients[0], rtol=1e-9, atol=1e-12)


def test_blocks_of_one_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "BLOCK", 1)
    shape = (2, 3, 5, 1, 9, 1)
    sizes = Sizes(3, 8, 0, True)
    method = JmlKd(sizes, sizes)
    agree(lambda mine: method(mine, outputs(shape, 1), labels(shape)), outputs(shape))


def test_tensors_of_inference_mode_and_labels_of_8_bits() -> None:
    shape = (1, 300, 3, 4, 24, 30)
    sizes = Sizes(300, 8, 0, True)
    method = JmlKd(sizes, sizes)
    with torch.inference_mode():
        teacher, target = outputs(shape, 1), labels(shape)
    agree(lambda mine: method(mine, teacher, target), outputs(shape), 1e-11)
    small = torch.full((1, 24, 30), 99, dtype=torch.uint8)
    agree(lambda mine: mixture(ce=CrossEntropy()).terms(mine, small), outputs(shape))
    with pytest.raises(ValueError, match="of one class"), maps("blocks"):
        mixture(ce=CrossEntropy()).terms(Outputs(torch.zeros(1, 1, 3, 4)), small * 0)


def test_a_loss_that_wants_sums_must_make_something_of_them() -> None:
    class Half(Loss):
        def wanted(self, hard: bool) -> frozenset[str]:
            return frozenset({"ce"})

    with pytest.raises(TypeError, match="Half has no from_sums"), maps("blocks"):
        mixture(it=Half()).terms(outputs(SHAPES[0]), labels(SHAPES[0]))
