"""Teachers of features alone, pairs of teachers, and classes of the data set made of several of the teacher's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_foreign_teachers import MEMBERS, batch, behaves, picture, tree
from test_networks import network
from test_teachers import OWN, build
from tiny import STUDENT, execute, tiny
from torch import Tensor

from kd.config import ConfigError
from kd.methods.build import build_method
from kd.networks.build import load_network, save_network
from kd.recipe.schema import build as recipe_of
from kd.recipe.schema import fingerprint, plain
from kd.results.lineage import is_teacher_of
from kd.results.names import pair_label, teacher_label
from kd.types import Outputs, Sizes
from teachers import Teacher
from teachers.class_groups import merged
from teachers.soft_labels.plan import begin

VIT = {"name": "features", "backbone": "test_vit", "pretrained": False}
CNN = {"name": "features", "backbone": "test_resnet", "pretrained": False}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of the tiny transformer."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.pth"
    torch.save(timm.create_model("test_vit", num_classes=7).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's directory whose network knows four classes."""
    folder = tmp_path_factory.mktemp("run")
    save_network(network(0, classes=4, output_stride=32, aux=8), folder, "student", {"classes": list(OWN)})
    return folder


# ----------------------------------------------------------------------------------------------------------- features


def test_features_are_what_timm_calls_intermediates(weights: Path) -> None:
    import timm

    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict({k: v for k, v in torch.load(weights).items() if not k.startswith("head.")})
    seen = (picture(64, 96) / 255 - 0.5) / 0.5  # as timm says of these weights
    with torch.no_grad():
        wanted = model.forward_intermediates(seen, norm=True, intermediates_only=True)
    teacher = build({**VIT, "pretrained": str(weights), "levels": [-2, 0]}, OWN)
    outputs = teacher(picture(64, 96))
    assert outputs.logits.shape == (2, 0, 4, 6)
    torch.testing.assert_close(outputs.embedding, wanted[-1])
    assert len(wanted) > 2
    for found, level in zip(outputs.pyramid, (wanted[0], wanted[-2]), strict=True):
        torch.testing.assert_close(found, level)
    assert teacher.sizes == Sizes(0, 16, 64, False, (64, 64), (16, 16))
    assert teacher.sizes.fields == {"embedding", "pyramid"}
    assert not teacher.knows_classes
    assert teacher.mark == build({**VIT, "pretrained": str(weights)}, OWN).mark
    assert teacher.source == f"test_vit ({weights})"


def test_sides_are_brought_to_the_patches_grid_by_resampling(weights: Path) -> None:
    teacher = build({**VIT, "pretrained": str(weights)}, OWN)
    pixels = teacher.network.pixels(picture(61, 93))
    with torch.no_grad():
        wanted = teacher.network.trunk.forward_intermediates(
            F.interpolate(pixels, (64, 96), mode="bilinear"), norm=True, intermediates_only=True
        )
    torch.testing.assert_close(teacher(picture(61, 93)).embedding, wanted[-1])
    grid = teacher.sizes.on_crop(61, 93).grid
    assert teacher(picture(61, 93)).logits.shape[-2:] == grid == (4, 6)


@pytest.mark.parametrize("values", [VIT, CNN], ids=["transformer", "cnn"])
def test_a_teacher_of_features_behaves(values: dict[str, Any]) -> None:
    torch.manual_seed(0)
    teacher = build(values, OWN)
    for precision in (torch.float32, torch.bfloat16):
        found, plain_ = teacher.for_steps(precision)(batch()).embedding.float(), teacher(batch()).embedding
        assert (found - plain_).abs().mean() < (1e-4 if precision == torch.float32 else 0.05) * plain_.abs().mean()
    assert not teacher(batch()).embedding.requires_grad
    outputs, sizes = teacher(batch(64, 128)), teacher.sizes
    assert tuple(level.shape[1] for level in outputs.pyramid) == sizes.pyramid
    assert tuple(64 // level.shape[-2] for level in outputs.pyramid) == sizes.pyramid_strides
    own = build({**values, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}, OWN).network.pixels
    torch.testing.assert_close(own.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"backbone": "test_vid"}, r"^teacher.backbone: 'test_vid' is unknown to timm .*test_vit"),
        ({"pretrained": "gone.pth"}, "^teacher.pretrained: gone.pth does not exist"),
        ({"levels": [0, 9]}, r"^teacher.levels: holds 9, but test_vit has \d levels, 0..\d or -\d..-1"),
        ({"options": {"nose": 1}}, "^teacher.options: test_vit cannot be built with"),
    ],
)
def test_features_are_refused_in_words(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build({**VIT, **knobs}, OWN)


@pytest.mark.parametrize("knob", [{"floor": 3}, {"cache": "somewhere"}, {"classes": {"a": ["b"]}}])
def test_what_needs_classes_is_refused_of_features(knob: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^teacher.{next(iter(knob))}: is .*, but a teacher of features knows no classes"):
        recipe_of(tree({**VIT, **knob}))


def test_weights_of_another_backbone_are_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teacher.pretrained: .*vit.pth lacks \d+ of \d+ tensors of test_resnet"):
        build({**CNN, "pretrained": str(weights)}, OWN)


def test_teachers_made_of_soft_labels_refuse_one_without_classes(tmp_path: Path) -> None:
    says = r"test_vit \(random weights\) knows no classes"
    with pytest.raises(ConfigError, match=rf"^teacher.members.1: {says}, so it has no logits to give"):
        build({"name": "ensemble", "members": [MEMBERS[0], VIT]}, OWN)
    with pytest.raises(ConfigError, match=rf"^teacher.teacher: {says}"):
        build({"name": "augmented", "teacher": VIT}, OWN)
    with pytest.raises(ConfigError, match=rf"^teacher.logits: {says}"):
        build({"name": "pair", "logits": VIT, "features": MEMBERS[0]}, OWN)
    with pytest.raises(ConfigError, match=rf"^teacher: {says}, and so has no soft labels to keep"):
        begin(SimpleNamespace(), SimpleNamespace(), build(VIT, OWN), tmp_path, whole=True)  # type: ignore[arg-type]


STUDENTS = Sizes(4, 32, 8, True, (8, 8), (16, 32))


@pytest.mark.parametrize(
    "method", [{"name": "fitnet"}, {"name": "at"}, {"name": "cwd", "maps": ["embedding"]}, {"name": "nfd"}]
)
def test_methods_that_read_features_take_a_teacher_without_classes(method: dict[str, Any]) -> None:
    built = build_method(method, STUDENTS, Sizes(0, 16, 64, False))
    student = Outputs(torch.randn(2, 4, 2, 3), None, torch.randn(2, 8, 2, 3))
    features = Outputs(torch.zeros(2, 0, 4, 6), None, torch.randn(2, 64, 4, 6))
    terms = built(student, features, torch.randint(0, 4, (2, 64, 96)))
    assert all(torch.isfinite(term) and term > 0 for term in terms.values())
    with pytest.raises(ValueError, match=r"hold label 9; labels are 0\.\.3"):
        built(student, features, torch.full((2, 64, 96), 9))


@pytest.mark.parametrize("method", [{"name": "kd"}, {"name": "skd"}, {"name": "cwd", "maps": ["embedding"], "kl": True}])
def test_methods_that_read_logits_name_the_remedy(method: dict[str, Any]) -> None:
    words = r"reads the teacher's logits, but this teacher gives only embedding, pyramid; .*name: pair, logits"
    with pytest.raises(ConfigError, match=words):
        build_method(method, STUDENTS, Sizes(0, 16, 64, False, (64,), (16,)))


def test_features_train_a_student_and_are_not_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny("kd", teacher=VIT, method={"name": "fitnet"}, run={"previews": 1})
    result = execute(recipe, tmp_path)
    assert result["agreement"] is None
    assert "gives features; knows no classes, so it is not scored" in capsys.readouterr().err
    told = json.loads((tmp_path / "teacher.json").read_text())
    assert set(told) == {"source", "mark", "cached", "split", "sha256"}
    assert not list((tmp_path / "previews").rglob("teacher.png"))
    assert list((tmp_path / "previews").rglob("student.png"))
    with pytest.raises(ConfigError, match=r"^method: kd reads the teacher's logits, .* gives only embedding, pyramid"):
        execute(tiny("kd", teacher=VIT), tmp_path / "kd")
    assert not (tmp_path / "kd").exists()


# --------------------------------------------------------------------------------------------------------------- pairs


def test_a_pair_answers_with_the_logits_of_one_and_the_features_of_the_other(run: Path, weights: Path) -> None:
    one, other = {"name": "run", "path": str(run)}, {**VIT, "pretrained": str(weights)}
    teacher = build({"name": "pair", "logits": one, "features": other}, OWN)
    logits, features, found = build(one, OWN)(batch()), build(other, OWN)(batch()), teacher(batch())
    assert torch.equal(found.logits, logits.logits)
    assert torch.equal(found.aux_logits, logits.aux_logits)
    assert torch.equal(found.embedding, features.embedding)
    assert all(torch.equal(*levels) for levels in zip(found.pyramid, features.pyramid, strict=True))
    assert teacher.sizes.fields == {"logits", "aux_logits", "embedding", "pyramid"}
    quick = teacher.for_steps(torch.float32)(batch())
    torch.testing.assert_close(quick.logits, logits.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quick.embedding, features.embedding, rtol=1e-4, atol=1e-5)
    marks = {build({"name": "pair", "logits": a, "features": b}, OWN).mark for a, b in ((one, other), (one, one))}
    assert len(marks) == 2
    assert teacher.mark in marks
    behaves(teacher)


def test_a_pairs_parts_are_checked_and_named(run: Path, tmp_path: Path) -> None:
    one = {"name": "run", "path": str(run)}
    with pytest.raises(ConfigError, match=r"^teacher.features: has a floor, but only the whole is measured"):
        recipe_of(tree({"name": "pair", "logits": one, "features": {**one, "floor": 3}}))
    with pytest.raises(ConfigError, match=r"^teacher.logits.path: .*gone/student.safetensors: is missing"):
        build({"name": "pair", "logits": {**one, "path": str(tmp_path / "gone")}, "features": VIT}, OWN)
    ensemble = {"name": "ensemble", "members": [one, one]}
    with pytest.raises(ConfigError, match=r"^teacher.features: an ensemble .* gives no embedding and no pyramid"):
        build({"name": "pair", "logits": one, "features": ensemble}, OWN)
    with pytest.raises(ConfigError, match=r"^teacher.classes: is of the teachers inside"):
        recipe_of(tree({"name": "pair", "logits": one, "features": VIT, "classes": {"a": ["b"]}}))


def test_of_a_teacher_of_features_the_classes_do_not_matter(run: Path) -> None:
    one = {"name": "run", "path": str(run)}
    wanted = ("sky", "road")
    logits = {**one, "classes": {"sky": OWN[:2], "road": OWN[2:]}}
    teacher = build({"name": "pair", "logits": logits, "features": one}, wanted)
    found = teacher(batch())
    assert found.logits.shape[1] == len(teacher.classes) == 2
    assert torch.equal(found.embedding, build(one, OWN)(batch()).embedding)
    with pytest.raises(ConfigError, match=r"^teacher\.logits: .* 'teacher\.logits\.classes=\{road"):
        build({"name": "pair", "logits": one, "features": one}, wanted)


def test_a_pair_trains_a_student(tmp_path: Path) -> None:
    teacher = {"name": "pair", "logits": {"name": "fresh", "network": STUDENT}, "features": VIT}
    recipe = tiny("kd", teacher=teacher, method=[{"name": "kd"}, {"name": "fitnet"}])
    assert execute(recipe, tmp_path)["agreement"] is not None
    assert recipe_of(plain(recipe)) == recipe


def test_the_run_that_gives_the_logits_is_the_teacher_of_the_row() -> None:
    logits = {"name": "run", "path": "runs/shapes/r10-0123456789ab-s0"}
    teacher = {"name": "pair", "logits": logits, "features": VIT}
    recipe = {"data": {"name": "shapes"}, "student": {"name": "unet"}, "teacher": teacher}
    assert teacher_label(recipe) == "runs/shapes/r10-0123456789ab-s0+test_vit"
    assert pair_label(recipe) == "shapes/r10+test_vit->UNet"
    taught = SimpleNamespace(recipe=recipe, folder=Path("runs/a"))
    assert is_teacher_of(SimpleNamespace(folder=Path(logits["path"])), taught)  # type: ignore[arg-type]
    assert not is_teacher_of(SimpleNamespace(folder=Path("runs/shapes/r18")), taught)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- classes


def grouped(run: Path, classes: Any, wanted: tuple[str, ...]) -> Teacher:
    return build({"name": "run", "path": str(run), "classes": classes}, wanted)


def summed(logits: Tensor, groups: list[list[int]]) -> Tensor:
    shares = logits.double().softmax(1)
    found = torch.stack([shares[:, group].sum(1) for group in groups], 1)
    return (found / found.sum(1, keepdim=True)).float()


@pytest.mark.parametrize(
    ("classes", "wanted", "groups"),
    [
        ({"vehicle": ["car"], "ground": ["road", "tree"]}, ("ground", "vehicle"), [[0, 3], [2]]),
        ({"ground": ["Road", "sky"]}, ("tree", "ground", "car"), [[3], [0, 1], [2]]),
        ({}, ("tree", "road"), [[3], [0]]),
        ({"ground": "road"}, ("ground", "sky"), [[0], [1]]),
    ],
)
def test_classes_are_sums_of_the_teachers_probabilities(
    run: Path, classes: Any, wanted: tuple[str, ...], groups: list[list[int]]
) -> None:
    teacher, raw = grouped(run, classes, wanted), load_network(run)[0](batch().image)
    outputs = teacher(batch())
    torch.testing.assert_close(outputs.logits.softmax(1), summed(raw.logits, groups))
    torch.testing.assert_close(outputs.aux_logits.softmax(1), summed(raw.aux_logits, groups))
    assert torch.equal(outputs.embedding, raw.embedding)
    assert (teacher.classes, teacher.sizes.classes) == (wanted, len(wanted))
    behaves(teacher)


def test_groups_are_summed_in_float32() -> None:
    logits = torch.randn(1, 3, 2, 2).bfloat16()
    assert merged(logits, [[0, 1], [2]]).dtype == torch.float32


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"raod": ["road"]}, r"^teacher.classes: the data set has no class 'raod'; its classes are road, vehicle"),
        ({"vehicle": ["cat"]}, r"^teacher.classes.vehicle: lists 'cat', which is none of .* list some of car, "),
        ({}, r"^teacher.classes.vehicle: has no entry and is none of the teacher's \(.*\); list some of "),
        ({"vehicle": []}, r"^teacher.classes.vehicle: lists nothing; name one or more"),
        ({"vehicle": ["car", "car"]}, r"^teacher.classes: the teacher's class 'car' would be counted twice in vehicle"),
        ({"vehicle": ["road"]}, r"^teacher.classes: the teacher's class 'road' would be counted in road and in vehicle"),
    ],
)
def test_wrong_classes_are_refused_with_the_options(run: Path, classes: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        grouped(run, classes, ("road", "vehicle"))


def test_channels_without_names_are_known_by_their_numbers(tmp_path: Path) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    smp.Unet("resnet18", encoder_weights=None, classes=4).save_pretrained(tmp_path)
    values = {"name": "smp", "path": str(tmp_path), "mean": [0.5] * 3, "std": [0.5] * 3}
    whole = build(values, OWN)(batch())
    teacher = build({**values, "classes": {"a": [0, 3], "b": 1}}, ("b", "a"))
    torch.testing.assert_close(teacher(batch()).logits.softmax(1), summed(whole.logits, [[1], [0, 3]]))
    with pytest.raises(ConfigError, match=r"has 2; .* by their numbers .*'teacher.classes=\{b: \[0, 7\], \.\.\.\}'"):
        build(values, ("b", "a"))
    with pytest.raises(ConfigError, match=r"^teacher.classes.b: lists '4', which is none .* list some of 0, 1, 2"):
        build({**values, "classes": {"a": [0], "b": [4]}}, ("b", "a"))


def test_a_mapping_of_classes_is_no_part_of_older_fingerprints() -> None:
    run = {"name": "run", "path": "runs/a"}
    before = fingerprint(recipe_of(tree(run)), ["teacher"])
    assert fingerprint(recipe_of(tree({**run, "classes": None})), ["teacher"]) == before == "49d1bb86b85d"
    assert fingerprint(recipe_of(tree({**run, "classes": {"a": "b"}})), ["teacher"]) != before
    assert fingerprint(recipe_of(tree({"name": "smp", "path": "a"})), ["teacher"]) == "d103b978b226"


def test_members_may_each_have_classes_of_their_own(run: Path) -> None:
    one = {"name": "run", "path": str(run), "classes": {"ground": ["road", "tree"], "rest": ["sky", "car"]}}
    other = {"name": "run", "path": str(run), "classes": {"ground": ["road", "tree"], "rest": ["sky"]}}
    wanted = ("ground", "rest")
    teacher = build({"name": "ensemble", "members": [one, other]}, wanted)
    parts = [build(member, wanted).probabilities(batch()) for member in (one, other)]
    torch.testing.assert_close(teacher.probabilities(batch()), (parts[0] + parts[1]) / 2)
