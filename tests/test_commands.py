"""The ``kd`` command: what it tells without torch, what it completes, what it answers to mistakes, and ``kd recipes``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_tools import inside

import kd
from kd.commands.main import COMMANDS, main
from kd.recipe.library import library, method_files, recipe_names
from kd.recipe.loading import draft, load

WITHOUT_TORCH = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "wandb", "numpy", "pydantic", "yaml", "PIL"):
            raise ImportError(f"{name} was imported before the command line was understood")

sys.meta_path.insert(0, Nothing())
from kd.commands.main import main

for words in (["--help"], *([command, option] for command in sys.argv[1:] for option in ("--help", "--no-such-option"))):
    try:
        code = main(words)
    except SystemExit as done:
        code = done.code
    assert code == (2 if words[-1] == "--no-such-option" else 0), (words, code)
"""


def test_command_lines_are_understood_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *COMMANDS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: kd") == 1 + len(COMMANDS)
    assert all(re.search(rf"\n    {command}\s", done.stdout) for command in COMMANDS)


def test_mistakes_on_the_first_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian is no command; did you mean train? Commands: init, train, ")
    assert main([]) == 2
    assert "usage: kd" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kd {kd.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes/tiny"], "shapes/tiny: describes a pair of networks, not how the student is trained; name a method beside it"),
        (["shapes/tinny", "kd"], "shapes/tinny: there is no such recipe; did you mean shapes/tiny?"),
        (["shapes/tiny", "kdd"], "'kdd' is no method here; did you mean kd or skd or dsd?"),
        (["shapes/tiny", "cirkd"], "'cirkd' is no method here; name one of its presets: cirkd@citys ("),
        (["shapes/tiny", "kd", "cwd"], "kd and cwd: two methods where one is meant; a run has one. To stack them write kd+cwd"),
        (["shapes/tiny", "ce+ce_jml"], "ce+ce_jml: ce and ce_jml are two task losses where one is meant"),
        (["shapes/tiny", "kd+at"], "kd+at: kd is there twice (at brings it along: say at alone)"),
        (["shapes/tiny", "ce", "teacher.floor=3"], "ce trains without a teacher; drop teacher="),
        (
            ["shapes/tiny", "method=kd"],
            "method: is 'kd'; a method by its name alone stands beside the recipe: kd train RECIPE kd",
        ),
        (["shapes/r10_teacher", "kd"], "kd: "),
        (
            ["recipes/camvid/r18_jml_kd.yaml"],
            "recipes/camvid/r18_jml_kd.yaml: there is no such recipe; a recipe describes a pair",
        ),
        (["camvid/r18_cirkd"], "camvid/r18_cirkd: there is no such recipe; a recipe describes a pair, and the method is named"),
        (["shapes/tiny", "cwd@ofical"], "'cwd@ofical' is no method here; did you mean cwd@cirkd?"),
        (["shapes/tiny", "KD"], "'KD' is no method here; did you mean kd"),
        (["shapes/tiny", "kd+"], "'kd+': names no method beside a +"),
        (["kd", "shapes/tiny"], "kd: there is no such recipe; it names a method, and the recipe comes first"),
        (["seed=1", "shapes/tiny"], "seed=1: there is no such recipe; it sets a key, and the recipe comes first"),
        (["shapes/tiny", "kd", "seed="], "seed: has no value; write seed=null to take back what the recipe sets"),
        (["shapes/tiny", "kd", "weights.foo=2"], "weights.foo: nothing computes 'foo' (terms: ce, ce_aux, kl)"),
        (["shapes/tiny", "dist", "weights.inter=null"], "weights.inter: is missing, but the term 'inter' is computed"),
        (["shapes/tiny", "kd+at", "--smoke"], "kd+at: kd is there twice"),
        (["sweeps/camvid_small", "kd"], f"{library()}/sweeps/camvid_small.yaml: is a sweep, not a recipe"),
        ([str(Path.cwd() / "nothing"), "kd"], f"{Path.cwd()}/nothing: there is no such recipe; "),
        ([".", "kd"], ".: there is no such recipe; "),
    ],
)
def test_mistakes_beside_a_recipe(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("train", *words, "--dry-run") == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_an_old_name_is_answered_with_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    inside("train", "recipes/camvid/r18_jml_kd.yaml")
    assert capsys.readouterr().err.endswith(": camvid/r18 jml_kd\n")
    inside("train", "voc_cirkd/psp_r18_cirkd")
    assert capsys.readouterr().err.endswith(": voc_cirkd/psp_r18 cirkd@citys or voc_cirkd/psp_r18 cirkd@voc\n")


def test_a_preset_that_cannot_fit_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """IFVD reads the teacher's embedding, which a mean of probabilities has not."""
    teacher = "{name: fresh, network: {name: deeplabv3, backbone: test_resnet, width: 16, pretrained: false}}"
    words = [f"teacher={{name: ensemble, members: [{teacher}, {teacher}]}}", "data.train=8", "run.device=cpu"]
    code = inside("train", "shapes/tiny", "fitnet@cirkd", *words, "--output", tmp_path / "run")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "reads the teacher's embedding, but this teacher gives only" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- methods beside a pair


def test_a_task_loss_stands_beside_a_method() -> None:
    plain, jml = load("shapes/tiny", ["kd"])[0], load("shapes/tiny", ["ce_jml+kd"])[0]
    assert set(plain.loss or {}) == {"ce", "ce_aux"}
    assert set(jml.loss or {}) == {"ce", "ce_aux", "jaccard"}
    assert jml.weights == {"ce": 0.125, "ce_aux": 0.125, "jaccard": 0.75, "kl": 1.0}
    assert load("shapes/tiny", ["ce+kd"])[0] == plain
    assert load("shapes/tiny", ["jml_kd"])[0].loss is None


def test_a_stack_is_one_method_with_prefixed_terms() -> None:
    recipe, origins = load("shapes/tiny", ["kd+cwd_logit@official"])
    assert [member.name for member in recipe.method.members] == ["kd", "cwd"]
    assert recipe.weights == {"ce": 1.0, "ce_aux": 0.4, "kd_kl": 1.0, "cwd_logit": 3.0}
    assert origins["weights.cwd_logit"] == "recipes/_parts/method/cwd_logit@official.yaml"
    assert set(load("shapes/tiny", ["jml_kd+at"])[0].weights) >= {"jml_kd_ce", "jml_kd_jaccard_soft", "kd_kl", "at_attention"}


def test_a_student_without_auxiliary_head_takes_no_terms_on_it() -> None:
    recipe, origins = load("shapes/tiny", ["dist", "student.aux=0"])
    assert recipe.method.aux is False
    assert recipe.weights == {"ce": 1.0, "inter": 1.0, "intra": 1.0}
    assert set(recipe.loss or {}) == {"ce"}
    assert origins["method.aux"] == "no auxiliary head"
    stack = load("shapes/tiny", ["kd+dist@seg", "student.aux=0"])[0]
    assert [getattr(member, "aux", None) for member in stack.method.members] == [None, False]
    with pytest.raises(ValueError, match=r"weights\.ce_aux: nothing computes 'ce_aux'"):  # what the user asks for stays
        load("shapes/tiny", ["ce", "student.aux=0", "weights.ce_aux=0.4"])
    assert load("shapes/tiny", ["dist", "student.aux=8"])[0].method.aux is True


def test_a_part_of_a_method_may_not_change_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "_parts" / "method" / "mine.yaml"
    part.parent.mkdir(parents=True)
    part.write_text("method: {name: kd}\nweights: {kl: 1}\nschedule: {steps: 3}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"mine\.yaml: sets schedule; a method's part sets labels, loss, method, weights alone"
    ):
        draft("shapes/tiny", "mine")


def test_a_word_means_the_same_beside_every_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "_parts" / "method"
    part.mkdir(parents=True)
    (part / "kd.yaml").write_text("method: {name: kd}\nweights: {kl: 7}\n")
    for name in ("a+b", "x=y"):  # cannot be named on a command line
        (part / f"{name}.yaml").write_text("method: {name: kd}\nweights: {kl: 1}\n")
    (part / "empty.yaml").write_text("# nothing yet\n")
    (part / "folder.yaml").mkdir()
    (tmp_path / "mine.yaml").write_text("extends: [shapes/tiny]\n")
    monkeypatch.chdir(tmp_path)
    assert method_files().keys() & {"a+b", "x=y", "empty", "folder"} == {"empty"}
    for recipe in ("shapes/tiny", "mine"):
        found, origins = load(recipe, ["kd"])
        assert (found.weights["kl"], origins["weights.kl"]) == (7, "./_parts/method/kd.yaml")
    assert inside("train", "shapes/tiny", "empty", "--dry-run") == 2
    assert "empty.yaml: is empty; a method's part sets" in capsys.readouterr().err


def test_a_recipe_may_extend_the_one_that_it_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes" / "shapes").mkdir(parents=True)
    (tmp_path / "recipes" / "shapes" / "tiny.yaml").write_text("extends: [shapes/tiny]\nschedule: {steps: 7}\n")
    there = load("shapes/tiny", ["kd"])[0]
    monkeypatch.chdir(tmp_path)
    found = load("shapes/tiny", ["kd"])[0]
    assert (found.schedule.steps, found.student) == (7, there.student)


def test_a_recipe_of_ones_own_extends_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: [shapes/tiny]\nschedule: {steps: 7}\n")
    for name in ("mine", "mine.yaml", "./mine.yaml", tmp_path / "mine.yaml"):
        assert load(name, ["kd"])[0].schedule.steps == 7
    (tmp_path / "recipes" / "shapes").mkdir(parents=True)
    (tmp_path / "recipes" / "shapes" / "tiny.yaml").write_text("extends: [../../mine]\n")
    assert inside("train", "shapes/other", "kd") == 2


# ------------------------------------------------------------------------------------------------------------- kd recipes


def test_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line.split()[0]: line for line in lines if "/" in line.split(" ")[0]}
    assert set(recipe_names()) | {"sweeps/shapes_demo"} <= told.keys()
    assert all(len(line.split()) > 3 for line in told.values())
    assert all(method in lines[-2] for method in method_files())


def test_recipes_are_shown_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside("recipes", "show", "camvid/r18") == 0
    assert capsys.readouterr().out == (library() / "camvid" / "r18.yaml").read_text()
    assert inside("recipes", "copy", "camvid_small/r18") == 0
    assert "kd train r18.yaml" in capsys.readouterr().out
    assert load("r18.yaml", ["kd"])[0] == load("camvid_small/r18", ["kd"])[0]
    first = (tmp_path / "r18.yaml").read_text().splitlines()[0]
    assert Path(first.partition("$schema=")[2]).is_file()
    assert inside("recipes", "copy", "camvid/r18") == 2
    assert "r18.yaml: is there already" in capsys.readouterr().err
    assert inside("recipes", "copy", "sweeps/shapes_demo", "mine/demo.yaml") == 0
    assert "kd sweep mine/demo.yaml" in capsys.readouterr().out
    assert inside("recipes", "copy", "shapes/tiny", "my pair.yaml") == 0
    assert capsys.readouterr().out.endswith("kd train 'my pair.yaml' METHOD\n")
    assert inside("recipes", "copy", "mine/demo.yaml", "again.yaml") == 0
    assert capsys.readouterr().out.endswith("kd sweep again.yaml\n")
    assert yaml.safe_load((tmp_path / "mine" / "demo.yaml").read_text())["recipe"] == "shapes/tiny"
    assert inside("recipes", "show") == 2


# ------------------------------------------------------------------------------------------------------------- completion


def completed(line: str, folder: Path) -> set[str]:
    """What the shell would offer at the end of a line."""
    answer = folder / "answer"
    facts = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    environment = {**os.environ, **facts, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_COMP_WORDBREAKS": " \n"}
    subprocess.run([sys.executable, "-m", "kd"], env=environment, cwd=folder, timeout=60, check=True)
    return {text.strip() for text in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kd ", {"train", "check-data", "schema"}),
        ("kd train cam", {"camvid/r18", "camvid_small/r34_teacher"}),
        ("kd train mi", {"mine.yaml"}),
        ("kd train camvid/r18 cw", {"cwd", "cwd@cirkd", "cwd_feature@paper"}),
        ("kd train camvid/r18 kd+di", {"kd+dist", "kd+dist@seg"}),
        ("kd train camvid/r18 kd schedule.optimizer.l", {"schedule.optimizer.lr="}),
        ("kd sweep cam", {"camvid_cpu", "camvid_small"}),
        ("kd recipes show sweeps/s", {"sweeps/shapes_demo"}),
        ("kd table --lay", {"--layout"}),
        ("kd methods jm", {"jml_kd"}),
    ],
)
def test_the_shell_completes(line: str, expected: set[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    assert expected <= completed(line, tmp_path)


def test_a_method_is_offered_once(tmp_path: Path) -> None:
    assert "cwd+kd" in (offered := completed("kd train camvid/r18 cwd+", tmp_path))
    assert not [word for word in offered if word.startswith("cwd+cwd")]
