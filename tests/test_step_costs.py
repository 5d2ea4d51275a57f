"""What `kd benchmark step` compares: one teacher's answers, one objective, whole steps that move weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd.benchmark.setting import Setting
from kd.seeds import seed_everything
from students import step_costs
from students.trainer import Trainer

SETTING = Setting((48, 64), 2, 5)
SMALL = {"backbone": "test_resnet", "rates": [1, 2], "width": 8, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STUDENT", "TEACHER"):
        monkeypatch.setattr(step_costs, name, {**step_costs.NETWORK, **SMALL})


def test_the_answers_are_one() -> None:
    ways = step_costs.COMPARISONS["teacher's answer"].make(SETTING)
    saved, folded, half = (way().logits.float() for way in ways.values())
    torch.testing.assert_close(folded, saved, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half, saved, rtol=0, atol=0.03 * float(saved.abs().max()))


def test_the_steps_begin_with_one_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    losses: list[float] = []
    step, usual = Trainer.one_step, step_costs.usual

    def watched(trainer: Trainer, batches: Any) -> dict[str, float]:
        terms = step(trainer, batches)
        losses.append(sum(step_costs.WEIGHTS[name] * value for name, value in terms.items()))
        return terms

    def told(*arguments: Any) -> torch.Tensor:
        found = usual(*arguments)
        losses.append(float(found.detach()))
        return found

    monkeypatch.setattr(Trainer, "one_step", watched)
    monkeypatch.setattr(step_costs, "usual", told)
    build = step_costs.usual_step

    def alike(*arguments: Any) -> Callable[[], object]:
        seed_everything(0, "student")  # as the trainer builds its own
        return build(*arguments)

    monkeypatch.setattr(step_costs, "usual_step", alike)
    for way in step_costs.COMPARISONS["step of JML-KD"].make(SETTING).values():
        way()
    plain, ours, half, cached = losses
    assert ours == pytest.approx(plain, rel=1e-4)
    assert half == pytest.approx(plain, rel=2e-2)
    assert cached == pytest.approx(plain, rel=2e-2)
