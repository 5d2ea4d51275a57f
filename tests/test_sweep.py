"""Expanding a sweep: points, names, prerequisites, budgets and exports. Nothing runs here."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_sweep import write, write_recipes

from kd.config import ConfigError
from kd.recipe.loading import load
from kd.recipe.schema import fingerprint
from kd.sweep.budget import clock_key, total_steps
from kd.sweep.launcher_files import slurm_script, wandb_sweep
from kd.sweep.points import Point, expand, to_measure
from kd.sweep.schema import read_sweep
from kd.sweep.select import chosen, named

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))
HERE = Path("runs/sweeps/x")


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """The pair ``tiny/a`` with its methods, and its teacher ``runs/tiny/teacher/seed0``."""
    write_recipes(tmp_path)
    return tmp_path


def points(folder: Path, *overrides: str, clock: Any = None, **keys: Any) -> list[Point]:
    return expand(read_sweep(write(folder, **keys), overrides), HERE, clock)


def students(found: list[Point]) -> list[Point]:
    return [point for point in found if point.role == "student"]


def test_a_grid_with_its_teacher(recipes: Path) -> None:
    found = points(recipes)
    assert found == points(recipes)
    assert [point.label for point in found] == ["teacher", "a_ce", "a_ce", "a_kd", "a_kd"]
    teacher, ce = found[:2]
    assert teacher.role == "teacher"
    assert teacher.instead == "runs/tiny/teacher/seed0"
    assert ce.name == f"a_ce-{fingerprint(ce.recipe)}-s0"
    assert (ce.needs, found[3].needs) == ((), (teacher.name,))
    assert found[3].recipe.teacher.path == f"runs/sweeps/x/{teacher.name}"
    assert [point.recipe.seed for point in found] == [0, 0, 1, 0, 1]
    assert dict(found[4].choices) == {"recipe": "tiny/a", "method": "kd", "seed": "1"}


def test_the_written_recipe_is_the_point(recipes: Path, tmp_path: Path) -> None:
    point = points(recipes)[-1]
    (tmp_path / "point.yaml").write_text(point.text)
    assert load(tmp_path / "point.yaml")[0] == point.recipe
    assert "# sweep x" in point.text


def test_a_changed_recipe_has_another_directory(recipes: Path) -> None:
    before, after = points(recipes), points(recipes, "schedule.optimizer.lr=0.01")
    assert not {point.name for point in before} & {point.name for point in after}
    machine = points(recipes, "run.workers=1", "run.device=cpu")
    assert [point.name for point in machine] == [point.name for point in before]
    ce, kd = students(points(recipes, teachers={"tiny/teacher": {"schedule.steps": 7}}))[::2]
    assert ce.name == before[1].name
    assert kd.name != before[3].name  # another teacher is another run


def test_axes_are_values_bundles_and_lists_of_grids(recipes: Path) -> None:
    crops = {"small": {"augmentation.crop": [16, 16]}, "whole": {}}
    grids = [{"method": "ce", "crop": crops, "schedule.optimizer.lr": [0.1, 0.2]}, {"method": "kd", "schedule.steps": 3}]
    found = students(points(recipes, axes=grids))
    assert [point.label for point in found] == [
        "a_ce-crop=small-lr=0.1",
        "a_ce-crop=small-lr=0.2",
        "a_ce-lr=0.1",
        "a_ce-lr=0.2",
        "a_kd-steps=3",
    ]
    assert found[0].recipe.augmentation.crop == (16, 16)
    assert found[2].recipe.augmentation.crop == (32, 32)
    assert found[4].recipe.schedule.steps == 3
    (recipes / "recipes" / "tiny" / "b.yaml").write_text("extends: [tiny/a]\nstudent: {width: 16}\n")
    several = students(points(recipes, recipe=["tiny/a", "tiny/b"], axes={"method": "ce", "seed": 3}))
    assert [(point.label, point.recipe.seed) for point in several] == [("a_ce", 3), ("b_ce", 3)]


def test_exclusions_overrides_and_settings(recipes: Path) -> None:
    found = students(
        points(
            recipes,
            settings={"schedule.batch": 2},
            exclude=[{"method": "kd", "seed": 1}],
            overrides=[{"when": {"method": ["kd"]}, "settings": {"weights.kl": 3.0}}],
        )
    )
    assert [(point.label, point.recipe.seed) for point in found] == [("a_ce", 0), ("a_ce", 1), ("a_kd", 0)]
    assert all(point.recipe.schedule.batch == 2 for point in found)
    assert found[2].recipe.weights["kl"] == 3.0
    with pytest.raises(ConfigError, match="no point is left"):
        points(recipes, exclude=[{"method": ["ce", "kd"]}])


def test_the_command_line(recipes: Path) -> None:
    """An axis gets other values, a key of the sweep another value; the rest goes to every recipe that it means something to."""
    exclude = [{"seed": 1}]
    found = points(recipes, "seed=[5]", "budget.steps=4", "teacher.floor=1", "run.workers=1", exclude=exclude)
    assert [point.recipe.seed for point in found] == [0, 5, 5]
    assert [point.recipe.schedule.steps for point in found] == [6, 4, 4]
    assert [point.recipe.teacher.floor for point in found if point.recipe.teacher] == [1]
    assert all(point.recipe.run.workers == 1 for point in found)


def test_grids_that_a_command_line_makes_overlap(recipes: Path) -> None:
    """What an earlier grid has comes once; what differs in an axis stays."""
    axes = [
        {"method": ["ce", "kd"], "seed": [0, 1]},
        {"method": ["kd"], "seed": [2]},
        {"method": ["kd"], "seed": [2], "long": {"yes": {"schedule.steps": 9}}},
    ]
    assert len(students(points(recipes, axes=axes))) == 6
    found = students(points(recipes, "seed=[3]", axes=axes))
    assert [(point.label, point.recipe.seed) for point in found] == [("a_ce", 3), ("a_kd", 3), ("a_kd-long=yes", 3)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"axis": {}}, r"axis: there is no such key; did you mean 'axes'"),
        ({"axes": {"methd": ["ce"]}}, r"x\.yaml: .*'methd' is no key of a recipe; did you mean 'method'\?"),
        ({"recipe": "tiny/a_{method}"}, r"recipe: tiny/a_\{method\} has a template, but a recipe describes a pair"),
        ({"recipe": "tiny/a_ce"}, r"x\.yaml: tiny/a_ce: there is no such recipe; a recipe describes a pair.*: tiny/a ce"),
        ({"axes": {"method": [{"name": "kd"}]}}, r"axes\.method: \{'name': 'kd'\} is no method; list what"),
        ({"axes": {"method": {"kd": {}}}}, r"axes\.method: \{'kd': \{\}\} is no method; list what"),
        ({"axes": {"method": ["cirkd"]}}, r"x\.yaml: 'cirkd' is no method here; name one of its presets: cirkd@citys \("),
        ({"axes": {"seed": [0]}}, r"x\.yaml: point a: tiny/a: describes a pair of networks, not how the student is trained"),
        ({"axes": {"method": ["ce"], "sede": [0]}}, r"x\.yaml: .*did you mean 'seed'\?"),
        ({"axes": {"method": ["ce"], "pear": [1]}}, r"'pear' is no key of a recipe"),
        ({"axes": {"method": ["ce"], "schedule.step": [1]}}, r"point a_ce-step=1: schedule\.step: .*did you mean 'steps'"),
        ({"axes": {"method": ["ce"], "seed": []}}, r"axes\.seed: has no value"),
        ({"axes": {"method": ["ce"], "crop": {"a": 3}}}, r"axes\.crop: 3 is no mapping"),
        ({"axes": {"method": ["cee"]}}, r"x\.yaml: 'cee' is no method here; did you mean ce"),
        ({"recipe": "tiny/b"}, r"x\.yaml: tiny/b: there is no such recipe; did you mean tiny/a\?"),
        ({"exclude": [{"method": "kdd"}]}, r"a condition wants method 'kdd'; values: ce, kd"),
        ({"exclude": [{"pair": "a"}]}, r"a condition names 'pair'; axes: recipe, method, seed"),
        ({"settings": {"schedul.steps": 1}}, r"'schedul\.steps' is no key of a recipe"),
        ({"axes": {"method": ["ce", "ce"]}}, r"are the same run \(a_ce-.*an axis changes nothing"),
        ({"axes": {"method": ["ce"], "run.workers": [0, 1]}}, r"run\.workers 0 and .*run\.workers 1 are the same run"),
        ({"teachers": ["tiny/a ce"]}, r"teachers: tiny/a_ce teaches no point"),
        ({"teachers": ["tiny/teachr"]}, r"x\.yaml: tiny/teachr: there is no such recipe; did you mean tiny/teacher"),
        ({"budget": {"steps": 1, "hours": 1}}, r"budget: has steps, hours; give one"),
        ({"budget": {"hours": 1}, "match": "wall_clock"}, r"drop match"),
        ({"match": "wall_clock", "axes": {"method": ["kd"]}}, r"no baseline to match"),
    ],
)
def test_mistakes_are_named(recipes: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        points(recipes, **keys)


def test_a_teacher_of_ones_own_is_left_alone(recipes: Path) -> None:
    found = points(recipes, "teacher.path=somewhere/else")
    assert [point.role for point in found] == ["student"] * 4
    assert found[-1].recipe.teacher.path == "somewhere/else"
    assert not any(point.needs for point in points(recipes, teachers=[]))


def test_shared_tokens_are_learnt_once(recipes: Path) -> None:
    axes = {"method": "maskd", "seed": [0, 1], "student": {"narrow": {}, "wide": {"student.width": 16}}}
    found = points(recipes, axes=axes, tokens="shared")
    assert Counter(point.role for point in found) == {"teacher": 1, "tokens": 1, "student": 4}
    tokens = found[1]
    assert tokens.needs == (found[0].name,)
    assert (tokens.recipe.schedule.steps, total_steps(tokens.recipe)) == (1, 3)  # a quarter of 8, and one
    for point in students(found):
        assert point.recipe.method.tokens == f"runs/sweeps/x/{tokens.name}"
        assert "token_ce" not in point.recipe.weights
        assert set(point.needs) == {found[0].name, tokens.name}
        assert total_steps(point.recipe) == 8
    own = points(recipes, axes=axes)
    assert not any(point.role == "tokens" for point in own)
    assert total_steps(own[-1].recipe) == 10


def test_settings_of_the_teacher_leave_the_baseline_alone(recipes: Path) -> None:
    found = students(points(recipes, settings={"teacher.floor": 0.0, "schedule.steps": 3}))
    assert {point.recipe.schedule.steps for point in found} == {3}
    assert {point.recipe.teacher and point.recipe.teacher.floor for point in found} == {None, 0.0}


def test_recipes_are_also_found_from_the_current_folder(
    recipes: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine.yaml"
    elsewhere.write_text(write(recipes).read_text())
    with pytest.raises(ConfigError, match=r"mine\.yaml: tiny/a: there is no such recipe"):
        expand(read_sweep(elsewhere), Path("runs/x"))
    monkeypatch.chdir(recipes)
    assert len(expand(read_sweep(elsewhere), Path("runs/x"))) == 5


def test_budgets(recipes: Path) -> None:
    twice = r"x\.yaml: .*schedule\.steps: budget fixes the students' steps; give budget\.steps=N"
    with pytest.raises(ConfigError, match=twice):
        points(recipes, "schedule.steps=3", budget={"steps": 5})
    for keys in ({"settings": {"schedule.steps": 3}}, {"axes": {"method": ["ce"], "schedule.steps": [3, 4]}}):
        with pytest.raises(ConfigError, match=twice):
            points(recipes, budget={"steps": 5}, **keys)
    with pytest.raises(ConfigError, match=r"schedule: is 5; input should be a mapping"):
        points(recipes, "schedule=5", budget={"steps": 5})
    free = students(points(recipes, "schedule.steps=3", "budget=null", budget={"steps": 5}))
    assert {point.recipe.schedule.steps for point in free} == {3}
    found = points(recipes, "budget.steps=4", "teachers={tiny/teacher: {schedule.steps: 3}}", budget={"steps": 5})
    assert [point.recipe.schedule.steps for point in found] == [3, 4, 4, 4, 4]
    assert {point.recipe.schedule.steps for point in students(points(recipes, budget={"steps": 5}))} == {5}
    assert {point.recipe.schedule.steps for point in students(points(recipes, budget={"samples": 41}))} == {11}  # batch 4


def test_matching_the_wall_clock(recipes: Path) -> None:
    """Every method costs what the baseline costs at its steps; what is not measured yet is marked."""
    keys: dict[str, Any] = {"axes": {"method": ["ce", "kd", "maskd"], "seed": [0, 1]}, "match": "wall_clock"}
    sweep = read_sweep(write(recipes, **keys))
    wanted = to_measure(sweep, {})
    assert len(wanted) == 3
    assert all(recipe.teacher is None or recipe.teacher.name == "fresh" for recipe in wanted.values())
    assert all(point.plan.pending for point in students(points(recipes, **keys)))
    cost = {None: (0.1, 0.0), "kd": (0.16, 0.0), "maskd": (0.15, 0.05)}
    clock = {}
    for key, recipe in wanted.items():
        assert key == clock_key(recipe)
        student, extra = cost[recipe.method.name if recipe.method else None]
        clock[key] = {"student": student, "extra": extra}
    assert not to_measure(sweep, clock)
    found = students(points(recipes, clock=clock, **keys, budget={"steps": 1000}))
    assert [point.recipe.schedule.steps for point in found] == [1000, 1000, 625, 625, 500, 500]
    assert [point.plan.budget for point in found] == [1000] * 6
    assert found[-1].plan.seconds_per_step == pytest.approx(0.2)
    shared = students(points(recipes, clock=clock, tokens="shared", **keys, budget={"steps": 1000}))
    assert shared[-1].recipe.schedule.steps == 666
    hours = students(points(recipes, clock=clock, axes=keys["axes"], budget={"hours": 0.01}))
    assert [point.recipe.schedule.steps for point in hours] == [360, 360, 225, 225, 180, 180]


def test_some_points_and_what_they_need(recipes: Path) -> None:
    found = points(recipes)
    assert named(found, ["a_kd*-s1"]) == [found[-1].name]
    assert chosen(found, [found[-1].name]) == [found[0], found[-1]]
    assert named(found, []) == [point.name for point in found]
    with pytest.raises(ConfigError, match="no point matches 'b_kd'; the names are"):
        named(found, ["b_kd"])


def test_other_launchers_run_the_same_points(recipes: Path) -> None:
    found, command = points(recipes), ["kd", "sweep", "x.yaml", "seed=[0,1]"]
    sweep = yaml.safe_load(wandb_sweep(found, "x", command, "project"))
    assert sweep["parameters"] == {"only": {"values": [point.name for point in found]}}
    assert sweep["command"] == ["${env}", *command, "${args}"]
    assert "--job-name=a_touch_b " in slurm_script(found, "a\n; touch b", command)
    script = slurm_script(found, "x", command, ["gres=gpu:1", "comment=$(touch b)"])
    assert script.count("--array=0-2 ") == script.count("--array=0-1 ") == 1  # teacher and baselines, then its students
    assert script.count("--dependency=afterok:${job1}_0 ") == 1
    assert script.count("--gres=gpu:1 '--comment=$(touch b)'") == 2
    assert "'seed=[0,1]'" in script
    assert all(point.name in script for point in found)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_expands_and_has_baseline_and_seeds(path: Path) -> None:
    found = expand(read_sweep(path), Path("runs/sweeps") / path.stem)
    assert f"# kd sweep {path.stem}" in path.read_text()
    if "to choose by val" not in path.read_text():  # from which no table is made
        rows = Counter(point.label for point in students(found))
        assert min(rows.values()) >= 2
        assert any(point.recipe.method is None for point in students(found))
    distils = any(point.recipe.method is not None for point in students(found))
    assert [point.role for point in found].count("teacher") == int(distils)


def test_a_student_may_teach(recipes: Path) -> None:
    """A teacher's path is that of any run: of a whole recipe, or of a pair with its method."""
    found = points(recipes, "teacher.path=runs/tiny/a_ce/seed1", axes={"method": ["kd"]}, teachers={"tiny/a ce": {}})
    assert [(point.role, point.label, point.recipe.seed) for point in found] == [("teacher", "a_ce", 1), ("student", "a_kd", 0)]


def test_methods_on_the_command_line(recipes: Path) -> None:
    assert [point.label for point in students(points(recipes, "method=[kd]", "seed=0"))] == ["a_kd"]
    assert [point.label for point in students(points(recipes, "method=jml_kd", axes={"seed": [0, 1]}))] == ["a_jml_kd"] * 2
    (stacked,) = students(points(recipes, "method=[kd+dist@seg]", "seed=0", "weights.dist_inter=2"))
    assert stacked.label == "a_kd+dist@seg"
    assert set(stacked.recipe.weights) == {
        "ce",
        "ce_aux",
        "kd_kl",
        "dist_inter",
        "dist_intra",
        "dist_inter_aux",
        "dist_intra_aux",
    }
    assert stacked.recipe.weights["dist_inter"] == 2


def test_a_narrowed_sweep_leaves_out_the_teachers_that_teach_nobody(recipes: Path) -> None:
    teachers = {"tiny/teacher": {}}
    assert {point.role for point in points(recipes, axes={"method": ["ce", "kd"]}, teachers=teachers)} == {"teacher", "student"}
    narrowed = points(recipes, "method=ce", axes={"method": ["ce", "kd"]}, teachers=teachers)
    assert [point.label for point in narrowed] == ["a_ce"]
    with pytest.raises(ValueError, match="teaches no point"):
        points(recipes, axes={"method": ["ce"]}, teachers=teachers)


def test_a_weight_without_a_term_is_refused_before_the_teacher_is_trained(recipes: Path) -> None:
    axes = {"method": ["ce", "kd"]}
    for given in (
        {"settings": {"weights.foo": 1}},
        {"overrides": [{"when": {"method": "kd"}, "settings": {"weights.foo": 1}}]},
    ):
        with pytest.raises(ValueError, match=r"weights\.foo: (no point|nothing) computes 'foo'"):
            points(recipes, axes=axes, **given)
    with pytest.raises(ValueError, match=r"weights\.foo: no point computes 'foo' \(terms: ce, ce_aux, kl\)"):
        points(recipes, "weights.foo=1", axes=axes)


def test_a_knob_of_the_method_is_an_axis_beside_the_baseline(recipes: Path) -> None:
    axes = {"method": ["ce", "kd", "jml_kd"], "method.temperature": [1.0, 4.0], "seed": [0, 1]}
    found = students(points(recipes, axes=axes))
    assert Counter(point.label for point in found) == {
        "a_ce": 2,
        "a_kd-temperature=1.0": 2,
        "a_kd-temperature=4.0": 2,
        "a_jml_kd-temperature=1.0": 2,
        "a_jml_kd-temperature=4.0": 2,
    }
    bundles = {"t": {"warm": {"method.temperature": 4.0}}, "method": ["ce", "kd"]}
    assert [point.label for point in students(points(recipes, axes=bundles))] == ["a_ce", "a_kd-t=warm"]
    with pytest.raises(ValueError, match=r"axes\.method\.temprature: no point has that key"):
        points(recipes, axes={**axes, "method.temprature": [1.0]})
    with pytest.raises(ValueError, match=r"method\.temprature: no point's method has that knob; correct or drop it"):
        points(recipes, "method.temprature=3", axes=axes)


def test_a_weight_is_set_where_its_term_is(recipes: Path) -> None:
    for given in ([], ["weights.kl=3"]):
        teacher, baseline, distilled = points(recipes, *given, axes={"method": ["ce", "kd"]}, settings={"weights.kl": 3.0})
        assert "kl" not in {**baseline.recipe.weights, **teacher.recipe.weights}
        assert distilled.recipe.weights["kl"] == 3


def test_the_committed_results_are_their_sweep_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "recipes" / "camvid" / "results" / "camvid_cpu"
    committed = {path.name for path in folder.iterdir() if path.is_dir()}
    copy = shutil.copytree(folder, tmp_path / "copied")
    monkeypatch.chdir(tmp_path)
    for root in (folder, copy, Path("copied")):
        assert {point.name for point in expand(read_sweep("camvid_cpu"), root)} == committed


def test_points_are_called_the_same_wherever_the_sweep_lies(recipes: Path, tmp_path: Path) -> None:
    sweep = read_sweep(write(recipes, axes={"method": ["ce", "kd"]}))
    here, there = (expand(sweep, root) for root in (HERE, tmp_path / "elsewhere"))
    assert [point.name for point in here] == [point.name for point in there]
    assert here[-1].recipe.teacher.path == f"runs/sweeps/x/{here[0].name}"


def test_a_teacher_from_elsewhere_is_known_by_its_weights(
    recipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "deep/copy"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "student.safetensors").write_bytes(b"weights")
        (tmp_path / name / "student.yaml").write_text("classes: [a, b]")

    def called(path: str) -> str:
        return points(recipes, f"teacher.path={path}", axes={"method": ["kd"]})[-1].name

    spellings = ("teacher", "./teacher", "deep/../teacher", str(tmp_path / "teacher"), "deep/copy")
    names = {called(path) for path in spellings}
    assert len(names) == 1
    assert called("nowhere") not in names
    for file in ("student.safetensors", "student.yaml"):
        (tmp_path / "deep/copy" / file).write_bytes(b"other")
        assert called("deep/copy") not in names
        names.add(called("deep/copy"))


def test_a_knobs_axis_leaves_stacks_alone(recipes: Path) -> None:
    axes = {"method": ["ce", "kd", "at"], "method.temperature": [1.0, 4.0]}
    found = students(points(recipes, axes=axes))
    assert [point.label for point in found] == ["a_ce", "a_kd-temperature=1.0", "a_kd-temperature=4.0", "a_at"]
