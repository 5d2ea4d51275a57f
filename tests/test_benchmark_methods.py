"""What `kd benchmark methods`, `metrics` and `eval` compare has one value and, where there is one, one gradient."""

from __future__ import annotations

import copy

import pytest
import torch

from kd.benchmark import evaluation, methods, metrics
from kd.benchmark.setting import Setting, random_outputs, random_target
from kd.losses.kl import kl_sum
from kd.methods.maps import squared_gap
from kd.types import IGNORE, Outputs

SMALL = Setting((64, 96), 2, 5, widths=(8, 12))


WEIGHTS = (
    *("CWD, features", "FitNet", "MasKD, logits", "MasKD, features", "CIRKD, memory", "AttnFD", "Af-DCD"),
    *("NFD", "CIRKDV2, graph", "CIRKDV2, channels"),
)
"""Titles of what holds weights in float32."""


def leaves(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    """Copies, as leaves."""
    maps = (outputs.logits, outputs.aux_logits, outputs.embedding)
    logits, aux, embedding = (m.detach().to(dtype).requires_grad_() for m in maps if m is not None)
    return Outputs(logits, aux, embedding, (embedding,))


def slopes(outputs: Outputs) -> list[torch.Tensor]:
    found = [maps.grad for maps in (outputs.logits, outputs.embedding) if maps is not None and maps.grad is not None]
    return [slope for slope in found if slope.any()]


@pytest.mark.parametrize("title", methods.CASES)
def test_a_method_is_its_plain_expression_in_float64(title: str) -> None:
    target = random_target(SMALL)
    target[:, :16] = IGNORE
    torch.manual_seed(0)
    case = methods.CASES[title](SMALL)
    student, teacher = (random_outputs(SMALL, width, seed) for seed, width in enumerate(SMALL.widths))
    value = case.ours(student, teacher, target)
    value.backward()
    plain, its = (leaves(of, torch.float32 if title in WEIGHTS else torch.float64) for of in (student, teacher))
    torch.manual_seed(0)
    expected = case.usual(plain, its, target)
    expected.backward()
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert slopes(student)
    for mine, reference in zip(slopes(student), slopes(plain), strict=True):
        assert (mine - reference).norm() <= 1e-5 * reference.norm()
    assert all(maps.grad is None for maps in (teacher.logits, teacher.embedding))  # type: ignore[union-attr]


def test_both_memories_are_written_alike() -> None:
    banks, method = methods.enqueue(SMALL)
    method.region_bank.vectors.copy_(banks.regions)
    labels = torch.randint(0, 5, (2, 96), generator=torch.Generator().manual_seed(0))
    labels[0, :9], labels[1, labels[1] == 3] = IGNORE, 2
    embedding = torch.nn.functional.normalize(torch.randn(2, 96, 12), dim=2)
    for step in range(3):
        banks.write(embedding, labels)
        method.remember(embedding, labels, (0, step))
    torch.testing.assert_close(method.region_bank.vectors, banks.regions)
    assert method.region_bank.position.tolist() == banks.region_place
    assert method.pixel_bank.position.tolist() == banks.pixel_place


def test_what_forms_its_gradient_has_no_second_derivative_and_says_so() -> None:
    leaf = torch.randn(2, 3, 4, requires_grad=True)
    for value in (kl_sum(leaf, torch.randn(2, 3, 4), 1, 1.0), squared_gap(leaf, torch.randn(2, 3, 4), torch.ones(()))):
        with pytest.raises(RuntimeError, match=r"no second derivative: call backward\(\) without create_graph"):
            torch.autograd.grad(value, leaf, create_graph=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_divergence_follows_torch_in_any_layout(layout: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.losses.kl.PART", 17)
    maps, its = (torch.randn(2, 3, 4, 5, dtype=torch.float64) * 5 for _ in range(2))
    if layout != "contiguous":
        maps = maps.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else maps.transpose(2, 3)
        its = its if layout == "channels_last" else its.transpose(2, 3)
    keep = torch.rand(2, 20) > 0.3 if dim == 1 else torch.rand(2, 3) > 0.3
    mine, plain = (copy.deepcopy(maps).requires_grad_() for _ in range(2))
    found = kl_sum(mine, its, dim, 2.0, keep)
    p, q = (values.flatten(2).div(2).log_softmax(dim) for values in (plain, its))
    expected = ((q.exp() * (q - p)).sum(dim) * keep).sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, mine), torch.autograd.grad(expected, plain))


def test_counts_are_the_same() -> None:
    prediction, target = metrics.maps(SMALL)
    found = [way(prediction, target, 5) for way in metrics.WAYS.values()]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("title", evaluation.COMPARISONS)
def test_label_maps_are_the_same(title: str) -> None:
    usual, ours = (way() for way in evaluation.COMPARISONS[title].make(Setting((64, 96), 1, 5, widths=(8, 8))).values())
    assert torch.equal(ours.long(), usual)
