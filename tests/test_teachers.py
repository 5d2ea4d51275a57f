"""Teachers answer without gradient, never train, and speak in the data set's order of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_networks import images, network

from kd.config import ConfigError
from kd.lookup import lookup
from kd.networks.build import load_network, save_network
from kd.seeds import seed_everything
from kd.types import Batch
from teachers import Teacher
from teachers.load import load_teacher

OWN = ("road", "sky", "car", "tree")
WANTED = ("car", "road", "tree", "sky")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a last and another best network."""
    folder = tmp_path_factory.mktemp("run")
    for seed, name in enumerate(("student", "best")):
        model = network(seed, classes=4, output_stride=32, aux=8, dropout=0.5)
        save_network(model, folder, name, {"classes": list(OWN), "step": 7})
    return folder


def batch() -> Batch:
    picture = images(40, 56)
    return Batch(picture, torch.zeros(2, 40, 56, dtype=torch.long), ("a", "b"))


def build(values: dict[str, Any], classes: tuple[str, ...]) -> Teacher:
    config = lookup("teachers", values["name"], "Teacher").Config.model_validate(values)
    return load_teacher(config, classes)


def from_run(run: Path, classes: tuple[str, ...] = OWN, **knobs: Any) -> Teacher:
    return build({"name": "run", "path": str(run), **knobs}, classes)


def test_a_teacher_has_no_gradient_and_never_trains(run: Path) -> None:
    teacher = from_run(run)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert teacher.train() is teacher
    torch.nn.ModuleList([teacher]).train()
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    first, second = teacher(batch()), teacher(batch())
    for outputs in (first, second):
        for value in (outputs.logits, outputs.aux_logits, outputs.embedding, *outputs.pyramid):
            assert not value.requires_grad
    assert torch.equal(first.logits, second.logits)  # no dropout
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())  # no statistics


def test_no_graph_is_built_even_when_the_network_would(run: Path) -> None:
    teacher = from_run(run).requires_grad_(True)
    assert not teacher(batch()).logits.requires_grad
    assert not teacher.probabilities(batch()).requires_grad


@pytest.mark.parametrize(("size", "expected"), [(None, (40, 56)), ((20, 31), (20, 31)), ((90, 60), (90, 60))])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_probabilities_are_softened_at_the_asked_size(
    run: Path, temperature: float, size: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    teacher = from_run(run)
    found = teacher.probabilities(batch(), temperature, size)
    assert found.shape == (2, 4, *expected)
    torch.testing.assert_close(found.sum(1), torch.ones(2, *expected))
    logits = torch.nn.functional.interpolate(teacher(batch()).logits, expected, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.log(), (logits / temperature).log_softmax(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [OWN, WANTED])
def test_channels_follow_the_data_sets_order(run: Path, classes: tuple[str, ...]) -> None:
    teacher, raw = from_run(run, classes), load_network(run)[0](batch().image)
    outputs = teacher(batch())
    assert teacher.classes == classes
    for channel, name in enumerate(classes):
        assert torch.equal(outputs.logits[:, channel], raw.logits[:, OWN.index(name)])
        assert torch.equal(outputs.aux_logits[:, channel], raw.aux_logits[:, OWN.index(name)])
    assert torch.equal(outputs.embedding, raw.embedding)
    assert torch.equal(teacher.look(batch().image).logits, outputs.logits)
    assert teacher.sizes == load_network(run)[0].sizes


@pytest.mark.parametrize(
    ("classes", "missing", "foreign", "number"),
    [
        (("car", "road", "tree", "dog"), "dog", "sky", 4),
        ((*OWN, "dog", "cat"), "cat, dog", "none", 6),
        (OWN[:2], "none", "car, tree", 2),
    ],
)
def test_other_classes_are_refused(run: Path, classes: tuple[str, ...], missing: str, foreign: str, number: int) -> None:
    with pytest.raises(ConfigError) as failure:
        from_run(run, classes)
    text = str(failure.value)
    assert text.startswith(f"teacher: {run} knows 4 classes, the data set has {number} ")
    assert f"(missing in the teacher: {missing}; unknown to the data set: {foreign})" in text


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_the_checkpoint_is_chosen(run: Path, checkpoint: str) -> None:
    outputs = from_run(run, checkpoint=checkpoint)(batch())
    seeds = {"last": 0, "best": 1}
    expected = network(seeds[checkpoint], classes=4, output_stride=32, aux=8).eval()(batch().image)
    torch.testing.assert_close(outputs.logits, expected.logits)


@pytest.mark.parametrize(("checkpoint", "file"), [("last", "student.safetensors"), ("best", "best.safetensors")])
def test_a_directory_without_a_finished_run_is_refused(tmp_path: Path, checkpoint: str, file: str) -> None:
    with pytest.raises(ConfigError) as failure:
        from_run(tmp_path / "gone", checkpoint=checkpoint)
    assert str(failure.value).startswith(f"teacher.path: {tmp_path / 'gone' / file}: is missing; a finished run directory")
    assert str(failure.value).endswith("Train the teacher first and give its run directory")


@pytest.mark.parametrize(
    ("miou", "floor", "passes"), [(50.0, 50.0, True), (49.99, 50.0, False), (0.0, 0.0, True), (None, 10.0, False)]
)
def test_a_teacher_below_its_floor_stops_the_run(run: Path, miou: float | None, floor: float, passes: bool) -> None:
    teacher = from_run(run, floor=floor)
    if passes:
        teacher.check_floor(miou)
        return
    with pytest.raises(
        ConfigError, match=rf"^teacher.floor: {run} reaches {miou} mIoU on this data, below the floor of {floor}"
    ):
        teacher.check_floor(miou)


def fresh(seed: int) -> Teacher:
    seed_everything(seed, "teacher")
    values = {"name": "deeplabv3", "backbone": "resnet18", "pretrained": False, "width": 8, "output_stride": 32}
    return build({"name": "fresh", "network": values}, OWN)


def test_a_fresh_teacher_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = fresh(0)
    torch.randn(17)
    again, other = fresh(0), fresh(1)
    one, two, three = (teacher(batch()).logits for teacher in (first, again, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert not one.requires_grad
    assert not any(part.training for part in first.train().modules())
    assert (first.sizes.classes, first.source) == (4, "a fresh network")


@pytest.mark.parametrize("classes", [OWN, OWN[::-1]])
def test_steps_are_answered_alike(run: Path, classes: tuple[str, ...]) -> None:
    teacher = from_run(run, classes)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    plain, quick = teacher(batch()), teacher.for_steps(torch.float32)(batch())
    torch.testing.assert_close(quick.logits, plain.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quick.embedding, plain.embedding, rtol=1e-4, atol=1e-5)
    assert not quick.logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("own", "steps", "expected"),
    [
        ("step", torch.float32, torch.float32),
        ("step", torch.bfloat16, torch.bfloat16),
        ("bf16", torch.float32, torch.bfloat16),
        ("fp32", torch.bfloat16, torch.float32),
    ],
)
def test_a_teacher_computes_as_the_steps_or_as_it_is_told(
    run: Path, own: str, steps: torch.dtype, expected: torch.dtype
) -> None:
    teacher = from_run(run, precision=own)
    with torch.autocast("cpu", steps, enabled=steps != torch.float32):
        quick = teacher.for_steps(steps)(batch())
    assert quick.logits.dtype == expected
    tolerance = 1e-4 if expected == torch.float32 else 0.03
    scale = float(teacher(batch()).logits.abs().max())
    assert float((quick.logits.float() - teacher(batch()).logits).abs().max()) < tolerance * scale


def test_a_compiled_teacher_answers_alike(run: Path) -> None:
    teacher = from_run(run)
    quick = teacher.for_steps(torch.float32, compiled=True)
    for names in (("a", "b"), ("c", "d")):  # compiled once, whatever images are called
        with torch._dynamo.config.patch(error_on_recompile=names[0] == "c"):
            found = quick(Batch(batch().image, batch().target, names))
        torch.testing.assert_close(found.logits, teacher(batch()).logits, rtol=1e-4, atol=1e-5)
