"""What Af-DCD and AttnFD promise: plain expressions in float64, what does not matter, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.config import ConfigError
from kd.methods import afdcd_contrast
from kd.methods.afdcd import AfDCD, centre_mask, random_mask
from kd.methods.afdcd_contrast import contrast, parts
from kd.methods.attnfd import AttnFD, ChannelScore, direction_gap, refined
from kd.methods.build import build_method
from kd.recipe.schema import method_config
from kd.seeds import seed_everything
from kd.types import Outputs, Sizes
from students.contract.ranks import two_are_one
from students.contract.subject import subject

D = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def sizes(width: int, levels: tuple[int, ...] = (8,)) -> Sizes:
    return Sizes(4, 8, width, False, levels, tuple(8 for _ in levels))


def outputs(maps: Tensor) -> Outputs:
    return Outputs(maps.new_zeros(len(maps), 4, *maps.shape[2:]), embedding=maps, pyramid=(maps,))


def labels(maps: Tensor) -> Tensor:
    return torch.zeros(len(maps), *maps.shape[2:], dtype=torch.long)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


class TestContrast:
    MINE, ITS = draw(2, 6, 5, 9, seed=1), draw(2, 6, 5, 9, seed=2)

    @staticmethod
    def plain(student: Tensor, teacher: Tensor, patch: tuple[int, int], groups: int, temperature: float) -> Tensor:
        """One vector after another."""
        total = student.new_zeros(())
        (rows, columns), width = patch, student.shape[1] // groups
        for image in range(len(student)):
            for top in range(0, student.shape[2] - rows + 1, rows):
                for left in range(0, student.shape[3] - columns + 1, columns):
                    within = [(top + i, left + j, g) for i in range(rows) for j in range(columns) for g in range(groups)]
                    for y, x, own in within:
                        vector = student[image, own * width : (own + 1) * width, y, x]
                        others = [(y, x, own), *(place for place in within if place[2] != own)]
                        its = torch.stack([teacher[image, g * width : (g + 1) * width, v, u] for v, u, g in others])
                        close = -(vector - its).abs().sum(1) / temperature
                        total = total - close.log_softmax(0)[0]
        return total

    @pytest.mark.parametrize("entries", [2**20, 400, 30])
    @pytest.mark.parametrize("patch", [(2, 3), (5, 2)], ids=str)
    def test_it_is_the_plain_expression_with_its_gradient(
        self, patch: tuple[int, int], entries: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(afdcd_contrast, "ENTRIES", entries)
        distances, held = torch.cdist, []
        monkeypatch.setattr(torch, "cdist", lambda *of, **how: held.append(distances(*of, **how)) or held[-1])
        leaf = self.MINE.clone().requires_grad_()
        value = contrast(parts(leaf, patch, 3), parts(self.ITS, patch, 3), 3, 0.5)
        expected = self.plain(leaf, self.ITS, patch, 3, 0.5)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(value, leaf), gradient(expected, leaf), rtol=1e-10, atol=1e-12)
        assert max(found.numel() for found in held) <= max(entries, 3 * patch[0] * patch[1])

    def test_order_of_images_groups_and_pixels_of_a_patch_does_not_matter(self) -> None:
        def value(change: Any) -> Tensor:
            return contrast(*(parts(change(maps[:, :, :4, :8]), (4, 4), 3) for maps in (self.MINE, self.ITS)), 3, 0.5)

        whole = value(lambda maps: maps)
        torch.testing.assert_close(value(lambda maps: maps.flip(0)), whole)
        torch.testing.assert_close(value(lambda maps: maps.unflatten(1, (3, 2))[:, [2, 0, 1]].flatten(1, 2)), whole)
        torch.testing.assert_close(value(lambda maps: maps.flip(2)), whole)
        assert not torch.allclose(value(lambda maps: maps.roll(1, 3)), whole)
        assert not torch.allclose(value(lambda maps: maps.roll(1, 1)), whole)

    def test_groups_that_lie_far_apart_cost_nothing_where_the_networks_agree(self) -> None:
        far = self.ITS.clone()
        far[:, 2:4] += 100
        far[:, 4:] -= 100
        assert contrast(*(parts(far, (4, 4), 3) for _ in range(2)), 3, 0.5) == 0

    def test_a_student_on_one_side_of_the_teacher_has_no_gradient(self) -> None:
        leaf = (self.MINE - 50).float().requires_grad_()
        value = contrast(parts(leaf, (4, 4), 3), parts(self.ITS.float(), (4, 4), 3), 3, 0.07)
        assert value > 1
        assert gradient(value, leaf).abs().max() < 1e-4

    def test_the_teacher_may_be_of_inference_mode(self) -> None:
        with torch.inference_mode():
            its = self.ITS.flatten(2).transpose(1, 2).contiguous()
        leaf = self.MINE.flatten(2).transpose(1, 2).requires_grad_()
        assert gradient(contrast(leaf, its, 3, 0.5), leaf).any()


class TestAfDCD:
    MINE, ITS = draw(3, 5, 9, 11, seed=3), draw(3, 8, 9, 11, seed=4)

    def method(self, **knobs: Any) -> AfDCD:
        seed_everything("method")
        pair = sizes(5, (5,)), sizes(8)
        return AfDCD(AfDCD.Config(**{"groups": 4, "pool": 2, "patch": (2, 2), "mask": "none", **knobs}), *pair).double()

    def found(self, method: AfDCD, mine: Tensor = MINE, its: Tensor = ITS) -> dict[str, float]:
        terms = method(outputs(mine), outputs(its), labels(its))
        return {name: float(term.detach()) for name, term in terms.items()}

    @pytest.mark.parametrize("projector", ["plain", "enhanced"])
    def test_both_terms_are_their_plain_expressions(self, projector: str) -> None:
        method = self.method(projector=projector, mask="centre")
        made = method.projector(method.align(self.MINE) * centre_mask(self.MINE))
        terms = self.found(method)
        assert terms["feature"] == pytest.approx(float((made.detach() - self.ITS).square().sum()) / 3, rel=1e-12)
        pooled = (F.max_pool2d(maps, 2) for maps in (made, self.ITS))  # of 9 x 11 pixels 4 x 5, of which 4 x 4 make patches
        expected = TestContrast.plain(*pooled, (2, 2), 4, 0.07)
        assert terms["contrast"] == pytest.approx(float(expected.detach()) / (3 * 4 * 4), rel=1e-12)

    def test_what_lies_beyond_whole_windows_and_patches_takes_no_part_in_the_contrast(self) -> None:
        method, changed = self.method(), self.ITS.clone()
        changed[:, :, 8:] += 3
        changed[:, :, :, 8:] -= 2
        before, after = self.found(method), self.found(method, its=changed)
        assert after["contrast"] == before["contrast"]
        assert after["feature"] != before["feature"]

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (4, 65)], ids=str)
    def test_a_map_smaller_than_a_window_or_a_patch_is_one(self, size: tuple[int, int]) -> None:
        terms = self.found(self.method(pool=4, patch=(4, 4)), draw(2, 5, *size), draw(2, 8, *size))
        assert all(0 < value < float("inf") for value in terms.values())

    def test_order_of_images_does_not_matter(self) -> None:
        method = self.method()
        assert self.found(method, self.MINE.flip(0), self.ITS.flip(0)) == pytest.approx(self.found(method), rel=1e-12)

    def test_features_that_are_generated_exactly_cost_nothing(self) -> None:
        method, its = AfDCD(sizes(8), sizes(8), groups=4, mask="none").double(), self.ITS.abs()
        assert isinstance(method.align, nn.Identity)
        for conv in (method.projector.hidden[0][0], method.projector.last[0]):
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)
        assert self.found(method, its, its)["feature"] == 0

    def test_masks_hide_what_they_say_and_follow_from_the_seed(self) -> None:
        noise = torch.rand(4, 1, 90, 90, generator=torch.Generator().manual_seed(0))
        assert float(random_mask(noise, 0.75).mean()) == pytest.approx(0.25, abs=0.01)
        assert random_mask(noise, 0.0).all()
        hidden = (centre_mask(torch.zeros(1, 2, 9, 10)) == 0).nonzero()
        assert hidden[:, 2:].amin(0).tolist() == [3, 3]
        assert hidden[:, 2:].amax(0).tolist() == [5, 5]
        method = self.method(mask="random")
        found = []
        for seed in (1, 1, 2):
            seed_everything(seed)
            found.append(self.found(method))
        assert found[0] == found[1] != found[2]

    def test_two_processes_are_one_whatever_hides(self) -> None:
        for knobs in ({"mask": "random"}, {"mask": "centre", "pool": 1}, {"mask": "none", "projector": "enhanced"}):
            two_are_one(subject(method_config({"name": "afdcd", **knobs})))

    def test_groups_that_do_not_divide_the_width_are_refused_with_the_options(self) -> None:
        with pytest.raises(ConfigError, match=r"method\.groups: is 16, but .* 24 channels .* take one of 2, 3, 4, 6, 8, 12"):
            AfDCD(sizes(8), sizes(24, (24,)))
        with pytest.raises(ConfigError, match="method: holds level -1, but one of the networks gives no levels"):
            AfDCD(sizes(8, ()), sizes(8))


class TestAttnFD:
    MINE, ITS = draw(2, 6, 5, 7, seed=5), draw(2, 6, 5, 7, seed=6)

    def test_the_gap_is_the_plain_expression_with_its_gradient(self) -> None:
        leaf = draw(2, 40, 5, 7).requires_grad_()
        its = draw(2, 40, 5, 7, seed=1)
        value, expected = direction_gap(leaf, its), (leaf / leaf.norm() - its / its.norm()).square().sum() / 2
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(value, leaf), gradient(expected, leaf), rtol=1e-10, atol=1e-14)

    def test_zero_at_equality_bounds_and_scales(self) -> None:
        value = direction_gap(self.MINE, self.ITS)
        assert abs(direction_gap(self.ITS, 3 * self.ITS)) < 1e-15
        assert direction_gap(self.ITS, -self.ITS) == pytest.approx(4 / 2)
        torch.testing.assert_close(direction_gap(7 * self.MINE, self.ITS), value)
        torch.testing.assert_close(direction_gap(self.MINE.flip(0), self.ITS.flip(0)), value)
        twice = (maps.repeat(2, 1, 1, 1) for maps in (self.MINE, self.ITS))
        torch.testing.assert_close(direction_gap(*twice), value / 2)

    def test_maps_of_zeros_have_no_gradient_and_no_nan(self) -> None:
        leaf = torch.zeros_like(self.MINE).requires_grad_()
        value = direction_gap(leaf, self.ITS)
        assert value == 1  # 2 / B, as for maps at right angles
        assert not gradient(value, leaf).any()

    def test_there_is_no_second_derivative_and_it_says_so(self) -> None:
        leaf = self.MINE.clone().requires_grad_()
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(direction_gap(leaf, self.ITS), leaf, create_graph=True)

    def test_the_teachers_gates_are_their_plain_expression_and_follow_images_pixels_and_channels(self) -> None:
        found = refined(self.ITS)
        for image, one in zip(self.ITS, found, strict=True):
            gate = torch.stack([(channel.mean() + channel.max()).sigmoid() for channel in image])
            weighted = image * gate[:, None, None]
            torch.testing.assert_close(one, weighted * (weighted.mean(0) + weighted.max(0).values).sigmoid())
        for dim in range(4):
            torch.testing.assert_close(refined(self.ITS.flip(dim)), found.flip(dim))

    def test_a_narrow_map_has_one_hidden_unit(self) -> None:
        assert ChannelScore(6, 16).layers[0].out_features == 1
        assert ChannelScore(64, 16).layers[0].out_features == 4

    def test_taps_decide_what_is_read_and_levels_that_are_not_there_are_refused(self) -> None:
        pair = sizes(6, (4, 8)), sizes(10, (3, 5))
        method = AttnFD(*pair)
        assert method.needs == {"pyramid", "embedding"}
        assert [layers.projection[0].weight.shape[:2] for layers in method.refinements] == [(5, 8), (10, 6)]
        assert AttnFD(*pair, taps=("embedding",)).needs == {"embedding"}
        with pytest.raises(ConfigError, match=r"method\.taps: holds level 2, but both networks have 2 levels, 0\.\.1"):
            AttnFD(*pair, taps=(2,))
        poor = replace(pair[1], pyramid=(), pyramid_strides=())
        with pytest.raises(ConfigError, match="one of the networks gives no levels"):
            build_method({"name": "attnfd"}, pair[0], poor)

    def test_taps_are_summed(self) -> None:
        method = AttnFD(sizes(6, (6,)), sizes(6, (6,))).double()
        method.refinements[1].load_state_dict(method.refinements[0].state_dict())
        both = method(outputs(self.MINE), outputs(self.ITS), labels(self.ITS))["attention"]
        one = AttnFD(sizes(6, (6,)), sizes(6, (6,)), taps=(0,)).double()
        one.refinements[0].load_state_dict(method.refinements[0].state_dict())
        torch.testing.assert_close(both, 2 * one(outputs(self.MINE), outputs(self.ITS), labels(self.ITS))["attention"])
