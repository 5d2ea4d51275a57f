"""Recipes: merging, overriding, naming classes, fingerprints; and that every mistake is told in the user's words."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kd.config import Config, ConfigError, Named, exit_code, validate
from kd.lookup import lookup, options
from kd.losses.cross_entropy import CrossEntropy
from kd.recipe.library import recipe_names
from kd.recipe.loading import describe, load
from kd.recipe.merging import Origins, merge, override, read
from kd.recipe.schema import IDENTITY, Recipe, build, fingerprint, plain
from kd.schedules import LearningRateConfig, factor
from kd.seeds import derive, generator

KD, CE = "shapes/tiny jml_kd", "shapes/tiny ce"
ALL = [name if name.endswith("_teacher") else f"{name} {method}" for name in recipe_names() for method in ("jml_kd", "skd")]
LEAST = {
    "data": {"name": "shapes"},
    "student": {"name": "deeplabv3"},
    "loss": {"ce": {"name": "cross_entropy"}},
    "weights": {"ce": 1},
}


class OwnLoss(CrossEntropy):
    """A user's loss."""


def loaded(spelled: str | Path, overrides: Sequence[str] = (), smoke: bool = False) -> tuple[Recipe, Origins]:
    """A recipe as it stands on a command line, its method beside it."""
    name, *method = str(spelled).split()
    return load(name, [*method, *overrides], smoke)


def complaint(spelled: str | Path, *overrides: str, smoke: bool = False) -> str:
    """What the user is told."""
    with pytest.raises(ConfigError) as error:
        loaded(spelled, overrides, smoke)
    return str(error.value)


def written(folder: Path, **files: Any) -> Path:
    """Files ``name.yaml`` from text or values; the path of the last one."""
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder / f"{list(files)[-1]}.yaml"


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("text", "path", "meant"),
    [
        ("sede=1", "sede", "seed"),
        ("schedule.optimizer.lrr=1", "schedule.optimizer.lrr", "lr"),
        ("schedule.optimizer.learning_rate.warmpu=0", "schedule.optimizer.learning_rate.warmpu", "warmup"),
        ("student.widht=64", "student.widht", "width"),
        ("loss.ce.gama=1", "loss.ce.gama", "gamma"),
        ("data.sise=[64, 64]", "data.sise", "size"),
        ("run.wandb.moed=online", "run.wandb.moed", "mode"),
        ("evaluation.predictor={name: sliding, windw: [8, 8]}", "evaluation.predictor.windw", "window"),
    ],
)
def test_an_unknown_key_is_told_with_its_path_and_a_suggestion(text: str, path: str, meant: str) -> None:
    assert complaint(CE, text).startswith(f"{path}: there is no such key; did you mean '{meant}'? Keys here: ")


def test_unknown_keys_of_a_method() -> None:
    assert complaint(KD, "method.tempreture=2").startswith(
        "method.tempreture: there is no such key; did you mean 'temperature'?"
    )
    assert "method.jaccard.alhpa: there is no such key; did you mean 'alpha'?" in complaint(KD, "method.jaccard.alhpa=1")


def test_an_unknown_key_without_a_neighbour_lists_the_keys() -> None:
    assert complaint(CE, "schedule.qqq=1") == (
        "schedule.qqq: there is no such key. Keys here: accumulate, batch, clip, ema, optimizer, precision, steps."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=x", "seed: is 'x'; input should be a valid integer"),
        ("seed=-1", "seed: is -1; input should be greater than or equal to 0"),
        ("schedule.steps=1.5", "schedule.steps: is 1.5; input should be a valid integer"),
        ("schedule=5", "schedule: is 5; input should be a mapping"),
        ("schedule.optimizer.lr=.inf", "schedule.optimizer.lr: is inf; input should be a finite number"),
        (
            "schedule.optimizer.kind=lion",
            "schedule.optimizer.kind: is 'lion'; input should be 'sgd', 'adam' or 'adamw'",
        ),
        ("weights.ce=much", "weights.ce: is 'much'; input should be a valid number"),
        ("loss.ce=3", "loss.ce: is 3; input should be a mapping"),
        ("augmentation.crop=[4, 4]", "augmentation: crop is [4, 4]; both sides need 8 pixels or more"),
        ("augmentation.scale=[2, 1]", "augmentation: scale is [2.0, 1.0]; it needs 0 < low <= high"),
        ("labels={window: 4}", "labels.window: is 4; a window has a centre pixel, so it must be odd: 3 or 5"),
        ("data=null", "data: is required and has no default; set it in the recipe or as key=value"),
        ("student={width: 3, name: null}", "student: needs a name; it chooses a file of kd/networks/"),
        ("loss.extra={gamma: 1}", "loss.extra: needs a name; it chooses a file of kd/losses/"),
        ("evaluation.predictor.name=hole", "evaluation.predictor: 'hole' is no Predictor here. Did you mean 'whole'?"),
    ],
)
def test_a_wrong_value_is_told_with_its_path(text: str, message: str) -> None:
    changes = ["student.name=null", text] if text.startswith("student") else [text]
    assert complaint(CE, *changes).startswith(message)


def test_a_wrong_value_of_several_types_is_told_with_its_own_path() -> None:
    for line in complaint(KD, "method.jaccard.active_hard=foo", "student.pretrained=[1]").splitlines():
        assert line.split(":")[0] in ("method.jaccard.active_hard", "student.pretrained")


def test_all_mistakes_are_told_at_once() -> None:
    lines = complaint(CE, "seed=x", "schedule.steps=0", "loss.ce.gama=1").splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["loss.ce.gama", "schedule.steps", "seed"]


@pytest.mark.parametrize("text", ["=3", "a..b=2", ".seed=1", "seed=[", "seed='", "seed=!!int x"])
def test_a_malformed_override_is_told(text: str) -> None:
    assert complaint(CE, text).startswith(f"'{text}'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "holds a list; a recipe is a mapping"),
        ("word", "holds a str; a recipe is a mapping"),
        ("a: [", "is no YAML"),
        ("a: !!bool maybe", "is no YAML (line 1: 'maybe' is no bool"),
        ("extends: part", "extends is 'part'; it must be a list"),
        ("extends: [nowhere]", "extends 'nowhere', but no such file lies beside it, in a folder above, or in the library"),
        ("extends: [3]", "extends"),
        ("extends: [recipe]", "recipe.yaml: extends itself; name another file in extends"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    assert message in complaint(written(tmp_path, recipe=text))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "nope.yaml: there is no such recipe; `kd recipes` lists them" in complaint(tmp_path / "nope.yaml")
    assert complaint(tmp_path).startswith(f"{tmp_path}: there is no such recipe")


def test_files_that_extend_each_other_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, b={"extends": ["c"]}, c={"extends": ["a"]}, a={"extends": ["b"]})
    assert complaint(path) == "a.yaml: extends itself through a.yaml -> b.yaml -> c.yaml"


def test_a_broken_recipe_is_told_in_smoke_runs_too(tmp_path: Path) -> None:
    message = complaint(written(tmp_path, recipe={**LEAST, "schedule": 5}), smoke=True)
    assert message.startswith("schedule: is 5")


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        (KD, ["teacher=null"], "there is a method but no teacher"),
        (KD, ["method=null", "loss={ce: {name: cross_entropy}}"], "there is a teacher but no method"),
        (KD, ["method=null", "teacher=null"], "loss and method are both null"),
        (CE, ["loss=null"], "loss and method are both null"),
        (KD, ["labels={}"], "labels softens the targets of loss, but loss is null"),
        (CE, ["loss.ce=null", "loss.ce_aux=null"], "nothing to train on"),
    ],
)
def test_a_recipe_must_make_sense(path: Path, changes: list[str], message: str) -> None:
    assert message in complaint(path, *changes)


def test_configurations_are_frozen_and_told_where() -> None:
    class Knobs(Config):
        size: int = 3

    with pytest.raises(ValueError, match="frozen"):
        validate(Knobs, {}).size = 4  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"^here\.size: is 'x'; input"):
        validate(Knobs, {"size": "x"}, "here")


# -------------------------------------------------------------------------------------------------- names and classes


def test_the_file_name_is_the_registry() -> None:
    assert lookup("kd.losses", "cross_entropy", "Loss") is CrossEntropy
    assert {"cross_entropy", "kl", "lovasz", "overlap"} <= options("kd.losses", "Loss").keys()
    assert "loss" not in options("kd.losses", "Loss")


@pytest.mark.parametrize(
    ("folder", "base"),
    [
        ("kd.losses", "Loss"),
        ("kd.methods", "Method"),
        ("kd.networks", "Network"),
        ("kd.data", "Dataset"),
        ("teachers", "Teacher"),
    ],
)
def test_every_file_can_be_named_and_configured(folder: str, base: str) -> None:
    assert options(folder, base)
    for name in options(folder, base):
        found = lookup(folder, name, base)
        assert base in {parent.__name__ for parent in found.__mro__[1:]}
        assert issubclass(found.Config, Named)


def test_a_wrong_name_lists_the_options() -> None:
    message = complaint(CE, "loss.ce.name=cros_entropy")
    assert message.startswith("loss.ce: 'cros_entropy' is no Loss here. Did you mean 'cross_entropy'? Options: ")
    assert all(name in message for name in options("kd.losses", "Loss"))
    assert "package.module:Class" in message


def test_a_users_own_class() -> None:
    own = f"{__name__}:OwnLoss"
    assert lookup("kd.losses", own, "Loss") is OwnLoss
    recipe, _ = loaded(CE, [f"loss.ce={{name: '{own}', gamma: 2}}"])
    assert recipe.loss is not None
    assert recipe.loss["ce"] == OwnLoss.Config(name=own, gamma=2)
    assert "loss.ce.gama: there is no such key" in complaint(CE, f"loss.ce={{name: '{own}', gama: 2}}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pathlib:Path", "'pathlib:Path' is not a Loss; derive the class from kd.losses.Loss"),
        ("kd.methods.kd:KD", "is not a Loss"),
        ("pathlib:nothing", "cannot be imported"),
        (
            "no.such.module:Loss",
            "cannot be imported (No module named 'no'); write package.module:Class, with its folder here or on PYTHONPATH",
        ),
        (".relative:Loss", "cannot be imported"),
        (":Loss", "cannot be imported"),
    ],
)
def test_a_class_that_does_not_serve_is_told(name: str, message: str) -> None:
    assert message in complaint(CE, f"loss.ce.name='{name}'")


def test_two_classes_in_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "twofold"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "both.py").write_text("class A(Loss): ...\nclass B(Loss): ...\nclass _C(Loss): ...\nclass D: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="defines A, B; one Loss a file"):
        options("twofold", "Loss")


# ------------------------------------------------------------------------------------------------ merging and origins


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        first={"a": 1, "b": {"x": 1, "y": 1}, "c": [1, 2], "d": 1},
        second={"a": 2, "b": {"y": 2}, "c": [3]},
        last={"extends": ["first", "second"], "d": 3},
    )
    tree, origins = read(path)
    assert tree == {"a": 2, "b": {"x": 1, "y": 2}, "c": [3], "d": 3}
    files = {"a": "second", "b.x": "first", "b.y": "second", "c": "second", "d": "last"}
    assert origins == {key: f"{name}.yaml" for key, name in files.items()}


def test_extends_reaches_through_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "recipes" / "deep"
    folder.mkdir(parents=True)
    written(tmp_path / "recipes", ground={"a": 1, "b": 1})
    path = written(folder, middle={"extends": ["ground"], "b": 2}, top={"extends": ["middle.yaml"], "c": 3})
    tree, origins = read(path)
    assert tree == {"a": 1, "b": 2, "c": 3}
    assert origins == {"a": "recipes/ground.yaml", "b": "recipes/deep/middle.yaml", "c": "recipes/deep/top.yaml"}


def test_null_deletes(tmp_path: Path) -> None:
    path = written(
        tmp_path, base={"a": {"x": 1, "y": {"z": 1}}, "b": 1}, top={"extends": ["base"], "a": {"y": None}, "b": None}
    )
    assert read(path) == ({"a": {"x": 1}}, {"a.x": "base.yaml"})


@pytest.mark.parametrize(
    "text", ["labels=null", "loss.extra=null", "weights.extra=null", "labels.window=null", "method.kd_mask=null"]
)
def test_deleting_what_is_not_there_changes_nothing(text: str) -> None:
    assert loaded(CE, [text])[0] == loaded(CE)[0]


@pytest.mark.parametrize(
    ("new", "merged"),
    [
        ({"name": "b", "z": 2}, {"name": "b", "z": 2}),
        ({"name": "a", "z": 2}, {"name": "a", "x": 1, "z": 2}),
        ({"z": 2}, {"name": "a", "x": 1, "z": 2}),
        (3, 3),
    ],
    ids=["another name replaces", "the same name continues", "no name continues", "a value replaces"],
)
def test_names_and_merging(new: Any, merged: Any) -> None:
    tree, origins = {"m": {"name": "a", "x": 1}}, {"m.name": "old", "m.x": "old", "mx": "old"}
    merge(tree, {"m": copy.deepcopy(new)}, origins, "new")
    assert tree == {"m": merged}
    leaves = [f"m.{key}" for key in merged] if isinstance(merged, dict) else ["m"]
    assert origins.keys() == {*leaves, "mx"}
    assert {key for key, source in origins.items() if source == "new"} == (
        {f"m.{k}" for k in new} if isinstance(new, dict) else {"m"}
    )


def test_a_mapping_replaces_a_value() -> None:
    tree, origins = {"m": 3}, {"m": "old"}
    merge(tree, {"m": {"x": 1}}, origins, "new")
    assert (tree, origins) == ({"m": {"x": 1}}, {"m.x": "new"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=0.5", 0.5),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b=x=y", "x=y"),
        ("a.b=null", None),
        ("a.b='1'", "1"),
    ],
)
def test_override_types(text: str, value: Any) -> None:
    assert override(text) == {"a": {"b": value}}


def test_overrides_come_last_and_take_types_from_the_schema() -> None:
    texts = [
        "schedule.optimizer.lr=6e-5",
        "data.size=[64, 128]",
        "weights.ce=2",
        "run.wandb.tags=[a, b]",
        "seed=7",
        "seed=8",
    ]
    recipe, origins = loaded(CE, texts)
    assert recipe.schedule.optimizer.lr == 6e-5
    assert recipe.data.size == (64, 128)
    assert recipe.weights["ce"] == 2.0
    assert recipe.run.wandb.tags == ("a", "b")
    assert recipe.seed == 8
    assert {key for key, source in origins.items() if source == "command line"} == {text.split("=")[0] for text in texts}


def test_origin_of_each_key() -> None:
    recipe, origins = loaded(KD, ["schedule.steps=5"], smoke=True)
    assert origins["schedule.steps"] == "command line"
    assert origins["schedule.batch"] == origins["data.train"] == "smoke"
    assert origins["student.width"] == "recipes/_parts/student/shapes_tiny.yaml"
    lines = [line.split("#") for line in describe(recipe, origins).splitlines()]
    told = {(key.strip(), *(source.strip() for source in rest)) for key, *rest in lines}
    assert ("steps: 5", "command line") in told
    assert ("width: 64", "recipes/_parts/student/shapes_tiny.yaml") in told
    assert ("momentum: 0.9", "default") in told


@pytest.mark.parametrize("spelled", dict.fromkeys(ALL))
@pytest.mark.parametrize("smoke", [False, True], ids=["whole", "smoke"])
def test_what_describe_prints_is_the_same_recipe(tmp_path: Path, spelled: str, smoke: bool) -> None:
    recipe, origins = loaded(spelled, ["seed=3", "run.wandb.project='a: # b'"], smoke)
    again, told = load(written(tmp_path, again=describe(recipe, origins)))
    assert again == recipe
    assert fingerprint(again) == fingerprint(recipe)
    assert set(told.values()) == {"again.yaml"}


# ---------------------------------------------------------------------------------------------------------- fingerprint

CHANGES = {
    "data": "data.size=[64, 64]",
    "augmentation": "augmentation.flip=0.4",
    "student": "student.width=65",
    "teacher": "teacher.floor=1",
    "labels": "labels.epsilon=0.3",
    "loss": "loss.ce.gamma=1",
    "method": "method.temperature=3",
    "weights": "weights.ce=9",
    "unlabelled": "unlabelled={splits: [train], share: 0.25}",
    "schedule": "schedule.optimizer.learning_rate.floor=0.1",
    "evaluation": "evaluation.every=7",
}


def test_fingerprint_is_stable() -> None:
    assert fingerprint(build(LEAST)) == fingerprint(build(plain(build(LEAST))))
    assert fingerprint(build(LEAST)) == fingerprint(build(dict(reversed(LEAST.items()))))
    losses = {name: {"name": "cross_entropy"} for name in ("a", "b")}
    one, other = ({**LEAST, "loss": losses, "weights": weights} for weights in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert fingerprint(build(one)) == fingerprint(build(other))
    assert len(fingerprint(build(LEAST))) == 12


@pytest.mark.parametrize("text", ["seed=4", "run.device=cpu", "run.workers=5", "run.log_every=3", "run.wandb.mode=offline"])
def test_fingerprint_ignores_seed_and_machine(text: str) -> None:
    assert fingerprint(loaded(KD, [text])[0]) == fingerprint(loaded(KD)[0])


@pytest.mark.parametrize("part", CHANGES)
def test_fingerprint_changes_with_its_parts_only(part: str) -> None:
    old, new = (loaded("shapes/tiny kd", texts)[0] for texts in ([], [CHANGES[part]]))
    assert fingerprint(new) != fingerprint(old)
    assert [name for name in IDENTITY if fingerprint(new, [name]) != fingerprint(old, [name])] == [part]


def test_fingerprint_knows_all_parts() -> None:
    assert set(CHANGES) == set(IDENTITY)
    assert set(Recipe.model_fields) - set(IDENTITY) <= {"family", "seed", "run"}


# ---------------------------------------------------------------------------------------- learning rates and seeds


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({}, {0: 1.0, 50: 0.5**0.9, 99: 0.01**0.9, 100: 0.0, 120: 0.0}),
        ({"power": 1.0}, {0: 1.0, 25: 0.75, 99: 0.01}),
        ({"power": 1.0, "floor": 0.2}, {0: 1.0, 25: 0.75, 80: 0.2, 99: 0.2}),
        ({"shape": "cosine"}, {0: 1.0, 25: (1 + 0.5**0.5) / 2, 50: 0.5, 100: 0.0}),
        ({"shape": "constant"}, {0: 1.0, 99: 1.0}),
        ({"power": 1.0, "warmup": 0.2}, {0: 1e-6, 5: 0.25, 19: 0.95, 20: 1.0, 60: 0.5, 100: 0.0}),
        ({"shape": "constant", "warmup": 0.1, "warmup_start": 0.3}, {0: 0.3, 2: 0.3, 5: 0.5, 10: 1.0}),
    ],
)
def test_learning_rate_at_some_steps(config: dict[str, Any], steps: dict[int, float]) -> None:
    found = {step: factor(LearningRateConfig(**config), step, 100) for step in steps}
    assert found == pytest.approx(steps)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(
    st.sampled_from(["poly", "cosine", "constant"]),
    st.floats(0.5, 3),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.integers(1, 200),
)
def test_learning_rate_rises_then_falls(shape: Any, power: float, warmup: float, floor: float, total: int) -> None:
    config = LearningRateConfig(shape=shape, power=power, warmup=warmup, floor=floor)
    rates = [factor(config, step, total) for step in range(total + 1)]
    ramp = round(warmup * total)
    assert rates[:ramp] == sorted(rates[:ramp])
    assert rates[ramp:] == sorted(rates[ramp:], reverse=True)
    assert all(0 <= rate <= 1 for rate in rates)
    assert min(rates[ramp:]) >= floor
    assert rates[ramp] == 1 or ramp == total


def test_seeds_are_the_same_everywhere() -> None:
    assert derive(0) == 4761921975702974394
    assert derive(3, "augment", 1, 17) == 5902348795278685120
    assert generator(0).initial_seed() == derive(0)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["draw", "order"]), st.integers(0, 9)), unique=True, max_size=20))
def test_seeds_differ(parts: list[tuple[int, str, int]]) -> None:
    found = [derive(*part) for part in parts]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**63 for seed in found)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_what_cannot_be_printed_is_no_traceback() -> None:
    command = [sys.executable, "-m", "kd", "recipes"]
    read, write = os.pipe()
    os.close(read)
    nobody = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (nobody.returncode, nobody.stderr) == (141, "")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device; make room where this is written\n")


def test_a_stop_by_the_user_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    assert exit_code(stopped) == 130
    assert capsys.readouterr().err == "stopped\n"
