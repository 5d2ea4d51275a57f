"""DSD, NFD, CIRKDV2 and KD of standardised logits: plain expressions, invariances, memories, refusals."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd.config import ConfigError
from kd.methods.cirkd_v2 import CIRKDv2
from kd.methods.dsd import DSD, category_similarity, pixel_similarity
from kd.methods.kd import KD, standardised
from kd.methods.nfd import NFD, standardised_gap
from kd.recipe.later import known_before
from kd.types import IGNORE, Outputs, Sizes

D = torch.float64
WIDTHS = ((4, 6, 5), (8, 3, 5))
"""Of student and teacher: last level, embedding, logits."""
SIDES = [Sizes(5, 8, widths[1], False, (2, widths[0]), (4, 8), (9, 11)) for widths in WIDTHS]


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def taps(widths: tuple[int, ...], seed: int, grids: tuple[tuple[int, int], ...] = ((9, 11),) * 3) -> list[Tensor]:
    return [draw(2, width, *grid, seed=seed + n) for n, (width, grid) in enumerate(zip(widths, grids, strict=True))]


def outputs(level: Tensor, embedding: Tensor, logits: Tensor) -> Outputs:
    return Outputs(logits, embedding=embedding, pyramid=(level[:, :2], level))


KEEP = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(9)) > 0.3
LABELS = torch.where(KEEP, 1, IGNORE)


def slopes(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves))


def assert_same(mine: Any, plain: Any, leaves: list[Tensor]) -> None:
    """Two expressions of the leaves have one value and one gradient."""
    one, other = mine(*leaves), plain(*leaves)
    assert torch.allclose(one, other, rtol=1e-10)
    for got, expected in zip(slopes(one, leaves), slopes(other, leaves), strict=True):
        assert torch.allclose(got, expected, rtol=1e-7, atol=1e-12 * float(expected.abs().max()))


# ------------------------------------------------------------------------------------------------------------------- DSD


def plain_psd(mine: list[Tensor], its: list[Tensor], keep: Tensor | None, size: tuple[int, int]) -> Tensor:
    sides = []
    for maps in (mine, its):
        energies = [F.interpolate(f.pow(2).mean(1, keepdim=True), size, mode="bilinear").flatten(1) for f in maps]
        flat = [e if keep is None else e * keep.flatten(1) for e in energies]
        sides.append([F.normalize(b - a, dim=1) for a, b in combinations([F.normalize(e, dim=1) for e in flat], 2)])
    count = its[0].shape[0] * size[0] * size[1] if keep is None else int(keep.sum())
    return torch.stack([(a - b).pow(2).sum() for a, b in zip(*sides, strict=True)]).sum() / (3 * count)


@pytest.mark.parametrize("keep", [None, KEEP], ids=["all", "valid"])
@pytest.mark.parametrize("grids", [((9, 11),) * 3, ((5, 6), (18, 22), (9, 11))], ids=["one grid", "three grids"])
def test_psd_is_its_plain_expression_on_any_grids(grids: Any, keep: Tensor | None) -> None:
    leaves = [maps.requires_grad_() for maps in taps(WIDTHS[0], 1, grids)]
    its = taps(WIDTHS[1], 5, grids)
    assert_same(lambda *m: pixel_similarity(m, its, keep), lambda *m: plain_psd(list(m), its, keep, (9, 11)), leaves)


def test_psd_sees_no_scale_and_needs_no_gradient_to_have_a_value() -> None:
    mine, its = taps(WIDTHS[0], 1), taps(WIDTHS[1], 5)
    value = pixel_similarity(mine, its)
    assert value > 1e-4
    assert torch.allclose(pixel_similarity([3 * mine[0], mine[1], 0.1 * mine[2]], its), value)
    assert torch.allclose(pixel_similarity([maps.roll(1, 1) for maps in mine], its), value)
    assert pixel_similarity(its, its) == 0
    with torch.inference_mode():
        assert torch.allclose(pixel_similarity(mine, its), value)


def test_csd_reads_where_classes_are_and_not_how_large() -> None:
    mine, its = draw(2, 5, 9, 11), draw(2, 5, 9, 11, seed=2)
    spread = [(F.avg_pool2d(z, 2, 2, ceil_mode=True).flatten(2) / 4).softmax(2) for z in (mine, its)]
    gap = torch.einsum("bkn,bln->bkl", spread[0], spread[0]) - torch.einsum("bkn,bln->bkl", spread[1], spread[1])
    value = category_similarity(mine, its)
    assert torch.allclose(value, gap.pow(2).mean())
    assert torch.allclose(category_similarity(mine + draw(1, 5, 1, 1), its), value)
    assert category_similarity(its, its) == 0


def test_a_window_that_is_ignored_as_a_whole_is_not_there() -> None:
    mine, its = draw(2, 5, 8, 10), draw(2, 5, 8, 10, seed=2)
    keep = torch.arange(10).expand(2, 8, 10) >= 4
    inside = category_similarity(mine[..., 4:], its[..., 4:])
    assert torch.allclose(category_similarity(mine, its, 4.0, keep), inside)


def test_csd_as_released_is_nothing_beside_psd() -> None:
    """On the grid of the published crop, with objects of a few pixels, for a student who is near the teacher."""

    def smooth(width: int, seed: int) -> Tensor:
        return F.interpolate(draw(1, width, 8, 16, seed=seed), (64, 128), mode="bilinear")

    its = [smooth(9, 1), smooth(9, 2), 6 * smooth(19, 3)]
    mine = [maps + 0.3 * maps.std() * smooth(maps.shape[1], 4 + n) for n, maps in enumerate(its)]
    csd, psd = category_similarity(mine[2], its[2]), pixel_similarity(mine, its)
    assert 1e-10 < csd < 1e-7
    assert 10 * csd < 1e-4 * 1000 * psd


def test_dsd_leaves_ignored_pixels_out_where_it_is_told_to() -> None:
    """Also of ``csd``, whose windows hold both kinds of pixels, and of an image that is ignored as a whole."""
    method, plain = (DSD(*SIDES, kd_mask=choice) for choice in ("valid", "all"))
    mine, its = taps(WIDTHS[0], 1), taps(WIDTHS[1], 5)
    other = [maps.where(KEEP.unsqueeze(1), maps + 3) for maps in mine]
    found = [method(outputs(*maps), outputs(*its), LABELS) for maps in (mine, other)]
    assert all(torch.allclose(found[0][name], found[1][name]) for name in method.terms)
    found = [plain(outputs(*maps), outputs(*its), LABELS) for maps in (mine, other)]
    assert not any(torch.allclose(found[0][name], found[1][name]) for name in plain.terms)
    blank = torch.full_like(LABELS, IGNORE)
    assert all(value == 0 for value in method(outputs(*mine), outputs(*its), blank).values())


def test_dsd_refuses_a_student_without_levels() -> None:
    with pytest.raises(ConfigError, match="DSD reads pyramid of both networks, which this student does not give"):
        DSD(replace(SIDES[0], pyramid=(), pyramid_strides=()), SIDES[1])


# ------------------------------------------------------------------------------------------------------------------- NFD


def plain_nfd(mine: Tensor, its: Tensor, over: str, keep: Tensor) -> Tensor:
    axes = {"pixels": (2,), "channels": (1,), "both": (1, 2)}[over]
    weight = keep.flatten(1).unsqueeze(1).expand_as(mine.flatten(2)).to(mine.dtype)
    sides = []
    for maps in (mine.flatten(2), its.flatten(2)):
        count = weight.sum(axes, keepdim=True).clamp_min(1)
        centred = (maps - (maps * weight).sum(axes, keepdim=True) / count) * weight
        variance = centred.pow(2).sum(axes, keepdim=True) / count
        sides.append(centred / variance.where(variance > 0, 1).sqrt())
    return (sides[0] - sides[1]).pow(2).sum() / weight.sum()


@pytest.mark.parametrize("keep", [torch.ones_like(KEEP), KEEP], ids=["all", "valid"])
@pytest.mark.parametrize("over", ["pixels", "channels", "both"])
def test_nfd_is_its_plain_expression(over: Any, keep: Tensor) -> None:
    """Of more channels than are taken at a time."""
    its = draw(2, 40, 9, 11, seed=2)
    mask = None if keep.all() else keep
    leaf = draw(2, 40, 9, 11).requires_grad_()
    assert_same(lambda m: standardised_gap(m, its, over, mask), lambda m: plain_nfd(m, its, over, keep), [leaf])


def test_nfd_is_free_of_shift_and_scale_along_its_axes() -> None:
    mine, its = draw(2, 6, 9, 11), draw(2, 6, 9, 11, seed=2)
    by_channel, by_pixel = (draw(*shape, seed=3).exp() for shape in ((2, 6, 1, 1), (2, 1, 9, 11)))
    pixels, channels = (standardised_gap(mine, its, over) for over in ("pixels", "channels"))
    assert torch.allclose(standardised_gap(by_channel * mine + by_channel, its), pixels)
    assert torch.allclose(standardised_gap(mine, 5 - by_channel + by_channel * its), pixels)
    assert not torch.allclose(standardised_gap(by_pixel * mine, its), pixels)
    assert torch.allclose(standardised_gap(by_pixel * mine + by_pixel, its, "channels"), channels)
    assert not torch.allclose(standardised_gap(by_channel * mine, its, "channels"), channels)
    assert torch.allclose(standardised_gap(3 * mine + 1, its, "both"), standardised_gap(mine, its, "both"))


def test_nfd_is_twice_one_minus_the_correlation_of_channels() -> None:
    mine, its = draw(2, 6, 9, 11), draw(2, 6, 9, 11, seed=2)
    rows = [torch.stack([a, b]) for a, b in zip(mine.flatten(0, 1).flatten(1), its.flatten(0, 1).flatten(1), strict=True)]
    correlation = torch.stack([torch.corrcoef(row)[0, 1] for row in rows]).mean()
    assert torch.allclose(standardised_gap(mine, its), 2 - 2 * correlation)
    assert standardised_gap(its, its) == 0
    assert torch.allclose(standardised_gap(-its, its), torch.tensor(4.0, dtype=D))


def test_a_constant_channel_is_zero_and_takes_no_gradient() -> None:
    mine = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    mine[:, 1] = 17.3  # its mean is off by a rounding error
    leaf = mine.requires_grad_()
    standardised_gap(leaf, draw(2, 3, 9, 11, seed=2).float()).backward()
    assert leaf.grad is not None
    assert leaf.grad[:, 1].abs().max() == 0 < leaf.grad[:, 0].abs().max()


def test_nfd_reads_the_tapped_map() -> None:
    mine, its = (outputs(*taps(widths, seed)) for widths, seed in zip(WIDTHS, (1, 5), strict=True))
    values = [NFD(*SIDES, tap=tap).double()(mine, its, LABELS)["feature"] for tap in ("embedding", -1)]
    assert values[0] != values[1]
    assert NFD(*SIDES, tap=-1).needs == {"pyramid"}
    with pytest.raises(ConfigError, match=r"method\.tap: holds level 2, but both networks have 2 levels"):
        NFD(*SIDES, tap=2)


# ------------------------------------------------------------------------------------------- KD of standardised logits


def plain_standardised(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def loss(student: Tensor, teacher: Tensor, **knobs: Any) -> Tensor:
    sizes = Sizes(student.shape[1], 8, 0, False)
    return KD(sizes, sizes, **{"temperature": 2.0, "standardise": True, **knobs})(Outputs(student), Outputs(teacher), LABELS)[
        "kl"
    ]


def test_standardised_kd_is_its_plain_expression() -> None:
    its, leaf = 4 * draw(2, 5, 9, 11, seed=2), (3 * draw(2, 5, 9, 11)).requires_grad_()

    def plain(mine: Tensor) -> Tensor:
        p, q = ((plain_standardised(z) / 2).log_softmax(1) for z in (mine, its))
        return 4 * (q.exp() * (q - p)).sum(1).mean()

    assert_same(lambda mine: loss(mine, its), plain, [leaf])


def test_standardised_kd_is_free_of_shift_and_scale_of_each_pixels_logits() -> None:
    mine, its = draw(2, 5, 9, 11), draw(2, 5, 9, 11, seed=2)
    scale, shift = draw(2, 1, 9, 11, seed=3).exp(), draw(2, 1, 9, 11, seed=4)
    value = loss(mine, its)
    assert torch.allclose(loss(mine, scale * its + shift), value, rtol=1e-5)
    assert torch.allclose(loss(scale * mine + shift, its), value, rtol=1e-5)
    assert loss(3 * its - 1, its) < 1e-12
    plain = loss(mine, its, standardise=False)
    assert not torch.allclose(loss(mine, 2 * its, standardise=False), plain, rtol=1e-3)
    assert torch.allclose(loss(mine, its + shift, standardise=False), plain)


def test_standardised_kd_is_one_minus_the_correlation_at_high_temperature() -> None:
    mine, its = draw(2, 5, 9, 11), draw(2, 5, 9, 11, seed=2)
    cosine = F.cosine_similarity(plain_standardised(mine), plain_standardised(its), dim=1).mean()
    assert torch.allclose(loss(mine, its, temperature=1e3), 0.8 * (1 - cosine), rtol=1e-2)  # 0.8: (K - 1) / K
    assert torch.allclose(loss(mine, its), 0.8 * (1 - cosine), rtol=0.2)


def test_equal_logits_are_zero_and_without_gradient() -> None:
    logits = draw(1, 4, 2, 2)
    logits[:, :, 0, 0] = 3.0
    leaf = logits.requires_grad_()
    found = standardised(leaf)
    (found * draw(1, 4, 2, 2, seed=2)).sum().backward()
    assert leaf.grad is not None
    assert found[:, :, 0, 0].abs().max() == leaf.grad[:, :, 0, 0].abs().max() == 0
    assert leaf.grad.isfinite().all()


def test_runs_of_plain_kd_are_what_they_were() -> None:
    before = {"method": {"name": "kd", "temperature": 1.0}}
    stack = {"method": {"name": "several", "members": [{"name": "kd", "temperature": 1.0}]}}
    assert known_before({"method": {**before["method"], "standardise": False}}) == before
    members = [{**stack["method"]["members"][0], "standardise": False}]  # type: ignore[index]
    assert known_before({"method": {"name": "several", "members": members}}) == stack
    assert known_before({"method": {"standardise": True}}) == {"method": {"standardise": True}}


# --------------------------------------------------------------------------------------------------------------- CIRKDV2

FEW: dict[str, Any] = {"pixel_slots": 20, "region_slots": 6}


def second(**knobs: Any) -> CIRKDv2:
    torch.manual_seed(3)
    return CIRKDv2(*SIDES, **{**FEW, "channel_slots": 10, "channel_draws": 4, **knobs})


def both(seed: int = 1) -> tuple[Outputs, Outputs]:
    mine, its = ([maps.float() for maps in taps(widths, seed + 4 * n)] for n, widths in enumerate(WIDTHS))
    mine[1].requires_grad_()
    mine[2].requires_grad_()
    return outputs(*mine), outputs(*its)


def test_all_terms_but_kl_read_the_students_embedding_through_the_graph() -> None:
    method, (mine, its) = second(), both()
    terms = method(mine, its, LABELS)
    assert tuple(terms) == method.terms
    assert mine.embedding is not None
    for name, value in terms.items():
        found = torch.autograd.grad(value, [method.graph.query.weight], retain_graph=True, allow_unused=True)[0]
        assert (found is None) == (name == "kl"), name


def test_the_memory_of_channels_is_a_ring_that_starts_anew_at_its_end() -> None:
    """Three channels of two images: six a batch, of ten slots; so 0..5, then the last six and a pointer at 0."""
    method = second()
    bank, places, unit = method.channel_bank, [], []
    for step in range(3):
        before = bank.vectors.clone()
        method(*both(step), LABELS)
        changed = (bank.vectors != before).any(2)[0].nonzero().flatten().tolist()
        places.append((changed, int(bank.position)))
        unit.append(bank.vectors.norm(dim=2))
    assert places == [([0, 1, 2, 3, 4, 5], 6), ([4, 5, 6, 7, 8, 9], 0), ([0, 1, 2, 3, 4, 5], 6)]
    assert all(torch.allclose(lengths, torch.ones_like(lengths)) for lengths in unit)
    assert bank.vectors.shape == (1, 10, 9), "9x11 pixels are 3x3 windows of 4x4, cut at the border"


def test_a_step_remembers_no_more_channels_than_it_may() -> None:
    method = second(channel_updates=4)
    before = method.channel_bank.vectors.clone()
    method(*both(), LABELS)
    assert int((method.channel_bank.vectors != before).any(2).sum()) == int(method.channel_bank.position) == 4
    whole = second(channel_updates=256)
    for step in range(2):
        whole(*both(step), LABELS)
    assert int(whole.channel_bank.position) == 0


def test_a_state_dict_is_all_that_the_next_step_depends_on() -> None:
    method = second()
    method(*both(), LABELS)
    assert {"channel_bank.vectors", "channel_bank.position", "cirkd.clock", "cirkd.seed"} <= method.state_dict().keys()
    torch.manual_seed(99)
    again = CIRKDv2(*SIDES, **FEW, channel_slots=10, channel_draws=4)
    again.load_state_dict(method.state_dict())
    ours, theirs = (one(*both(2), LABELS) for one in (method, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(method.channel_bank.vectors, again.channel_bank.vectors)


def test_another_grid_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match=r"channels as maps of one size, .* teacher\.sizes\.on_crop\(H, W\)"):
        CIRKDv2(*(replace(sizes, grid=(0, 0)) for sizes in SIDES))
    method = second()
    mine, its = both()
    with pytest.raises(ValueError, match=r"embedding is 8x11, and CIRKDV2's memory is of channels of 9x11"):
        method(mine, replace(its, embedding=its.embedding[:, :, :8]), LABELS)  # type: ignore[index]
    assert int(method.cirkd.clock) == 0, "nothing was written"


def test_ignored_pixels_are_left_out_of_channels_where_it_is_told_to() -> None:
    """Pixels of the teacher, which no graph module has mixed."""
    mine, its = both()
    assert its.embedding is not None
    other = replace(its, embedding=its.embedding.where(KEEP.unsqueeze(1), its.embedding + 3))
    names = ("hint", "channel_mini", "channel_memory", "channel_mse")
    for choice, same in (("valid", True), ("all", False)):
        found = [second(kd_mask=choice)(mine, teacher, LABELS) for teacher in (its, other)]
        assert all(bool(torch.allclose(found[0][name], found[1][name])) == same for name in names)
