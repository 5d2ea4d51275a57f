"""What the README shows is true: its own method trains, its table is what the tool prints, its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers_tools import call
from test_init import MASKS, folder, usual

from kd.commands.main import COMMANDS, main
from kd.methods.cards import card, names, table
from kd.recipe.library import recipe_names
from kd.recipe.loading import load

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
README, CONTRIBUTING, SECURITY = ((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
PRESETS = ROOT / "recipes" / "_parts" / "method"


def block(language: str, marker: str) -> str:
    """The code block that holds a text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if marker in text]
    assert len(found) == 1, f"{len(found)} blocks with {marker}"
    return found[0]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's own method and its preset, and nothing else."""
    code, preset = block("python", "my_methods.py"), block("yaml", "my_methods:CosineMethod")
    assert len(code.splitlines()) + len(preset.splitlines()) <= 40
    (tmp_path / "my_methods.py").write_text(code)
    (tmp_path / "_parts" / "method").mkdir(parents=True)
    (tmp_path / "_parts" / "method" / "cosine.yaml").write_text(preset)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SWEEP = """
recipe: shapes/tiny
axes: {method: cosine, seed: 0}
teachers: {shapes/r10_teacher: {}}
settings: {teacher.floor: 0}
"""
SMALL = ["data.train=8", "data.val=2", "data.test=2", "schedule.steps=2", "schedule.batch=2", "run.workers=0", "run.device=cpu"]


def test_its_own_method_is_trained_swept_and_tabled_with_no_other_edit(own: Path) -> None:
    (own / "s.yaml").write_text(SWEEP)
    done = call("sweep", "s.yaml", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 finished of 2 points" in done.stdout
    (run,) = (own / "runs" / "sweeps" / "s").glob("tiny_cosine-*")
    assert '"cosine"' in (run / "metrics.jsonl").read_text()
    assert "| cosine |" in call("table", "runs/sweeps/s").stdout


@pytest.mark.parametrize("words", [["my_methods:CosineMethod"], ["cosine", "power=2"]], ids=str)
def test_its_own_method_keeps_the_contract_with_any_knob(own: Path, words: list[str]) -> None:
    done = call("check-method", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{words[0]} keeps the contract\n")


def test_its_own_method_stands_beside_every_pair(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(own)
    for pair in recipe_names():
        if not pair.endswith("_teacher"):
            recipe, _ = load(pair, ["cosine"])
            assert (recipe.method.name, recipe.weights["cosine"]) == ("my_methods:CosineMethod", 1.0)


def test_its_table_of_methods_is_the_tools() -> None:
    assert table(PRESETS) in README


@pytest.mark.parametrize("name", names())
def test_every_method_has_a_card(name: str) -> None:
    text = card(name, PRESETS)
    assert text.startswith(f"### {name}\n")
    assert "arXiv" in text or "ECCV" in text or name == "several"
    assert "Fails where" in text or name == "several"


def test_its_commands_are_all_there_are() -> None:
    listed = re.findall(r"^\| `(?!kd )([a-z-]+)[` ]", README.partition("## Commands")[2].partition("\n## ")[0], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
    assert set(re.findall(r"\bkd ([a-z][a-z-]+)", README)) <= {*COMMANDS, "knows"}


COMMAND = re.compile(r"^kd (?:launch --\S+ \d+ )?train (.*?)(?:  .*)?$", re.MULTILINE)


@pytest.mark.parametrize("text", [README, CONTRIBUTING, SECURITY], ids=PAGES)
def test_its_files_and_recipes_exist(text: str) -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:kd|students|teachers|recipes|tests|tools)/[\w./@-]+)`", text):
        assert any(ROOT.glob(path)) or re.search("NAME|FOLDER|WORD", path), path
    for recipe in re.findall(r"recipes/[\w./@-]+\.yaml", text):
        assert (ROOT / recipe).exists() or re.search("NAME|FOLDER|WORD", recipe), recipe


def test_its_training_commands_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "mine", MASKS["numbers"][0], usual)
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    found = [command for fence in re.findall(r"```\n(.*?)```", README, re.DOTALL) for command in COMMAND.findall(fence)]
    assert len(found) >= 8
    for command in found:
        words = shlex.split(command)
        words = words[: words.index("--output")] if "--output" in words else words
        load(words[0], words[1:])


TABLE = re.findall(r"\nkd table (recipes/camvid_lite.+?[^\\])\n", README, re.DOTALL)[0].replace("\\\n", "")
MEASURED = {
    "published": ("README.md", ["--published"]),
    "camvid_lite": ("README.md", shlex.split(TABLE)),
    "camvid_cpu": ("recipes/camvid/results/camvid_cpu.md", ["recipes/camvid/results/camvid_cpu"]),
}


@pytest.mark.parametrize("name", MEASURED)
def test_its_results_are_what_the_tool_prints(tmp_path: Path, name: str) -> None:
    page, words = MEASURED[name]
    copy = tmp_path / "page.md"
    copy.write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
    done = call("table", *words, "--update", copy, "--name", name, folder=ROOT)
    assert f"table '{name}' is up to date" in done.stdout, done.stderr


def test_each_attack_that_was_tried_is_tried_again() -> None:
    known = set().union(
        *(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE) for file in ROOT.glob("tests/test_*.py"))
    )
    rows = [line for line in SECURITY.partition("| attack |")[2].splitlines()[2:] if line.startswith("|")]
    told = [re.findall(r"`(test_\w+)` \|$", row) for row in rows]
    assert len(rows) > 20
    assert all(len(names) == 1 and names[0] in known for names in told)
