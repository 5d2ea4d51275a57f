"""Every method, by its presets, through the real trainer: exact resumption, two processes, bf16, ignored batches.

``python tests/test_method_runs.py`` writes ``traces.json`` anew: the loss and terms of each preset's four steps, which tell
when a change anywhere (data, networks, loop, losses, weights) has changed what a method trains on.
"""

from __future__ import annotations

import json
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from helpers_faults import FAULTS
from safetensors.torch import load_file

from kd.data.build import open_split
from kd.recipe.loading import load
from kd.recipe.schema import Recipe
from kd.seeds import seed_everything
from kd.types import IGNORE, Batch
from students.contract.resuming import trainer_of
from students.run import train
from students.trainer import Trainer
from teachers.load import load_teacher

ROOT = Path(__file__).parent.parent


def presets() -> list[str]:
    """Those whose method is none of another's, alike in all but weights."""
    files = sorted(file for file in (ROOT / "recipes" / "_parts" / "method").glob("*.yaml") if "method:" in file.read_text())
    trees = {file.stem: yaml.safe_load(file.read_text())["method"] for file in files}
    members = {name: {str(one) for one in (tree if isinstance(tree, list) else [tree])} for name, tree in trees.items()}
    order = sorted(members, key=lambda name: (-len(members[name]), name))
    return [name for place, name in enumerate(order) if not any(members[name] <= members[other] for other in order[:place])]


PRESETS = presets()
CPU = torch.device("cpu")
TRACES = Path(__file__).with_name("traces.json")
WORLDS = (2, 4) if FAULTS else (2,)


def preset(name: str, *overrides: str) -> Recipe:
    """Four steps of a preset on procedural images, with a teacher wider than the student."""
    teacher = "{name: fresh, network: {name: deeplabv3, backbone: test_resnet, width: 96, aux: 16, pretrained: false}}"
    small = ["method.pixel_slots=50", "method.region_slots=9"] if name.startswith("cirkd") else []
    words = [
        f"teacher={teacher}",
        "run.device=cpu",
        "run.previews=0",
        "run.checkpoint_every=1",
        "run.log_every=1",
        "evaluation.every=0",
    ]
    return load("shapes/tiny", [name, *words, *small, *overrides], smoke=True)[0]


def beginning(recipe: Recipe, folder: Path) -> tuple[Trainer, Any]:
    """The trainer and its batches."""
    trainer, batches = trainer_of(recipe, folder, load_teacher)
    return trainer, batches(0)


def run(recipe: Recipe, folder: Path) -> dict[str, Any]:
    data = open_split(recipe.data, "train")
    seed_everything(recipe.seed, "teacher")
    return train(recipe, {}, folder, load_teacher(recipe.teacher, data.classes), data, CPU)


def trace(folder: Path) -> list[dict[str, float]]:
    """The loss and its unweighted terms of each step."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    steps = [{"loss": line["train"]["loss"], **line["terms"]} for line in lines if "terms" in line]
    return [{name: float(f"{value:.6g}") for name, value in step.items()} for step in steps]


def assert_as_before(name: str, steps: list[dict[str, float]]) -> None:
    """The first step up to rounding; later ones drift apart by what rounding does in between."""
    before = json.loads(TRACES.read_text())[name]
    assert [list(terms) for terms in steps] == [list(terms) for terms in before]
    for number, (mine, its) in enumerate(zip(steps, before, strict=True)):
        assert mine == pytest.approx(its, rel=5e-2 if number else 1e-4, abs=1e-6), f"step {number + 1}: see the module's text"


@pytest.mark.parametrize("name", PRESETS)
def test_resuming_is_bitwise_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in the middle, and for methods of several stages also where the stage changes."""
    recipe = preset(name)
    run(recipe, tmp_path / "whole")
    assert_as_before(name, trace(tmp_path / "whole"))
    original, cuts = Trainer.one_step, [1, 3]

    def dies(self: Trainer, batches: Any) -> Any:
        if cuts and self.step == cuts[0]:
            cuts.pop(0)
            raise RuntimeError("power cut")
        return original(self, batches)

    monkeypatch.setattr(Trainer, "one_step", dies)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            run(recipe, tmp_path / "cut")
    run(recipe, tmp_path / "cut")
    states = [torch.load(tmp_path / kind / "checkpoint.pt", weights_only=True) for kind in ("whole", "cut")]
    objectives = [state["objective"] for state in states]
    assert all(torch.equal(value, objectives[1][key]) for key, value in objectives[0].items())
    assert states[0]["step"] == states[1]["step"] == (5 if name.startswith("maskd") else 4)
    kept = [tmp_path / kind / "method.safetensors" for kind in ("whole", "cut")]
    assert kept[0].exists() == name.startswith("maskd")
    if kept[0].exists():
        assert torch.equal(*(load_file(file)["tokens"] for file in kept))


def trained(name: str, folder: Path) -> dict[str, Any]:
    """All steps in double precision, so that nothing but the mathematics can differ: the terms of each, and what they left."""
    short = () if len(WORLDS) > 1 else ("schedule.steps=2",)
    trainer, batches = trainer_of(
        preset(name, "schedule.batch=4", *short), folder, lambda *words: load_teacher(*words).double()
    )
    trainer.objective.double()
    source = batches(0)
    terms = [trainer.one_step(source) for _ in range(trainer.total)]
    return {"terms": terms, "state": trainer.objective.state_dict()}


def _member(rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store{world}"
    dist.init_process_group("gloo", store, rank=rank, world_size=world, timeout=timedelta(seconds=100))
    found = {name: trained(name, Path(folder)) for name in PRESETS}
    torch.save(found, f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    """What two gloo processes ended with, and four where faults are looked for."""
    folder = tmp_path_factory.mktemp("ranks")
    for world in WORLDS:
        mp.start_processes(_member, args=(str(folder), world), nprocs=world, start_method="fork")
    return {world: [torch.load(folder / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)] for world in WORLDS}


@pytest.mark.parametrize("name", PRESETS)
def test_several_processes_are_one(worlds: dict[int, list[Any]], name: str, tmp_path: Path) -> None:
    """All steps, with dropout: terms, parameters, running statistics, memories, critics and tokens."""
    one = trained(name, tmp_path)
    for world, members in worlds.items():
        for member in members:
            for mine, its in zip(one["terms"], member[name]["terms"], strict=True):
                assert its == pytest.approx(mine, rel=1e-6, abs=1e-9), world
            for key, value in one["state"].items():
                assert torch.equal(member[name]["state"][key], members[0][name]["state"][key]), (world, key)
                torch.testing.assert_close(member[name]["state"][key], value, rtol=1e-6, atol=1e-8, msg=f"{world}: {key}")


@pytest.mark.parametrize("name", PRESETS)
def test_bf16_and_a_batch_without_labels(name: str, tmp_path: Path) -> None:
    trainer, batches = beginning(preset(name, "schedule.precision=bf16"), tmp_path)
    blank = (Batch(b.image, torch.full_like(b.target, IGNORE), b.ids) for b in batches)
    for _ in range(trainer.total):
        assert all(value == value for value in trainer.one_step(blank).values())
    assert all(p.isfinite().all() for p in trainer.objective.parameters())


def test_tokens_of_one_run_serve_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(preset("maskd@seg"), tmp_path / "first")
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines() if "ETA" in line] == ["tokens", "distil"]
    given = f"method.tokens={tmp_path / 'first'}"
    second = run(preset("maskd@seg", given, "weights.token_ce=null", "weights.token_dice=null"), tmp_path / "second")
    assert (first["steps"], second["steps"]) == (5, 4)
    assert first["student_steps"] == second["student_steps"] == 4
    assert torch.equal(*(load_file(tmp_path / kind / "method.safetensors")["tokens"] for kind in ("first", "second")))


def test_stages_have_rates_of_their_own(tmp_path: Path) -> None:
    """Each stage begins with its optimizer's full rate, and the student rests while tokens are learnt."""
    recipe = preset("maskd@seg", "schedule.optimizer.learning_rate.warmup=0", "schedule.steps=8")
    trainer, batches = beginning(recipe, tmp_path)
    student, key = trainer.objective.student, "head.classifier.conv.weight"
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trainer.one_step(batches)
    assert trainer.rates["tokens"] == pytest.approx(0.1)
    trainer.one_step(batches)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    tokens = trainer.objective.method.tokens.values.clone()
    trainer.one_step(batches)
    assert trainer.rates["student"] == pytest.approx(recipe.schedule.optimizer.lr)
    assert torch.equal(tokens, trainer.objective.method.tokens.values)
    assert not torch.equal(before[key], student.state_dict()[key])


@pytest.mark.parametrize(("given", "expected"), [("null", [1.0, 5.0, 5.0]), ("1", [1.0, 5.0, 1.0]), ("0.1", [1.0, 5.0, 0.1])])
def test_a_method_s_layers_may_have_a_rate_of_their_own(tmp_path: Path, given: str, expected: list[float]) -> None:
    rates = "schedule.optimizer.head_multiplier=5", f"schedule.optimizer.method_multiplier={given}"
    trainer, _ = beginning(preset("fitnet", *rates), tmp_path)
    objective, groups = trainer.objective, trainer.optimizers[0].optimizer.param_groups
    found = {id(parameter): group["multiplier"] for group in groups for parameter in group["params"]}
    parts = objective.student.backbone, objective.student.head, objective.method
    assert [{found[id(parameter)] for parameter in part.parameters()} for part in parts] == [{rate} for rate in expected]
    assert len(found) == sum(1 for _ in objective.parameters())


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for one in PRESETS:
        with tempfile.TemporaryDirectory() as place:
            run(preset(one), Path(place))
            found[one] = trace(Path(place))
    TRACES.write_text("{\n" + ",\n".join(f'  "{name}": {json.dumps(steps)}' for name, steps in found.items()) + "\n}\n")
