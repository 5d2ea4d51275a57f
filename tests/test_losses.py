"""Losses against formulas written anew, and the properties that their definitions promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd.config import ConfigError
from kd.losses.cross_entropy import CrossEntropy
from kd.losses.kl import KL, logit_kl
from kd.losses.label_smoothing import LabelSmoothing, boundary, soften
from kd.losses.loss import Loss, check_labels, checked_labels
from kd.losses.lovasz import LovaszSoftmax, lovasz_softmax
from kd.losses.mixture import Mixture, check_weights, weighted_sum
from kd.losses.overlap import JaccardMetricLoss, cardinalities
from kd.methods.jml_kd import JmlKd
from kd.methods.kd import KD
from kd.types import IGNORE, Outputs, Sizes

B, K, H, W = 3, 4, 5, 6
MODES: tuple[Any, ...] = ("present", "label", "all", "prob", "both", (0, 2))
D, I, C = ({"per_batch": 0, "per_image": 0, "per_class": 0, key: 1} for key in ("per_batch", "per_image", "per_class"))  # noqa: E741
REDUCTIONS = pytest.mark.parametrize("reduction", [D, I, C], ids="DIC")
HARD: list[Callable[..., Loss]] = [JaccardMetricLoss, CrossEntropy, KL, LovaszSoftmax]
SOFT: list[Callable[..., Loss]] = [JaccardMetricLoss, CrossEntropy, KL]
few = settings(derandomize=True, deadline=None, max_examples=20)
seeds = st.integers(0, 9999)
knobs = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0]),
        "beta": st.sampled_from([0.0, 0.5, 0.7, 1.0]),
        "smooth": st.sampled_from([0.0, 1e-3, 1.0]),
        "active_hard": st.sampled_from(MODES),
        "active_soft": st.sampled_from(MODES),
        "norm": st.sampled_from([1, 1.5, 2]),
    }
)


def scores(seed: int = 0, dtype: torch.dtype = torch.float64, batch: int = B, spread: float = 2.0) -> Tensor:
    """Random logits that want a gradient."""
    random = torch.randn(batch, K, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (spread * random).to(dtype).requires_grad_()


def hard(seed: int = 1, ignored: bool = True, batch: int = B) -> Tensor:
    """Random labels of all classes but the last, which no image has; some ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(K - 1, (batch, H, W), generator=generator)
    drop = torch.rand(batch, H, W, generator=generator) < 0.2
    return labels.masked_fill(drop, IGNORE) if ignored else labels


def soft(seed: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random probabilities."""
    return scores(seed, dtype).detach().softmax(1)


def one_hot(labels: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """``B K H W``; ignored pixels are all zero."""
    return torch.stack([labels == number for number in range(K)], 1).to(dtype)


def value_and_grad(function: Callable[..., Tensor], logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    leaf = logits.detach().clone().requires_grad_()
    value = function(leaf, *rest)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def jml(logits: Tensor, target: Tensor, *, keep: Tensor | None = None, **config: Any) -> Tensor:
    """Jaccard metric loss in float64, or what the logits are."""
    return JaccardMetricLoss(**config)(logits, target, keep)


# ---------------------------------------------------------------------------------------------- Jaccard metric loss


def reference(p: Tensor, q: Tensor, keep: Tensor, mode: Any, reduction: dict[str, int], **config: Any) -> float:
    """JML by loops over images and classes, from its definition; ``config`` must be complete."""

    def cost(images: list[int], k: int) -> float:
        a = torch.cat([p[b, k][keep[b]] for b in images])
        t = torch.cat([q[b, k][keep[b]] for b in images])
        n = config["norm"]
        in_p, in_q, apart = (float((x**n).sum()) for x in (a, t, (a - t).abs()))
        tp = (in_p + in_q - apart) / 2
        below = tp + config["alpha"] * (in_p - tp) + config["beta"] * (in_q - tp) + config["smooth"]
        rho = (tp + config["smooth"]) / below if below > 0 else 1.0
        price = -math.log(rho) if config["log"] else 1 - rho
        return float(config["class_weights"][k] * max(price, 0) ** config["gamma"])

    def active(b: int, k: int) -> bool:
        if mode == "all" or not isinstance(mode, str):
            return mode == "all" or k in mode
        evidence = {"prob": p, "both": p + q}.get(mode, q)[b, k][keep[b]]
        return bool((evidence > 0.01).any())

    pairs = [(b, k) for b in range(len(p)) for k in range(K) if active(b, k)]
    if reduction["per_batch"]:
        groups = [[cost(list(range(len(p))), k)] for k in sorted({k for _, k in pairs})]
    else:
        axis = 0 if reduction["per_image"] else 1
        groups = [[cost([b], k) for b, k in pairs if (b, k)[axis] == index] for index in sorted({pair[axis] for pair in pairs})]
    means = [sum(group) / len(group) for group in groups]
    return sum(means) / max(len(means), 1)


@REDUCTIONS
@few
@given(knobs, seeds, st.booleans(), st.booleans(), st.sampled_from([1.0, 2.0]))
def test_jml_is_its_definition(reduction: Any, config: Any, seed: int, is_soft: bool, log: bool, gamma: float) -> None:
    config = {
        **config,
        "log": log,
        "gamma": gamma,
        "class_weights": (0.5, 1.0, 2.0, 3.0),
        "smooth": config["smooth"] + 0.01,
    }
    logits, labels = scores(seed), hard(seed)
    target, mode = (soft(seed + 1), config["active_soft"]) if is_soft else (labels, config["active_hard"])
    q = target if is_soft else one_hot(labels)
    expected = reference(logits.detach().softmax(1), q, labels != IGNORE, mode, reduction, **config)
    found = jml(logits, target, keep=labels != IGNORE, **config, **reduction)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("factor", [1, 0.5], ids=["jaccard", "dice"])
def test_jml_on_hard_labels_is_the_classical_soft_loss(factor: float) -> None:
    logits, labels, smooth = scores(), hard(ignored=False), 0.7
    p, q = logits.softmax(1), one_hot(labels)
    inside, total = (p * q).sum((0, 2, 3)), (p + q).sum((0, 2, 3))
    if factor == 1:
        score = (inside + smooth) / (total - inside + smooth)
    else:
        score = (2 * inside + 2 * smooth) / (total + 2 * smooth)
    expected = (1 - score)[q.sum((0, 2, 3)) > 0].mean()
    torch.testing.assert_close(jml(logits, labels, alpha=factor, beta=factor, smooth=smooth), expected)


@REDUCTIONS
@pytest.mark.parametrize("form", ["jml1", "jml2"])
@pytest.mark.parametrize("log", [False, True])
@few
@given(knobs, seeds)
def test_jml_is_zero_where_the_prediction_is_the_soft_target(
    reduction: Any, form: str, log: bool, config: Any, seed: int
) -> None:
    if form == "jml2":
        config = {**config, "norm": 1}
    logits = scores(seed)
    target = logits.detach().softmax(1)
    assert abs(jml(logits, target, **config, **reduction, form=form, log=log).item()) < 1e-12
    if config["alpha"] + config["beta"] > 0.9:
        assert jml(logits, soft(seed + 1), **config, **reduction, form=form, log=log).item() > 1e-3


@REDUCTIONS
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("ignored", [False, True])
def test_one_hot_soft_labels_equal_hard_labels_bit_for_bit(reduction: Any, norm: float, ignored: bool) -> None:
    logits, labels = scores(dtype=torch.float32), hard(ignored=ignored)
    loss = JaccardMetricLoss(active_hard="all", active_soft="all", norm=norm, **reduction)
    by_hard = value_and_grad(loss, logits, labels)
    by_soft = value_and_grad(loss, logits, one_hot(labels, torch.float32), labels != IGNORE)
    assert all(torch.equal(a, b) for a, b in zip(by_hard, by_soft, strict=True))


def test_true_positives_of_hard_labels_are_the_product() -> None:
    p, q = soft().flatten(2), one_hot(hard()).flatten(2)
    torch.testing.assert_close(cardinalities(p, q).tp, (p * q).sum(2))


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_one_image_has_one_jaccard(mode: Any) -> None:
    config = {"active_hard": mode, "active_soft": mode}
    for target in (hard(batch=1), soft()[:1]):
        found = [jml(scores(batch=1), target, **config, **reduction).item() for reduction in (D, I, C)]
        assert found == pytest.approx([found[0]] * 3, rel=1e-12)


def test_several_images_have_three_jaccards() -> None:
    labels = hard()
    labels[0, labels[0] == 1] = 0
    found = [jml(scores(), labels, **reduction).item() for reduction in (D, I, C)]
    assert min(abs(found[a] - found[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 1e-3
    mixed = jml(scores(), labels, per_batch=0.2, per_image=0.3, per_class=0.5).item()
    assert mixed == pytest.approx(0.2 * found[0] + 0.3 * found[1] + 0.5 * found[2])


@REDUCTIONS
def test_an_image_without_labels_is_no_image(reduction: Any) -> None:
    labels, others = hard(), torch.tensor([0, 2])
    labels[1] = IGNORE
    torch.testing.assert_close(jml(scores(), labels, **reduction), jml(scores()[others], labels[others], **reduction))


@REDUCTIONS
@pytest.mark.parametrize("is_soft", [False, True], ids=["hard", "soft"])
def test_jml_does_not_care_about_order(reduction: Any, is_soft: bool) -> None:
    logits, target = scores(), soft() if is_soft else hard()
    expected = jml(logits, target, **reduction)
    images, rows, classes = torch.tensor([2, 0, 1]), torch.randperm(H), torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(jml(logits[images], target[images], **reduction), expected)
    torch.testing.assert_close(jml(logits[..., rows, :], target[..., rows, :], **reduction), expected)
    renamed = target[:, classes] if is_soft else torch.where(target == IGNORE, IGNORE, classes.argsort()[target % IGNORE])
    torch.testing.assert_close(jml(logits[:, classes], renamed, **reduction), expected)


@REDUCTIONS
@few
@given(knobs, seeds, st.booleans(), st.floats(0.1, 30))
def test_jml_lies_between_zero_and_one(reduction: Any, config: Any, seed: int, is_soft: bool, spread: float) -> None:
    target = soft(seed + 1) if is_soft else hard(seed)
    found = jml(scores(seed, spread=spread), target, **config, **reduction).item()
    assert -1e-12 <= found <= 1 + 1e-12


def test_dice_formula() -> None:
    logits, target = scores(), soft()
    p = logits.softmax(1)
    overlap, total = torch.minimum(p, target).sum((0, 2, 3)), (p + target).sum((0, 2, 3))
    torch.testing.assert_close(jml(logits, target, alpha=0.5, beta=0.5, smooth=0), (1 - 2 * overlap / total).mean())


def test_jml2_formula() -> None:
    logits, target, smooth = scores(), soft(), 0.4
    p = logits.softmax(1)
    product, apart = (p * target).sum((0, 2, 3)), (p - target).abs().sum((0, 2, 3))
    expected = (1 - (product + smooth) / (apart + product + smooth)).mean()
    torch.testing.assert_close(jml(logits, target, form="jml2", smooth=smooth), expected)


@pytest.mark.parametrize("mode", ["prob", "both"])
def test_predicted_classes_are_active(mode: str) -> None:
    """Class 3 is in no label: it counts where it is predicted, and costs nothing where it is not."""
    labels, logits = hard(ignored=False), 20 * (one_hot(hard(ignored=False)) - 0.5)
    assert jml(logits, labels, active_hard=mode, smooth=0).item() < 1e-6
    logits[0, 3, 0, 0] = 40
    predicted, present = (jml(logits, labels, active_hard=name, smooth=0) for name in (mode, "present"))
    assert predicted.item() > 1 / K > present.item()


def test_listed_classes() -> None:
    each = torch.stack([jml(scores(), hard(), active_hard=(number,)) for number in (0, 2)])
    torch.testing.assert_close(jml(scores(), hard(), active_hard=[0, 2]), each.mean())
    for wrong in ((0, K), (-1,), ()):
        with pytest.raises(ValueError, match=f"numbers of 0..{K - 1}"):
            jml(scores(), hard(), active_hard=wrong)


def test_presence_needs_more_than_the_threshold() -> None:
    target = torch.tensor([0.9, 0.0995, 0.0005, 0.0]).view(1, K, 1, 1).expand(B, K, H, W).double()
    for threshold, classes in ((0.01, (0, 1)), (0.2, (0,)), (1e-4, (0, 1, 2))):
        found = jml(scores(), target, active_soft="present", threshold=threshold)
        torch.testing.assert_close(found, jml(scores(), target, active_soft=classes))


def test_jml_class_weights_are_not_normalised() -> None:
    plain, doubled = (jml(scores(), hard(), class_weights=(weight,) * K) for weight in (1.0, 2.0))
    torch.testing.assert_close(doubled, 2 * plain)


def test_rare_classes_do_not_cancel_in_float32() -> None:
    p = torch.full((1, 1, 250_000), 1e-6)
    found = cardinalities(p, torch.ones_like(p)).tp
    torch.testing.assert_close(found, torch.full_like(found, 0.25), rtol=1e-4, atol=0)


def test_an_empty_class_is_perfect_without_smoothing() -> None:
    p = one_hot(hard(ignored=False)).requires_grad_()
    loss = JaccardMetricLoss(active_hard="all", smooth=0).from_probabilities(p, hard(ignored=False))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, p)[0].isfinite().all()


@REDUCTIONS
@pytest.mark.parametrize("config", [{}, {"norm": 2, "gamma": 2}, {"log": True, "alpha": 0.3}, {"form": "jml2"}], ids=str)
@pytest.mark.parametrize("is_soft", [False, True], ids=["hard", "soft"])
def test_jml_gradient_is_the_slope(reduction: Any, config: dict[str, Any], is_soft: bool) -> None:
    logits, target = scores()[:2, :, :2, :3].detach().requires_grad_(), (soft() if is_soft else hard())[:2, ..., :2, :3]
    if is_soft:
        assert (logits.softmax(1) - target).abs().min() > 1e-4, "ties have no slope"
    loss = JaccardMetricLoss(smooth=0.5, **config, **reduction)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits)


# ------------------------------------------------------------------------------------------- what all losses promise


@pytest.mark.parametrize("kind", HARD)
def test_masked_pixels_do_not_matter(kind: Callable[..., Loss]) -> None:
    labels, logits = hard(), scores()
    drop = labels == IGNORE
    other = logits.detach() + 50 * drop.unsqueeze(1) * torch.randn_like(logits)
    variants = [(labels, None), (torch.where(drop, 1, labels), ~drop)]
    if kind in SOFT:
        variants += [(soft(), ~drop), (torch.where(drop.unsqueeze(1), 0.7, soft()), ~drop)]
    for loss in (
        kind(),
        *([kind(**reduction, active_soft="both") for reduction in (I, C)] if kind is JaccardMetricLoss else []),
    ):
        by_hard = [value_and_grad(loss, z, *v) for z in (logits, other) for v in variants[:2]]
        by_soft = [value_and_grad(loss, z, *v) for z in (logits, other) for v in variants[2:]]
        for same in filter(None, (by_hard, by_soft)):
            assert all(torch.equal(value, same[0][0]) and torch.equal(grad, same[0][1]) for value, grad in same)
            grad = same[0][1].movedim(1, -1)
            assert (grad[drop] == 0).all()
            assert (grad[~drop] != 0).any()


@pytest.mark.parametrize("kind", HARD)
def test_nothing_kept_is_exactly_zero(kind: Callable[..., Loss]) -> None:
    labels = torch.full((B, H, W), IGNORE)
    cases: list[tuple[Loss, tuple[Any, ...]]] = [(kind(), (labels,)), (kind(), (hard(), labels != IGNORE))]
    if kind in SOFT:
        cases.append((kind(), (soft(), labels != IGNORE)))
    if kind is JaccardMetricLoss:
        cases += [
            (kind(active_hard=mode, smooth=smooth, log=log, norm=norm, gamma=norm, **reduction), (labels,))
            for mode in MODES
            for smooth in (0, 1)
            for norm, log in ((1, False), (2, True))
            for reduction in (D, I, C)
        ]
    if kind is LovaszSoftmax:
        cases.append((kind(per_image=True), (labels,)))
    for loss, rest in cases:
        value, grad = value_and_grad(loss, scores(), *rest)
        assert value == 0
        assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_every_integer_is_a_hard_label(kind: Callable[..., Loss], dtype: torch.dtype) -> None:
    assert torch.equal(kind()(scores(), hard().to(dtype)), kind()(scores(), hard()))


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_arithmetic_is_float32_under_autocast(kind: Callable[..., Loss], dtype: torch.dtype) -> None:
    logits = scores(dtype=dtype)
    expected = kind()(logits.float(), hard())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kind()(logits, hard())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", SOFT)
def test_soft_targets_in_bfloat16(kind: Callable[..., Loss]) -> None:
    logits, target = scores(dtype=torch.bfloat16), soft(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kind()(logits, target)
    assert torch.equal(found, kind()(logits.float(), target.float()))


@pytest.mark.parametrize("kind", HARD)
def test_any_spatial_shape(kind: Callable[..., Loss]) -> None:
    logits, labels = scores(), hard()
    expected = kind()(logits, labels)
    for shape in ((H * W,), (H, 2, W // 2)):
        torch.testing.assert_close(kind()(logits.reshape(B, K, *shape), labels.reshape(B, *shape)), expected)


@pytest.mark.parametrize("kind", SOFT)
def test_a_soft_target_is_a_constant(kind: Callable[..., Loss]) -> None:
    teacher = scores(7)
    kind()(scores(), teacher.softmax(1)).backward()
    assert teacher.grad is None or (teacher.grad == 0).all()


@pytest.mark.parametrize("kind", [JaccardMetricLoss, CrossEntropy])
def test_class_weights_are_a_buffer(kind: Callable[..., Loss]) -> None:
    loss = kind(class_weights=(1.0, 2.0, 3.0, 4.0))
    assert "class_weights" in dict(loss.named_buffers())
    assert not loss.state_dict()
    assert not torch.allclose(loss(scores(), hard()), kind()(scores(), hard()))
    assert loss.to(torch.float64).class_weights.dtype == torch.float64
    assert loss.to("meta").class_weights.device.type == "meta"


@pytest.mark.parametrize("kind", [JaccardMetricLoss, CrossEntropy])
def test_wrong_number_of_class_weights(kind: Callable[..., Loss]) -> None:
    with pytest.raises(ValueError, match=f"class_weights has 2 entries, but the logits have {K} classes"):
        kind(class_weights=(1.0, 2.0))(scores(), hard())


@pytest.mark.parametrize("kind", HARD)
def test_shapes_that_do_not_fit_are_refused(kind: Callable[..., Loss]) -> None:
    for target, keep, rule in (
        (hard()[:, 1:], None, r"hard \(integer\) target"),
        (soft()[:, 1:], None, r"soft \(float\) target" if kind in SOFT else "hard labels"),
        (hard(), (hard() != IGNORE)[:1], "keep must be bool"),
        (hard(), (hard() != IGNORE).long(), "keep must be bool"),
    ):
        with pytest.raises(ValueError, match=rule):
            kind()(scores(), target, keep)


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (JaccardMetricLoss, {"alhpa": 1}, "JaccardMetricLoss.alhpa: there is no such key; did you mean 'alpha'?"),
        (JaccardMetricLoss, {"smooth": -1}, "JaccardMetricLoss.smooth: is -1"),
        (JaccardMetricLoss, {"per_batch": 0}, "at least one must weigh something"),
        (CrossEntropy, {"gamma": -1}, "CrossEntropy.gamma: is -1"),
        (KL, {"temperature": 0}, "KL.temperature: is 0"),
    ],
)
def test_wrong_knobs_are_refused(kind: Callable[..., Loss], wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        kind(**wrong)
    assert message in str(error.value)


def test_repr_shows_what_is_not_default() -> None:
    assert repr(JaccardMetricLoss(alpha=0.5, log=True)) == "JaccardMetricLoss(alpha=0.5, log=True)"


# ------------------------------------------------------------------------------------- cross-entropy, focal, KL, Lovasz


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 3.0)])
def test_cross_entropy_is_torchs(weights: tuple[float, ...] | None) -> None:
    given_weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    ours = value_and_grad(CrossEntropy(class_weights=weights), scores(), hard())
    theirs = value_and_grad(lambda z: F.cross_entropy(z, hard(), given_weights, ignore_index=IGNORE), scores())
    torch.testing.assert_close(ours, theirs)


def test_soft_cross_entropy_is_torchs() -> None:
    keep = hard() != IGNORE
    torch.testing.assert_close(CrossEntropy()(scores(), soft()), F.cross_entropy(scores(), soft()))
    expected = F.cross_entropy(scores(), soft(), reduction="none")[keep].mean()
    torch.testing.assert_close(CrossEntropy()(scores(), soft(), keep), expected)


def test_weighted_one_hot_cross_entropy_equals_hard() -> None:
    loss = CrossEntropy(class_weights=(0.5, 1.0, 2.0, 3.0), gamma=2)
    torch.testing.assert_close(loss(scores(), one_hot(hard()), hard() != IGNORE), loss(scores(), hard()))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_formula(gamma: float) -> None:
    keep, p = hard() != IGNORE, scores().softmax(1)
    chosen = (p * one_hot(hard())).sum(1)[keep]
    expected = ((1 - chosen) ** gamma * -chosen.log()).mean()
    torch.testing.assert_close(CrossEntropy(gamma=gamma)(scores(), hard()), expected)
    logits = scores()[:1, :, :2, :2].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: CrossEntropy(gamma=gamma)(z, hard(ignored=False)[:1, :2, :2]), logits)
    in_full = (-soft() * (1 - p) ** gamma * p.log()).sum(1).mean()
    torch.testing.assert_close(CrossEntropy(gamma=gamma)(scores(), soft()), in_full)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradient_of_a_certain_prediction_is_finite(gamma: float) -> None:
    logits = 200 * one_hot(hard(ignored=False), torch.float32)
    value, grad = value_and_grad(CrossEntropy(gamma=gamma), logits, hard(ignored=False))
    assert value == 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_torchs(temperature: float) -> None:
    keep, teacher = hard() != IGNORE, scores(5).detach()
    log_p = (scores() / temperature).log_softmax(1)
    expected = temperature**2 * F.kl_div(log_p, soft(), reduction="none").sum(1)
    loss = KL(temperature=temperature)
    torch.testing.assert_close(loss(scores(), soft()), expected.mean())
    torch.testing.assert_close(loss(scores(), soft(), keep), expected[keep].mean())
    log_q = (teacher / temperature).log_softmax(1)
    expected = temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(logit_kl(scores(), teacher, temperature=temperature), expected.mean())
    torch.testing.assert_close(logit_kl(scores(), teacher, keep, temperature=temperature), expected[keep].mean())


def test_kl_of_hard_labels_is_cross_entropy() -> None:
    torch.testing.assert_close(KL()(scores(), hard()), CrossEntropy()(scores(), hard()))
    entropy = -(soft() * soft().log()).sum(1).mean()
    torch.testing.assert_close(KL()(scores(), soft()), CrossEntropy()(scores(), soft()) - entropy)


def jaccard_of_mistakes(wrong: set[int], truth: set[int]) -> float:
    """Jaccard loss of a class whose mispredicted pixels are ``wrong``."""
    return len(wrong) / len(wrong | truth) if wrong | truth else 0.0


@few
@given(seeds, st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_lovasz_is_the_tightest_convex_extension(seed: int, labels: list[int]) -> None:
    """The Jaccard loss is submodular: its extension is the greatest chain of marginal costs over all orders."""
    p = torch.randn(3, len(labels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(0)
    costs, present = lovasz_softmax(p, torch.tensor(labels))
    for number in range(3):
        truth = {pixel for pixel, label in enumerate(labels) if label == number}
        errors = [abs((pixel in truth) - p[number, pixel].item()) for pixel in range(len(labels))]
        chains = [
            sum(
                errors[pixel] * (jaccard_of_mistakes({*order[: n + 1]}, truth) - jaccard_of_mistakes({*order[:n]}, truth))
                for n, pixel in enumerate(order)
            )
            for order in permutations(range(len(labels)))
        ]
        assert costs[number].item() == pytest.approx(max(chains))
        assert present[number].item() == bool(truth)
    batch = LovaszSoftmax()(p.log().view(1, 3, -1), torch.tensor([labels]))
    torch.testing.assert_close(batch, costs[present].mean())


def test_lovasz_of_certain_predictions_is_the_jaccard_loss() -> None:
    truth, said = hard(1, ignored=False).flatten(), hard(8, ignored=False).flatten()
    costs, _ = lovasz_softmax(one_hot(said.view(1, -1))[0], truth)
    both, either = ((one_hot(truth.view(1, -1))[0] + one_hot(said.view(1, -1))[0] >= n).sum(1) for n in (2, 1))
    torch.testing.assert_close(costs[: K - 1], (1 - both / either)[: K - 1].double())


def test_lovasz_per_image() -> None:
    labels = hard()
    labels[1] = IGNORE
    single = torch.stack([LovaszSoftmax()(scores()[b : b + 1], labels[b : b + 1]) for b in (0, 2)])
    torch.testing.assert_close(LovaszSoftmax(per_image=True)(scores(), labels), single.mean())
    assert not torch.allclose(LovaszSoftmax()(scores(), labels), single.mean())


def test_lovasz_refuses_soft_labels() -> None:
    with pytest.raises(ValueError, match="needs hard labels"):
        LovaszSoftmax()(scores(), soft())


# ---------------------------------------------------------------------------------------------- labels and mixtures


@pytest.mark.parametrize("window", [1, 3, 5])
def test_boundary_is_its_definition(window: int) -> None:
    labels, reach = torch.zeros(2, 9, 11, dtype=torch.long), window // 2
    labels[:, 3:, 2:6], labels[:, 5:, 8:], labels[0, 0, 0], labels[1, 8, 10] = 1, 2, IGNORE, IGNORE
    found = boundary(labels, window)
    for b, y, x in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).tolist():
        seen = set(labels[b, max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].flatten().tolist())
        assert found[b, y, x].item() == (len(seen) > 1 and IGNORE not in seen), (b, y, x)
    assert found.any() == (window > 1)


@pytest.mark.parametrize("where", ["boundary", "everywhere"])
@pytest.mark.parametrize("epsilon", [0.0, 0.4])
def test_softened_labels(where: Any, epsilon: float) -> None:
    labels = hard()
    labels[0] = torch.arange(W) // 3
    target, keep = soften(labels, K, LabelSmoothing(where=where, epsilon=epsilon))
    assert torch.equal(keep, labels != IGNORE)
    torch.testing.assert_close(target.sum(1), keep.float())
    smoothed = (boundary(labels) if where == "boundary" else keep).unsqueeze(1)
    assert smoothed.any()
    exact = one_hot(labels, torch.float32)
    torch.testing.assert_close(target, torch.where(smoothed, (1 - epsilon) * exact + epsilon / K, exact))
    assert (epsilon > 0) or torch.equal(target, exact)


def test_windows_are_odd() -> None:
    with pytest.raises(ValueError, match="must be odd: 3 or 5"):
        LabelSmoothing(window=4)


def test_a_mixture_is_the_weighted_sum() -> None:
    losses = {"ce": CrossEntropy(), "jaccard": JaccardMetricLoss(smooth=1.0), "lovasz": LovaszSoftmax()}
    each = {name: loss(scores(), hard()) for name, loss in losses.items()}
    found = Mixture(losses, {"ce": 0.25, "jaccard": 0.75, "lovasz": 0})(scores(), hard())
    torch.testing.assert_close(found, 0.25 * each["ce"] + 0.75 * each["jaccard"])
    torch.testing.assert_close(Mixture(losses)(scores(), hard()), each["ce"] + each["jaccard"] + each["lovasz"])


@pytest.mark.parametrize("align_corners", [False, True])
def test_terms_are_computed_at_the_labels_resolution(align_corners: bool) -> None:
    coarse, aux = scores()[..., :3, :3], scores(4)[..., :2, :4]
    mixture = Mixture({"ce": CrossEntropy(), "ce_aux": CrossEntropy(field="aux_logits")})
    terms = mixture.terms(Outputs(coarse, aux, align_corners=align_corners), hard())
    for name, maps in (("ce", coarse), ("ce_aux", aux)):
        fine = F.interpolate(maps, (H, W), mode="bilinear", align_corners=align_corners)
        torch.testing.assert_close(terms[name], F.cross_entropy(fine, hard(), ignore_index=IGNORE))
    with pytest.raises(ValueError, match="no aux_logits"):
        mixture.terms(Outputs(coarse), hard())


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"ce": 1}, "weights.kl: is missing"), ({"ce": 1, "kl": 0, "cwd": 2}, "weights.cwd: nothing computes 'cwd'")],
)
def test_terms_and_weights_must_match(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_weights(["ce", "kl"], weights)
    with pytest.raises(ConfigError, match=message):
        Mixture({"ce": CrossEntropy(), "kl": KL()}, weights)
    check_weights(["ce", "kl"], {"ce": 1, "kl": 0})


def test_a_weighted_sum_needs_a_weight_for_each_term_and_a_term_for_each_weight() -> None:
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert weighted_sum(terms, {"a": 1, "b": 10}) == 32
    with pytest.raises(ConfigError, match=r"weights\.b: is missing"):
        weighted_sum(terms, {"a": 1})
    with pytest.raises(ConfigError, match=r"weights\.c: nothing computes 'c' \(terms: a, b\)"):
        weighted_sum(terms, {"a": 1, "b": 10, "c": 5})
    with pytest.raises(ConfigError, match="there are none"):
        weighted_sum({}, {})


# ---------------------------------------------------------------------------------------------- JML-KD and plain KD

SIZES = Sizes(classes=K, stride=1, embedding=8, aux=True)
RELEASED = {
    "ce": 0.0625,
    "kl": 0.0625,
    "ce_aux": 0.0625,
    "kl_aux": 0.0625,
    "jaccard_hard": 0.375,
    "jaccard_soft": 0.375,
}


def jml_kd(**config: Any) -> JmlKd:
    return JmlKd(JmlKd.Config(**config), SIZES, SIZES)


def pair(seed: int = 0) -> tuple[Outputs, Outputs]:
    """Outputs of a student and a teacher at the labels' resolution."""
    student, teacher = (Outputs(scores(seed + n), scores(seed + n + 1)) for n in (0, 2))
    return student, teacher


def test_jml_kd_is_zero_where_the_student_is_the_teacher() -> None:
    student, teacher = pair()
    same, other = jml_kd()(teacher, teacher, hard()), jml_kd()(student, teacher, hard())
    for name in ("kl", "kl_aux", "jaccard_soft"):
        assert abs(same[name].item()) < 1e-12 < 1e-2 < other[name].item()


@pytest.mark.parametrize(("temper_student", "zero"), [(True, True), (False, False)])
def test_jml_kd_at_a_temperature(temper_student: bool, zero: bool) -> None:
    _, teacher = pair()
    terms = jml_kd(temperature=2.0, temper_student=temper_student)(teacher, teacher, hard())
    assert abs(terms["kl"].item()) < 1e-12
    assert (abs(terms["jaccard_soft"].item()) < 1e-12) == zero


def test_jml_kd_does_not_see_ignored_pixels() -> None:
    labels = hard()
    drop = (labels == IGNORE).unsqueeze(1)
    student, teacher = pair()

    def disturbed(outputs: Outputs) -> Outputs:
        assert outputs.aux_logits is not None
        return Outputs(outputs.logits * torch.where(drop, 5, 1), outputs.aux_logits * torch.where(drop, -3, 1))

    expected = jml_kd()(student, teacher, labels)
    found = jml_kd()(disturbed(student), disturbed(teacher), labels)
    assert found.keys() == set(jml_kd().terms)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_jml_kd_without_soft_labels_is_the_hard_objective() -> None:
    student, teacher = pair()
    terms = jml_kd()(student, teacher, hard())
    losses = {
        "ce": CrossEntropy(),
        "ce_aux": CrossEntropy(field="aux_logits"),
        "jaccard": JaccardMetricLoss(smooth=1.0),
    }
    expected = weighted_sum(Mixture(losses).terms(student, hard()), {"ce": 0.125, "ce_aux": 0.125, "jaccard": 0.75})
    only_hard = {name: 0 if name in ("kl", "kl_aux", "jaccard_soft") else 2 * weight for name, weight in RELEASED.items()}
    torch.testing.assert_close(weighted_sum(terms, only_hard), expected)
    only_soft = {name: 2 * weight - only_hard[name] for name, weight in RELEASED.items()}
    halves = 0.5 * weighted_sum(terms, only_hard) + 0.5 * weighted_sum(terms, only_soft)
    torch.testing.assert_close(weighted_sum(terms, RELEASED), halves)


def test_jml_kd_teaches_heads_apart() -> None:
    student, teacher = pair()
    terms = jml_kd()(student, teacher, hard())
    swapped = jml_kd()(student, Outputs(teacher.logits, scores(9)), hard())
    assert {name for name in terms if not torch.equal(terms[name], swapped[name])} == {"kl_aux"}
    keep = hard() != IGNORE
    assert teacher.aux_logits is not None
    torch.testing.assert_close(terms["kl_aux"], KL()(scores(1), teacher.aux_logits.softmax(1), keep))
    torch.testing.assert_close(terms["jaccard_soft"], JaccardMetricLoss(smooth=1.0)(scores(0), teacher.logits.softmax(1), keep))


@pytest.mark.parametrize("method", [jml_kd(), KD(KD.Config(), SIZES, SIZES)], ids=["jml_kd", "kd"])
def test_gradient_reaches_the_student_only(method: Any) -> None:
    student, teacher = pair()
    terms = method(student, teacher, hard())
    torch.stack(list(terms.values())).sum().backward()
    assert (student.logits.grad != 0).any()
    assert teacher.logits.grad is None
    assert teacher.aux_logits is not None
    assert teacher.aux_logits.grad is None


def test_jml_kd_needs_auxiliary_heads_or_does_without() -> None:
    bare = Sizes(classes=K, stride=1, embedding=8, aux=False)
    for role, sizes in (("student", (bare, SIZES)), ("teacher", (SIZES, bare))):
        with pytest.raises(ConfigError, match=f"method.aux: is true, but the {role} has no auxiliary head"):
            JmlKd(JmlKd.Config(), *sizes)
    method = JmlKd(JmlKd.Config(aux=False), bare, bare)
    terms = method(Outputs(scores(0)), Outputs(scores(2)), hard())
    assert set(terms) == set(method.terms) == {"ce", "kl", "jaccard_hard", "jaccard_soft"}
    assert method.needs == {"logits"}
    assert jml_kd().needs == {"logits", "aux_logits"}


def plain_kd(student: Tensor, teacher: Tensor, labels: Tensor | None = None, **config: Any) -> Tensor:
    """The term of plain KD."""
    target = hard() if labels is None else labels
    return KD(KD.Config(**config), SIZES, SIZES)(Outputs(student), Outputs(teacher), target)["kl"]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_zero_and_flat_where_the_student_is_the_teacher(temperature: float) -> None:
    value, grad = value_and_grad(lambda z: plain_kd(z, scores(), temperature=temperature), scores())
    assert abs(value.item()) < 1e-12
    assert grad.abs().max() < 1e-12
    assert plain_kd(scores(), scores(3), temperature=temperature).item() > 1e-2


def test_kd_does_not_see_what_softmax_does_not() -> None:
    shift = 5 * torch.randn(B, 1, H, W, dtype=torch.float64)
    expected = plain_kd(scores(), scores(3))
    torch.testing.assert_close(plain_kd(scores() + shift, scores(3)), expected)
    torch.testing.assert_close(plain_kd(scores(), scores(3) + shift), expected)


def test_kd_at_a_high_temperature_matches_centred_logits() -> None:
    _, grad = value_and_grad(lambda z: plain_kd(z, scores(3), temperature=1e5), scores())
    student, teacher = (z.detach() - z.detach().mean(1, keepdim=True) for z in (scores(), scores(3)))
    torch.testing.assert_close(grad, (student - teacher) / (K * B * H * W), rtol=1e-3, atol=1e-7)


def test_kd_does_not_care_about_order_or_size_of_the_batch() -> None:
    student, teacher, expected = scores(), scores(3), plain_kd(scores(), scores(3))
    classes, rows, images = torch.randperm(K), torch.randperm(H), torch.tensor([1, 2, 0])
    torch.testing.assert_close(plain_kd(student[:, classes], teacher[:, classes]), expected)
    torch.testing.assert_close(plain_kd(student[..., rows, :], teacher[..., rows, :]), expected)
    torch.testing.assert_close(plain_kd(student[images], teacher[images]), expected)
    halves = [plain_kd(student[part], teacher[part], hard()[part]) for part in (slice(1), slice(1, None))]
    torch.testing.assert_close(halves[0] / 3 + halves[1] * 2 / 3, expected)


def test_kd_mask() -> None:
    labels = hard()
    keep, other = labels != IGNORE, scores() + 9 * (hard() == IGNORE).unsqueeze(1) * torch.randn(B, K, H, W)
    found = plain_kd(scores(), scores(3), labels, kd_mask="valid")
    torch.testing.assert_close(found, logit_kl(scores(), scores(3), keep))
    assert torch.equal(plain_kd(other, scores(3), labels, kd_mask="valid"), found)
    assert not torch.allclose(plain_kd(other, scores(3), labels), plain_kd(scores(), scores(3), labels))


@pytest.mark.parametrize("align_corners", [False, True])
def test_kd_brings_the_student_to_the_teachers_grid(align_corners: bool) -> None:
    student, teacher, labels = scores()[..., :2, :3].detach(), scores(3), hard().repeat(1, 2, 2)
    method = KD(KD.Config(kd_mask="valid"), SIZES, SIZES)
    found = method(Outputs(student, align_corners=align_corners), Outputs(teacher), labels)["kl"]
    fine = F.interpolate(student, (H, W), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(found, logit_kl(fine, teacher, labels[:, ::2, ::2] != IGNORE))


# --------------------------------------------------------------------------------------- labels that are neither nor


@pytest.mark.parametrize("value", [-100, -1, K, 77, 254])
@pytest.mark.parametrize(
    "loss", [CrossEntropy(), JaccardMetricLoss(), KL(), LovaszSoftmax()], ids=lambda loss: type(loss).__name__
)
def test_a_label_that_is_no_class_is_refused(loss: Loss, value: int) -> None:
    """It would count as a pixel and cost nothing: all labels 77 gave a loss of 0."""
    target = hard().index_put((torch.tensor(0), torch.tensor(1), torch.tensor(2)), torch.tensor(value))
    with pytest.raises(ValueError, match=rf"1 pixels hold label {value}; labels are 0\.\.{K - 1}, or 255 \(ignore_index\)"):
        loss(scores(), target)
    keep = torch.ones_like(target, dtype=torch.bool)
    keep[0, 1, 2] = False
    assert loss(scores(), target, keep & (target != IGNORE)).isfinite()  # ignored by the mask, whatever it holds
    with checked_labels():
        assert loss(scores(), target).isfinite()
    with pytest.raises(ValueError, match="pixels hold label"):
        loss(scores(), target)  # the promise ends with its block


def test_another_ignored_value_and_none() -> None:
    target = hard(ignored=False).masked_fill(hard() == IGNORE, -1)
    assert CrossEntropy(ignore_index=-1)(scores(), target).isfinite()
    with pytest.raises(ValueError, match=r"or None \(ignore_index\)"):
        CrossEntropy(ignore_index=None)(scores(), target)


def test_softening_refuses_them_too() -> None:
    with pytest.raises(ValueError, match="hold label 77"):
        soften(torch.full((1, 4, 4), 77), K, LabelSmoothing())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [2, 19, 254, 255, 300])
def test_every_label_that_is_neither_class_nor_ignored_is_found(dtype: torch.dtype, classes: int) -> None:
    for label in (*range(256), *(() if dtype == torch.uint8 else (-1, 256, 511, -255))):
        target = torch.tensor([[[0, IGNORE, label]]], dtype=dtype)
        if 0 <= label < classes or label == IGNORE:
            check_labels(target, None, classes, IGNORE)
        else:
            with pytest.raises(ValueError, match=f"hold label {label};"):
                check_labels(target, None, classes, IGNORE)
