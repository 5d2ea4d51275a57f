"""Two processes are one: losses, gradients, whole steps and evaluations equal those of a single process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from helpers_forked import on_ranks
from safetensors.torch import load_file
from timm.layers import DropPath
from tiny import execute, tiny
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd.losses.cross_entropy import CrossEntropy
from kd.losses.kl import KL
from kd.losses.overlap import JaccardMetricLoss
from kd.networks.drawn_by_image import draw_by_image
from kd.networks.sync_batch_norm import synchronise
from kd.recipe.schema import Recipe
from kd.seeds import seed_processes

ROOT = Path(__file__).parent.parent

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "jml_batch": lambda: JaccardMetricLoss(smooth=1.0),
    "jml_present": lambda: JaccardMetricLoss(active_soft="present", threshold=0.5),
    "jml_mixture": lambda: JaccardMetricLoss(per_batch=0.5, per_image=0.25, per_class=0.25, alpha=0.3, beta=0.7, gamma=2),
    "jml_log": lambda: JaccardMetricLoss(log=True, class_weights=(1.0, 2.0, 0.5, 1.5)),
    "ce": lambda: CrossEntropy(class_weights=(1.0, 2.0, 0.5, 1.5)),
    "kl": lambda: KL(temperature=2.0),
}


def problem() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A little network, 4 images, hard and soft targets; images hold different classes and numbers of ignored pixels."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)
    ).double()
    image = torch.randn(4, 3, 9, 11, dtype=torch.float64)
    hard = torch.randint(0, 4, (4, 9, 11))
    hard[0][hard[0] == 2] = 1
    hard[1, :6], hard[2, :, :3] = 255, 255
    soft = (3 * torch.randn(4, 4, 9, 11, dtype=torch.float64)).softmax(1)
    return network, image, hard, soft


def gradients(name: str, kind: str, share: slice) -> tuple[float, list[Tensor]]:
    """Value and gradients of one process's share."""
    network, image, hard, soft = problem()
    loss = LOSSES[name]()
    network = synchronise(network, torch.device("cpu"))
    model: nn.Module = DistributedDataParallel(network, broadcast_buffers=False) if dist.is_initialized() else network
    keep = hard != 255
    target = hard if kind == "hard" else soft
    value = loss(model(image[share]), target[share], keep[share])
    value.backward()
    return float(value.detach()), [p.grad for p in network.parameters() if p.grad is not None]


def _member(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    share = slice(2 * rank, 2 * rank + 2)
    found = {f"{name}-{kind}": gradients(name, kind, share) for name in LOSSES for kind in ("hard", "soft")}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What two gloo processes computed on halves of the batch."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_member, args=(folder,), nprocs=2, start_method="fork")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("name", LOSSES)
def test_two_halves_are_one_whole(ranks: list[dict[str, Any]], name: str, kind: str) -> None:
    value, grads = gradients(name, kind, slice(0, 4))
    for rank in ranks:
        other, theirs = rank[f"{name}-{kind}"]
        assert other == pytest.approx(value, rel=1e-6)
        for mine, its in zip(grads, theirs, strict=True):
            assert (mine - its).abs().max() <= 1e-6 * mine.abs().max().clamp_min(1e-12)


def test_without_the_sum_over_ranks_it_would_differ() -> None:
    """The check above is not vacuous: the mean of the halves' own losses is another number."""
    _, _, hard, _ = problem()
    loss, logits = JaccardMetricLoss(smooth=1.0), torch.randn(4, 4, 9, 11, dtype=torch.float64)
    halves = (loss(logits[:2], hard[:2]) + loss(logits[2:], hard[2:])) / 2
    assert abs(float(halves - loss(logits, hard))) > 1e-3


def saved(recipe: Recipe, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def test_a_whole_step_on_two_processes(tmp_path: Path) -> None:
    """Batch norm, all terms of JML-KD, optimizer and evaluation: the same student, but for rounding of single precision.

    With this seed no ReLU's input is so near to 0 that rounding decides its gradient.
    """
    changes: dict[str, Any] = {
        "seed": 3,
        "data": {"size": [64, 64]},
        "augmentation": {"crop": [64, 64]},
        "student": {"dropout": 0.3, "output_stride": 8},
        "evaluation": {"every": 0},
    }
    still = tiny("jml_kd", **changes, schedule={"steps": 1, "optimizer": {"kind": "sgd", "lr": 1e-30}})
    recipe = tiny("jml_kd", **changes, schedule={"steps": 1, "optimizer": {"kind": "sgd", "lr": 1.0}})
    for code, _, errors in on_ranks(tmp_path, 2, "train", saved(recipe, tmp_path), "--output", tmp_path / "two"):
        assert code == 0, errors
    one = execute(recipe, tmp_path / "one")
    execute(still, tmp_path / "start")
    start, mine, theirs = (load_file(tmp_path / name / "student.safetensors") for name in ("start", "one", "two"))
    moved = max(float((mine[key] - start[key]).abs().max()) for key in mine if mine[key].ndim > 1)
    assert moved > 0.01
    for key, value in mine.items():
        scale = float(value.abs().max()) if "running" in key else moved  # statistics follow from the images, not from the step
        assert (value.double() - theirs[key].double()).abs().max() <= 1e-5 * scale, key
    two = json.loads((tmp_path / "two" / "result.json").read_text())
    assert two["last"]["test"]["images"] == one["last"]["test"]["images"] == 3
    assert two["last"]["test"]["mIoU"] == pytest.approx(one["last"]["test"]["mIoU"], abs=0.1)
    assert two["environment"]["processes"] == 2


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    words = (saved(tiny(), tmp_path), "--output", tmp_path / "run", "schedule.batch=3")
    for code, _, errors in on_ranks(tmp_path, 2, "train", *words):
        assert code == 2
        assert "schedule.batch: is 3; 2 processes x 1 accumulated parts need a multiple of 2" in errors
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_norms_that_are_added_keep_their_gradients_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one value a process, and twice: what is accumulated in place for one bias must not reach the other."""
    monkeypatch.setattr("kd.networks.sync_batch_norm.world_size", lambda: 2)
    pair = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
    synchronise(pair, torch.device("cpu"))
    monkeypatch.setattr("kd.networks.sync_batch_norm.sum_over_ranks", lambda values: 2 * values)
    for slope in (1.0, 10.0):
        made = pair[0](torch.ones(1, 3, 1, 1)) + pair[1](torch.zeros(1, 3, 1, 1))
        (slope * made).sum().backward()
    assert [norm.bias.grad.tolist() for norm in pair] == [[11.0] * 3] * 2


class _Dropping(nn.Module):
    """Every kind of dropout that draws by image, on maps and on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.channels, self.paths = nn.Dropout(0.4), nn.Dropout2d(0.4), DropPath(0.4)

    def forward(self, maps: Tensor) -> list[Tensor]:
        tokens = maps.flatten(2).transpose(1, 2)
        return [self.values(maps), self.values(tokens), self.channels(maps), self.paths(maps), self.paths(tokens)]


def _dropped(images: slice) -> list[Tensor]:
    network = _Dropping()
    draw_by_image(network)
    seed_processes(1, "step", 2)
    return network(torch.ones(4, 50, 6, 7)[images])


def test_dropout_is_that_of_the_image_wherever_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _dropped(slice(None))
    assert all(torch.equal(a, b) for a, b in zip(whole, _dropped(slice(None)), strict=True))
    assert not torch.equal(whole[0][0], whole[0][1])  # images are not dropped alike, nor are layers
    assert not torch.equal(whole[0].flatten(2).transpose(1, 2), whole[1])
    assert torch.cat([part.flatten() for part in whole]).unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert float((whole[0] == 0).float().mean()) == pytest.approx(0.4, abs=0.02)
    assert float((whole[2] == 0).float().mean()) == pytest.approx(0.4, abs=0.1)
    assert bool((whole[2][:, :, :1, :1] == whole[2]).all())
    assert bool((whole[3][:, :1, :1, :1] == whole[3]).all())
    for member in range(2):
        monkeypatch.setattr("kd.seeds.rank", lambda member=member: member)
        share = slice(2 * member, 2 * member + 2)
        assert all(torch.equal(part[share], mine) for part, mine in zip(whole, _dropped(share), strict=True))


def test_dropout_by_image_is_torchs_but_for_what_it_draws() -> None:
    network = _Dropping()
    draw_by_image(network)
    assert [type(child).__mro__[1] for child in network.children()] == [nn.Dropout, nn.Dropout2d, DropPath]
    image = torch.rand(2, 3, 4, 5, requires_grad=True)
    kept = network.values(image)
    kept.sum().backward()
    assert torch.equal(image.grad, (kept != 0) / 0.6)
    assert all(torch.equal(part.flatten(), image.flatten()) for part in network.eval()(image)[::2][:2])
    unscaled = DropPath(0.5, scale_by_keep=False)
    draw_by_image(unscaled)
    assert set(unscaled(torch.ones(64, 1)).flatten().tolist()) == {0.0, 1.0}
