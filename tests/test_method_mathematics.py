"""What the mathematics of each method promises: zeros, invariances, bounds, and where gradients may go."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.config import ConfigError
from kd.methods import cirkd_similarity
from kd.methods.at import attention, attention_transfer
from kd.methods.cirkd import CIRKD, memory_term, mini_batch, unit
from kd.methods.cirkd_memory import Bank, Found, draw_pixels, pixels, regions
from kd.methods.critic import Adversary, Critic, critic_loss, strided_stages
from kd.methods.cwd import divergence
from kd.methods.dist import DIST, inter_class, intra_class
from kd.methods.fitnet import FitNet, regression
from kd.methods.ifvd import intra_class_variation, variation
from kd.methods.maskd import MasKD, masked_difference, masks, overlap
from kd.methods.skd import nodes, pair_wise
from kd.types import IGNORE, Outputs, Sizes

D = torch.float64


def draw(*shape: int, seed: int = 0, positive: bool = False) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)
    return values.abs() + 0.1 if positive else values


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(draw(width, width, seed=9))[0]


def rotated(maps: Tensor) -> Tensor:
    return torch.einsum("de,behw->bdhw", rotation(maps.shape[1]), maps)


FEATURES = {"student": draw(2, 6, 5, 7, seed=1), "teacher": draw(2, 8, 5, 7, seed=2)}
LABELS = torch.randint(0, 4, (2, 5, 7), generator=torch.Generator().manual_seed(3))
MINE, ITS = FEATURES["student"], FEATURES["teacher"]


class TestAttention:
    def test_zero_at_equality_and_invariances(self) -> None:
        value = attention_transfer(MINE, ITS)
        assert attention_transfer(MINE, MINE) == 0
        for changed in (3 * MINE, rotated(MINE), MINE.flip(1), -MINE):
            assert torch.allclose(attention_transfer(changed, ITS), value, rtol=1e-10)
        assert not torch.allclose(attention_transfer(MINE * draw(2, 1, 5, 7, positive=True), ITS), value)

    def test_a_map_of_zeros_has_no_gradient_and_no_nan(self) -> None:
        zero = torch.zeros_like(MINE, requires_grad=True)
        attention_transfer(zero, ITS).backward()
        assert not zero.grad.any()  # type: ignore[union-attr]

    def test_attention_has_length_one(self) -> None:
        assert torch.allclose(attention(MINE).flatten(1).norm(dim=1), torch.ones(2, dtype=D))


class TestFitNet:
    def test_quadratic_and_zero(self) -> None:
        assert regression(ITS, ITS) == 0
        assert torch.allclose(regression(3 * ITS, 3 * ITS + 3), 9 * regression(ITS, ITS + 1))

    def test_an_identity_projection_of_equal_features_costs_nothing(self) -> None:
        sizes = Sizes(4, 8, 8, False)
        method = FitNet(FitNet.Config(), sizes, sizes).double()
        method.projection.weight.data.copy_(torch.eye(8)[..., None, None])
        outputs = Outputs(draw(2, 4, 5, 7), embedding=ITS)
        assert method(outputs, outputs, LABELS)["hint"] == 0


class TestChannelWise:
    def test_zero_invariances_and_scale(self) -> None:
        student = draw(2, 8, 5, 7, seed=5)
        value = divergence(student, ITS)
        assert abs(divergence(ITS, ITS)) < 1e-14
        assert torch.allclose(divergence(student + draw(2, 8, 1, 1), ITS), value)
        assert not torch.allclose(divergence(student + draw(2, 1, 5, 7), ITS), value)
        assert torch.allclose(divergence(student.flip(1), ITS.flip(1)), value)
        assert torch.allclose(divergence(student.flip(3), ITS.flip(3)), value)
        assert torch.allclose(divergence(student.repeat(2, 1, 1, 1), ITS.repeat(2, 1, 1, 1)), value)

    def test_a_spike_stays_finite_in_float32(self) -> None:
        spiked = ITS.float().clone()
        spiked[:, :, 0, 0] += 500
        assert divergence(ITS.float(), spiked, temperature=1.0).isfinite()

    def test_masked_pixels_do_not_matter(self) -> None:
        keep = LABELS > 0
        changed = MINE.clone()
        changed[:, :, :] += 50 * (~keep).unsqueeze(1)
        other = draw(2, 6, 5, 7, seed=6)
        for over in ("pixels", "channels"):
            first, second = (divergence(m, other, keep, over=over) for m in (MINE, changed))  # type: ignore[arg-type]
            assert torch.allclose(first, second)


class TestDist:
    P, Q = draw(2, 5, 4, 6, seed=1).softmax(1), draw(2, 5, 4, 6, seed=2).softmax(1)

    def test_equality_symmetry_and_range(self) -> None:
        for term in (inter_class, intra_class):
            assert abs(term(self.P, self.P)) < 1e-6
            assert torch.allclose(term(self.P, self.Q), term(self.Q, self.P))
            assert 0 <= term(self.P, self.Q) <= 2

    def test_permutations_and_another_batching(self) -> None:
        for term in (inter_class, intra_class):
            value = term(self.P, self.Q)
            for change in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.flip(0)):
                assert torch.allclose(term(change(self.P), change(self.Q)), value)
            wide = [torch.cat(list(x.unsqueeze(1)), 3) for x in (self.P, self.Q)]
            assert torch.allclose(term(*wide), value)

    def test_an_affine_row_is_perfect_for_inter(self) -> None:
        assert abs(inter_class(0.5 * self.Q + 0.3, self.Q)) < 1e-6

    def test_a_constant_prediction_has_a_finite_gradient(self) -> None:
        flat = torch.full_like(self.P, 0.2).requires_grad_()
        (inter_class(flat, self.Q) + intra_class(flat, self.Q)).backward()
        assert flat.grad.isfinite().all()  # type: ignore[union-attr]

    def test_aux_without_heads_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"method\.aux: .*weights\.inter_aux=null"):
            DIST(DIST.Config(), Sizes(4, 8, 8, False), Sizes(4, 8, 8, True))


class TestPairWise:
    @pytest.mark.parametrize("variant", ["official", "cirkd"])
    def test_zero_and_scale(self, variant: str) -> None:
        same = pair_wise(nodes(MINE, variant), nodes(MINE, variant))
        assert same < 1e-15
        value = pair_wise(nodes(MINE, variant), nodes(ITS, variant))
        assert torch.allclose(pair_wise(nodes(7 * MINE, variant), nodes(ITS, variant)), value, rtol=1e-6)

    def test_both_ways_to_compute_agree(self) -> None:
        student, teacher = (F.normalize(draw(2, width, 30, seed=width), dim=1) for width in (6, 8))
        gap = student.transpose(1, 2) @ student - teacher.transpose(1, 2) @ teacher
        assert torch.allclose(pair_wise(student, teacher), gap.square().mean())

    def test_odd_maps_have_three_by_three_official_nodes(self) -> None:
        assert nodes(draw(1, 3, 65, 65), "official").shape == (1, 3, 9)
        assert nodes(draw(1, 3, 64, 64), "official").shape == (1, 3, 4)
        assert nodes(draw(1, 3, 64, 128), "cirkd").shape == (1, 3, 2048)

    @pytest.mark.parametrize(("variant", "radial"), [("official", True), ("cirkd", False)])
    def test_the_norm_is_a_constant_in_the_official_gradient_only(self, variant: str, radial: bool) -> None:
        maps = draw(1, 6, 4, 4, seed=4).repeat_interleave(2, 2).repeat_interleave(2, 3)
        maps = (
            maps - 1e-3 * torch.arange(8.0, dtype=D).view(-1, 1)
        ).requires_grad_()  # one pixel is the largest of each window
        pooled = nodes(maps, variant, 0.25)
        pair_wise(pooled, nodes(draw(1, 6, 8, 8, seed=5), variant, 0.25)).backward()
        slope = F.avg_pool2d(maps.grad, 2) * 4  # type: ignore[arg-type]
        along = (slope.flatten(2) * pooled.detach()).sum(1).abs().max()
        assert (along > 1e-4) == radial
        assert radial or along < 1e-12


class TestVariation:
    def test_zero_invariances_and_ignored(self) -> None:
        value = intra_class_variation(MINE, ITS, LABELS, 4)
        assert intra_class_variation(MINE, MINE, LABELS, 4) == 0
        assert torch.allclose(intra_class_variation(5 * MINE, ITS, LABELS, 4), value)
        assert torch.allclose(intra_class_variation(rotated(MINE), ITS, LABELS, 4), value)
        assert torch.allclose(intra_class_variation(MINE, ITS, (LABELS + 1) % 4, 4), value)
        assert not torch.allclose(intra_class_variation(MINE * draw(2, 1, 5, 7, positive=True), ITS, LABELS, 4), value)
        assert intra_class_variation(MINE, ITS, torch.full_like(LABELS, IGNORE), 4) == 0

    def test_one_class_has_the_spatial_mean_as_its_centre(self) -> None:
        found = variation(MINE, torch.zeros_like(LABELS), 4)
        expected = F.cosine_similarity(MINE, MINE.mean((2, 3), keepdim=True).expand_as(MINE), dim=1)
        assert torch.allclose(found, expected, atol=1e-6)

    def test_pixels_of_a_class_alone_are_their_own_centre(self) -> None:
        labels = torch.full_like(LABELS, IGNORE)
        labels[:, 0, 0] = 2
        assert torch.allclose(variation(MINE, labels, 4), torch.ones(2, 5, 7, dtype=D))


class TestSimilarity:
    A, B = unit(MINE), unit(ITS)

    def direct(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        values = []
        for i in range(len(student)):
            for j in range(len(student)):
                s, t = (x[i] @ x[j].t() / temperature for x in (student, teacher))
                values.append(F.kl_div(s.log_softmax(1), t.log_softmax(1), log_target=True, reduction="none").sum(1).mean())
        return torch.stack(values).mean()

    @pytest.mark.parametrize("entries", [2**24, 1300, 40])
    def test_tiles_change_nothing(self, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cirkd_similarity, "ENTRIES", entries)
        mine = self.A.clone().requires_grad_()
        value = mini_batch(mine, self.B, 0.1, group=2)
        (slope,) = torch.autograd.grad(value, mine)
        plain = self.A.clone().requires_grad_()
        expected = self.direct(plain, self.B, 0.1)
        assert torch.allclose(value, expected)
        assert torch.allclose(slope, torch.autograd.grad(expected, plain)[0])

    def test_zero_scale_rotation_and_order(self) -> None:
        value = mini_batch(self.A, self.B, 0.1, 2)
        assert abs(mini_batch(self.A, self.A, 0.1, 2)) < 1e-14
        assert torch.allclose(mini_batch(unit(MINE * draw(2, 1, 5, 7, positive=True)), self.B, 0.1, 2), value)
        assert torch.allclose(mini_batch(unit(rotated(MINE)), self.B, 0.1, 2), value)
        assert torch.allclose(mini_batch(self.A.flip(0), self.B.flip(0), 0.1, 2), value)

    def test_groups_do_not_see_each_other(self) -> None:
        four, its = (torch.cat([x, x.flip(1) + i]) for i, x in ((0.0, self.A), (0.1, self.B)))
        parts = [mini_batch(four[k : k + 2], its[k : k + 2], 0.1, 2) for k in (0, 2)]
        assert torch.allclose(mini_batch(four, its, 0.1, 2), torch.stack(parts).mean())
        three = mini_batch(four[:3], its[:3], 0.1, 2)
        alone = mini_batch(four[2:3], its[2:3], 0.1, 2)
        assert torch.allclose(three, (2 * parts[0] + alone) / 3)

    def test_memory_terms(self) -> None:
        negatives = F.normalize(draw(9, 8, seed=8), dim=1)
        anchors = LABELS.flatten(1) > 0
        assert abs(memory_term(self.B, self.B, negatives, anchors, 0.1)) < 1e-14
        student = F.normalize(draw(2, 35, 8, seed=7), dim=2).requires_grad_()
        value = memory_term(student, self.B, negatives, anchors, 0.1, 2.0)
        s, t = (x[anchors] @ negatives.t() / 0.1 / 2 for x in (student, self.B))
        expected = 4 * F.kl_div(s.log_softmax(1), t.softmax(1), reduction="batchmean")
        assert torch.allclose(value, expected)
        both = [torch.autograd.grad(v, student)[0] for v in (value, expected)]
        assert torch.allclose(*both)
        assert memory_term(student, self.B, negatives, torch.zeros_like(anchors), 0.1) == 0


class TestMemory:
    def test_a_drawn_pixel_belongs_to_its_class(self) -> None:
        labels = torch.randint(0, 3, (4, 50), generator=torch.Generator().manual_seed(1))
        labels[:, :5] = IGNORE
        labels[2] = 1
        order = torch.rand(4, 50, generator=torch.Generator().manual_seed(2))
        found = draw_pixels(labels, 3, 16, order)
        assert found.number[2].tolist() == [0, 16, 0]
        for image in range(4):
            for c in range(3):
                chosen = found.place[image, c, : found.number[image, c]]
                assert (labels[image, chosen] == c).all()
                assert len(chosen.unique()) == len(chosen) == min(16, int((labels[image] == c).sum()))

    def test_the_literal_draw_stays_within_the_first_pixels(self) -> None:
        labels = torch.zeros(1, 40).long()
        labels[0, :30] = 1
        found = draw_pixels(labels, 2, 16, torch.rand(1, 40), literal=True)
        assert found.place[0, 0, :10].sort().values.tolist() == list(range(10))  # ten pixels of class 0, all behind position 30
        assert found.place[0, 1].max() < 30

    def test_stored_vectors_are_unit_and_of_their_class(self) -> None:
        embedding = unit(ITS)
        labels = LABELS.flatten(1)
        bank = Bank(4, 50, 8).double()
        bank.write(pixels(embedding, draw_pixels(labels, 4, 3, torch.rand(2, 35))))
        assert torch.allclose(bank.vectors.norm(dim=2), torch.ones(4, 50, dtype=D))
        for c in range(4):
            own = embedding[labels == c]
            stored = bank.vectors[c, : bank.position[c]]
            assert len(stored)
            assert all((own - vector).abs().sum(1).min() < 1e-12 for vector in stored)

    def test_regions_are_unit_means(self) -> None:
        embedding, labels = unit(ITS), LABELS.flatten(1)
        found = regions(embedding, labels, 5)
        assert found.number.tolist() == [[1, 1, 1, 1, 0]] * 2
        assert torch.allclose(found.vectors[1, 2, 0], F.normalize(embedding[1, labels[1] == 2].mean(0), dim=0))

    @pytest.mark.parametrize("resets", [False, True])
    def test_positions_and_wrap_follow_a_plain_loop(self, resets: bool) -> None:
        torch.manual_seed(0)
        bank = Bank(3, 7, 2, resets)
        vectors, position = bank.vectors.clone(), [0] * 3
        for _ in range(9):
            found = Found(F.normalize(torch.randn(4, 3, 3, 2), dim=3), torch.randint(0, 4, (4, 3)))
            for image in range(4):
                for c in range(3):
                    n = int(found.number[image, c])
                    first = position[c]
                    if resets and n and first + n >= 7:
                        first, position[c] = 7 - n, 0
                    else:
                        position[c] = first + n if resets else (first + n) % 7
                    for k in range(n):
                        vectors[c, (first + k) % 7] = found.vectors[image, c, k]
            bank.write(found)
            assert bank.position.tolist() == position
            assert torch.equal(bank.vectors, vectors)

    def test_banks_take_no_gradient_and_all_ignored_is_zero(self) -> None:
        sizes = Sizes(4, 8, 8, False)
        method = CIRKD(CIRKD.Config(pixel_slots=20, region_slots=9), sizes, sizes)
        outputs = Outputs(draw(2, 4, 5, 7).float(), embedding=ITS.float())
        before = copy.deepcopy(method.pixel_bank.vectors)
        terms = method(outputs, outputs, torch.full((2, 5, 7), IGNORE))
        assert terms["pixel"] == terms["region"] == 0
        assert torch.equal(method.pixel_bank.vectors, before)
        assert not any(buffer.requires_grad for buffer in method.buffers())


class TestMasks:
    def test_zero_tokens_weigh_every_pixel_by_half(self) -> None:
        other = draw(2, 8, 5, 7, seed=4)
        mask = masks(torch.zeros(3, 8, dtype=D), ITS)
        assert (mask == 0.5).all()
        assert float(masked_difference(other, ITS, mask)) == pytest.approx(float((other - ITS).square().mean()) / 4, rel=1e-5)

    def test_bounds_equality_and_order(self) -> None:
        other, mask = draw(2, 8, 5, 7, seed=4), masks(draw(3, 8), ITS)
        value = masked_difference(other, ITS, mask)
        assert masked_difference(ITS, ITS, mask) == 0
        assert 0 <= value <= 0.5 * (other - ITS).square().max()
        assert torch.allclose(masked_difference(other, ITS, mask.flip(1)), value)

    def test_overlap_of_equal_and_disjoint_masks(self) -> None:
        equal = torch.ones(1, 2, 3, 4, dtype=D)
        apart = equal.clone()
        apart[:, 0, :, :2], apart[:, 1, :, 2:] = 0, 0
        assert float(overlap(equal)) == pytest.approx(1)
        assert float(overlap(apart)) == 0
        assert float(overlap(equal[:, :1])) == 0

    def test_tokens_rest_while_the_student_learns(self) -> None:
        sizes = Sizes(4, 8, 8, False)
        method = MasKD(MasKD.Config(aux=False), sizes, sizes)
        assert [stage.trains_student for stage in method.stages] == [False, True]
        method.enter(method.stages[1])
        mine = draw(2, 4, 5, 7).requires_grad_()
        method(Outputs(mine), Outputs(draw(2, 4, 5, 7, seed=2)), LABELS)["mask"].backward()
        assert mine.grad is not None
        assert method.tokens.values.grad is None


class TestCritic:
    @pytest.mark.parametrize(
        ("grid", "stages"), [((64, 64), 4), ((64, 128), 4), ((65, 65), 4), ((45, 60), 3), ((8, 8), 1), ((4, 9), 0), ((0, 0), 4)]
    )
    def test_its_depth_follows_the_map(self, grid: tuple[int, int], stages: int) -> None:
        assert strided_stages(grid) == stages
        size = grid if grid != (0, 0) else (64, 64)
        assert min(Critic(3, stages, width=8)(torch.randn(2, 3, *size)).shape) >= 1

    def test_a_map_too_small_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"score maps of 3x9 are too small .* larger augmentation\.crop"):
            strided_stages((3, 9))

    def test_the_published_size(self) -> None:
        assert sum(p.numel() for p in Critic(11).parameters()) == pytest.approx(3.19e6, rel=0.005)

    def test_equal_scores_cost_nothing_for_wgan(self) -> None:
        scores = torch.randn(2, 1, 1, 5)
        assert critic_loss(scores, scores, "wgan") == 0

    @pytest.mark.parametrize("kind", ["hinge", "wgan"])
    def test_one_backward_equals_the_two_published_steps(self, kind: str) -> None:
        torch.manual_seed(0)
        sizes = Sizes(3, 8, 4, False, grid=(16, 16))
        together = Adversary(Adversary.Config(kind=kind, penalty=0.0), sizes).double()
        apart = copy.deepcopy(together)
        heads = [nn.Conv2d(3, 3, 1).double() for _ in range(2)]
        heads[1].load_state_dict(heads[0].state_dict())
        optimizers = [torch.optim.SGD([*m.parameters()], 0.05) for m in (heads[0], together, heads[1], apart)]
        for step in range(4):
            image, teacher = draw(2, 3, 16, 16, seed=step), draw(2, 3, 16, 16, seed=50 + step)
            for optimizer in optimizers:
                optimizer.zero_grad()
            terms = together(heads[0](image), teacher)
            (0.3 * terms["fool"] + 0.1 * terms["critic"]).backward()
            optimizers[0].step()
            optimizers[1].step()
            logits = heads[1](image)
            (0.3 * -apart.critic(logits).mean()).backward()
            optimizers[2].step()
            apart.zero_grad()
            real, fake = apart.critic(teacher), apart.critic(logits.detach())
            (0.1 * critic_loss(real, fake, kind)).backward()
            optimizers[3].step()
        for one, other in zip(
            [*heads[0].parameters(), *together.parameters()], [*heads[1].parameters(), *apart.parameters()], strict=True
        ):
            assert torch.allclose(one, other, atol=1e-12)

    def test_who_learns_from_which_term(self) -> None:
        adversary = Adversary(Adversary.Config(penalty=10.0), Sizes(3, 8, 4, False, grid=(16, 16)))
        student = torch.randn(2, 3, 16, 16, requires_grad=True)
        terms = adversary(student, torch.randn(2, 3, 16, 16))
        terms["fool"].backward(retain_graph=True)
        assert student.grad is not None
        assert all(p.grad is None for p in adversary.parameters())
        student.grad = None
        terms["critic"].backward()
        assert student.grad is None
        assert all(p.grad is not None for p in adversary.parameters())
        assert all(math.isfinite(float(p.grad.sum())) for p in adversary.parameters())  # type: ignore[union-attr]
