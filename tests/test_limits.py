"""Values that pass for others, or that no computer has: refused in words before anything runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_tools import call
from test_data import told
from tiny import tiny

from kd.config import MOST, ConfigError, InputError
from kd.files import at_home
from kd.methods import JmlKd
from kd.plain_yaml import load_yaml
from kd.recipe.loading import describe, load
from kd.sweep.schema import read_sweep
from kd.types import Sizes

BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "lines 1 and 3: 'a' stands there twice"),
        ("{a: 1, a: 2}", "line 1: 'a' stands there twice"),
        ("x:\n  a: 1\n  'a': 2", "lines 2 and 3: 'a' stands there twice"),
        ("a: &x [*x]", "holds itself, by an alias"),
        ("a: &x {b: *x}", "holds itself, by an alias"),
        ("a: !!bool maybe", "'maybe' is no bool"),
        ("a: !!int x", "'x' is no int"),
        ("a: !!set {b}", "set is no kind of value"),
        ("a: !!python/object/apply:os.system [x]", "os.system is no kind of value"),
        ("[" * 3000, "is nested deeper than 64 levels"),
        ("{a: " * 3000, "is nested deeper than 64 levels"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("? [a, b]\n: c", "a key is a list"),
        ("a: " + "9" * 5000, "is no int"),
        (BOMB, "aliases make more than 200000 values"),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused_at_once(text: str, message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(yaml.YAMLError) as error:
        load_yaml(text)
    assert message in " ".join(str(error.value).split())
    assert time.monotonic() - begun < 5


def test_plain_yaml_is_what_it_says() -> None:
    text = "a: 2026-01-01\nb: &x [1, 2.5, yes, null, ~]\nc: *x\nd: {1: x, '1': y}\n<<: {a: 0, e: 1e-3}\n"
    assert load_yaml(text) == {
        "a": "2026-01-01",
        "b": [1, 2.5, True, None, None],
        "c": [1, 2.5, True, None, None],
        "d": {1: "x", "1": "y"},
        "e": "1e-3",
    }
    assert load_yaml("") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schedule.steps=true", "schedule.steps: is true; it is no switch"),
        ("augmentation.crop=[64, true]", "augmentation.crop: is true"),
        ("weights.ce=true", "weights: is true"),
        ("schedule.batch=9223372036854775808", "schedule.batch: is 9223372036854775808; numbers go up to 1e+15"),
        ("schedule.batch=1000000", "less than or equal to 65536"),
        ("run.workers=100000", "less than or equal to 1024"),
        ("weights.ce=1e39", "weights: is '1e39'; numbers go up to"),
        ("weights.ce=-1", "weights.ce: is -1"),
        ("seed=2026-01-01", "seed: is '2026-01-01'"),
        ("seed=1.5", "seed: is 1.5"),
        ("student.backbone=", "student.backbone: has no value; write student.backbone=null"),
        ("schedule.steps=", "schedule.steps: has no value"),
        ("loss.ce.ignore_index=0", "loss.ce.ignore_index is 0; data sets say 255"),
        ("weights={ce: 0}", "weights are all 0"),
        ("loss.ce.class_weights=[-1, 1, 1, 1]", "loss.ce.class_weights.0: is -1"),
        ("run.device=meta", "run.device: is 'meta'"),
        (
            "student.options={pretrained: true}",
            "student.options: holds pretrained, which is not timm's to be told here",
        ),
        ("student.options={in_chans: 1}", "student.options: holds in_chans, which is not timm's to be told here: set channels"),
        ("student.options={layers: [1]}", "options: test_resnet cannot be built with {'layers': [1]} (float division by zero)"),
        ("student.options={norm_layer: x}", "options: test_resnet cannot be built with {'norm_layer': 'x'}"),
        (f"seed={'[' * 500}", "is no YAML"),
        (f"seed={'x' * 100_000}", "... (100002 characters)"),
        ("family={a: b}", "family: '{'a': 'b'}' is unknown; Families: "),
        ("family=[own]", "family: '['own']' is unknown"),
        (f"schedule.steps={'9' * 400}", "numbers go up to 1e+15"),
        (f"weights.ce={'9' * 400}", "numbers go up to 1e+30"),
        ("student.options={a: [{b: .nan}]}", "student.options: holds nan, which is no number"),
        (f"seed='{'9' * 3000}'", "numbers go up to 1e+15"),
        (f"seed{'.x' * 3000}=1", "has 3001 parts; a key of a recipe has a few, e.g. schedule.steps"),
        ('family="\\e[31mx"', r"family: '\x1b[31mx' is unknown"),
        ('schedule={"a\\e[2J": 1}', r"schedule.a\x1b[2J: there is no such key"),
        ("schedule.int=1", "schedule.int: there is no such key"),
        (f"data.{'x' * 5000}=1", "has a part of 5000 characters; a key is a word"),
        ("loss=5", "loss: is 5; input should be a mapping"),
        ("loss.ce=5", "loss.ce: is 5"),
        ("weights=[ce]", "weights: is ['ce']; input should be a mapping"),
        ("weights={1: 2}", "weights.1"),
        ("method=[[1]]", "method.members.0: is [1]; input should be a mapping"),
    ],
)
def test_values_that_only_look_right(change: str, message: str, tmp_path: Path) -> None:
    done = call("train", "shapes/tiny", "ce", change, "student.aux=0", "--output", tmp_path / "run")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr) < 1000 or "x" * 1000 in change
    assert not (tmp_path / "run").exists()


def test_messages_are_bounded_and_hold_no_sign_that_a_terminal_obeys() -> None:
    assert str(ConfigError("a\x1b[31m\u202e\ud800\tb\nc é")) == "a\\x1b[31m\\u202e\\ud800\\tb\nc é"
    message = str(ConfigError(f"file: {'x' * 10**6}; do this"))
    assert message.startswith("file: xxx")
    assert message.endswith("xxx; do this")
    assert "(1000015 characters)" in message
    assert len(message) < MOST
    many = str(told(lambda: load("shapes/tiny", ["ce", *(f"schedule.x{number}=1" for number in range(30))])))
    assert many.endswith("\n... and 22 more")
    assert many.count("there is no such key") == 8


def test_names_that_no_file_can_have_are_of_no_file(tmp_path: Path) -> None:
    long = "a" * 300
    assert "there is no such recipe" in str(told(lambda: load(long, ["ce"])))
    assert "there is no such recipe" in str(told(lambda: load(f"{long}/{long}", ["ce"])))
    words = ["ce", "student.pretrained=false", f"data.root={tmp_path / long}", "--output", tmp_path / "run"]
    assert "is no directory; point data.root at" in call("train", "camvid/r18", *words).stderr
    assert "there is no such sweep" in str(told(lambda: read_sweep(long)))
    (tmp_path / "mine.yaml").write_text(f"extends: [{long}]")
    assert f"{tmp_path / 'mine.yaml'}: extends '{long}', but no such file" in str(
        told(lambda: load(tmp_path / "mine.yaml", ["ce"]))
    )


def test_a_recipe_whose_methods_are_no_mappings_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {name: shapes}\nstudent: {name: deeplabv3}\nmethod: [[a], {name: kd}]\n")
    assert "says itself how its network is trained (method a+kd)" in str(told(lambda: load(tmp_path / "mine.yaml", ["ce"])))


WRITTEN = ("no", "1", "x: y", "#x", "'x", "{x", "&a x", "*x", "!!int x", "a\nb", "a\n---\nb", "\x00", "\tx", "é", "- x", "")


@pytest.mark.parametrize("key", WRITTEN)
def test_a_recipe_that_is_written_down_says_the_same_whatever_its_keys_are(tmp_path: Path, key: str) -> None:
    recipe = tiny("kd", teacher={"network": {key: {key: key, "x": [key, 1]}}})
    (tmp_path / "mine.yaml").write_text(describe(recipe, {}), encoding="utf-8")
    assert load(tmp_path / "mine.yaml")[0] == recipe


def test_names_of_teachers_that_are_no_texts_are_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("recipe: shapes/tiny\naxes: {method: [kd]}\nteachers: [[a]]")
    assert "teachers: is [['a']]; input should be a mapping" in str(told(lambda: read_sweep(tmp_path / "mine.yaml")))


def test_one_small_image_has_no_variance_and_is_told(tmp_path: Path) -> None:
    words = ["schedule.batch=1", "augmentation.crop=[32, 32]", "student.output_stride=32", "--output", tmp_path / "run"]
    done = call("train", "shapes/tiny", "ce", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "schedule.batch: one image of 32 x 32 leaves the student's last batch norm one value" in done.stderr


def test_switches_stay_switches() -> None:
    recipe, _ = load("shapes/tiny", ["ce", "run.deterministic=true", "student.pretrained=false", "student.options={a: true}"])
    assert (recipe.run.deterministic, recipe.student.pretrained, recipe.student.options) == (True, False, {"a": True})


@pytest.mark.parametrize(
    ("jaccard", "message"),
    [({"name": "lovasz"}, "is always the Jaccard metric loss"), ({"ignore_index": 3}, "drop its name and its ignore_index")],
)
def test_the_jaccard_part_of_jml_kd_is_no_other_loss(jaccard: dict[str, Any], message: str) -> None:
    assert message in str(told(lambda: tiny("jml_kd", method={"jaccard": jaccard})))


def test_classes_that_are_not_there_are_told_before_training() -> None:
    sizes = Sizes(4, 8, 0, True)
    with pytest.raises(ConfigError, match=r"method\.jaccard: active classes \[99\] must be one or more numbers of 0\.\.3"):
        JmlKd(sizes, sizes, jaccard={"active_hard": [99]})


def test_homes_that_are_nobodys_are_places_that_do_not_exist(tmp_path: Path) -> None:
    assert at_home("~nosuchuser/x") == Path("~nosuchuser/x")
    assert at_home("~/x") == Path.home() / "x"
    done = call("train", "camvid/r18", "ce", "data.root=~nosuchuser/x", "student.pretrained=false", "--output", tmp_path / "a")
    assert (done.returncode, "~nosuchuser/x" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_a_sweep_of_more_points_than_anybody_means_is_refused_at_once(tmp_path: Path) -> None:
    axes = {f"schedule.optimizer.{key}": list(range(1, 10)) for key in ("lr", "momentum", "weight_decay")}
    axes |= {f"student.{key}": list(range(1, 10)) for key in "abcdefghi"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"recipe": "shapes/tiny", "axes": axes}))
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"axes make 282,429,536,481 points; a sweep has 100,000 at most"):
        read_sweep(tmp_path / "s.yaml")
    assert time.monotonic() - begun < 5
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"recipe": "shapes/tiny", "axes": {"seed": list(range(1001))}}))
    with pytest.raises(InputError, match="axes: make 1,001 points; say most=1001 if"):
        read_sweep(tmp_path / "s.yaml")
    assert len(list(read_sweep(tmp_path / "s.yaml", ["most=2000"]).file.combinations())) == 1001
    (tmp_path / "s.yaml").write_text("recipe: 'shapes/{a:>10000000000}'\naxes: {seed: 0}\n")
    with pytest.raises(InputError, match="has a template"):
        read_sweep(tmp_path / "s.yaml")
