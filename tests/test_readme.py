"""What the README shows is true: its own method trains, its table is what the tool prints, its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd.methods.cards import card, names, table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PRESETS = ROOT / "recipes" / "_parts" / "method"


def block(language: str, marker: str) -> str:
    """The code block that holds a text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if marker in text]
    assert len(found) == 1, f"{len(found)} blocks with {marker}"
    return found[0]


def test_the_method_of_the_readme_trains_without_touching_the_repository(tmp_path: Path) -> None:
    code, recipe = block("python", "my_methods.py"), block("yaml", "my_methods:CosineMethod")
    assert len(code.splitlines()) + len(recipe.splitlines()) <= 40
    (tmp_path / "my_methods.py").write_text(code)
    (tmp_path / "_parts").symlink_to(ROOT / "recipes" / "_parts")
    (tmp_path / "mine.yaml").write_text(recipe)
    command = [sys.executable, str(ROOT / "tools/train.py"), "mine.yaml", "--smoke", "--output", "run", "run.device=cpu"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert '"cosine"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_its_table_of_methods_is_the_tools() -> None:
    assert table(PRESETS) in README


@pytest.mark.parametrize("name", names())
def test_every_method_has_a_card(name: str) -> None:
    text = card(name, PRESETS)
    assert text.startswith(f"### {name}\n")
    assert "arXiv" in text or "ECCV" in text or name == "several"
    assert "Fails where" in text or name == "several"


def test_its_tools_exist() -> None:
    named = set(re.findall(r"tools/(\w+)\.py", README)) | set(re.findall(r"^\| `(\w+)\.py", README, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "tools").glob("*.py")} - {"demo"} | ({"demo"} & named)


def test_its_files_exist() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    for recipe in re.findall(r"recipes/[\w./@-]+\.yaml", README):
        assert (ROOT / recipe).exists() or "mine" in recipe, recipe


MEASURED = {"published": ["--published"], "camvid_cpu": ["recipes/camvid/results/camvid_cpu"]}


@pytest.mark.parametrize("name", MEASURED)
def test_its_results_are_what_the_tool_prints(tmp_path: Path, name: str) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(README, encoding="utf-8")
    command = [sys.executable, "tools/table.py", *MEASURED[name], "--update", str(copy), "--name", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert f"table '{name}' is up to date" in done.stdout, done.stderr
