"""What a user gets who has no clone: a wheel, a console command, recipes inside the package, in an empty directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the clone stays as it is."""
    source, output = tmp_path_factory.mktemp("source") / "clone", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("setup.py", "README.md", "kd", "students", "teachers", "recipes"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    for left in ("kd/methods/left_over.py", "kd/recipes/_parts/method/left_over.yaml"):  # by the build of another version
        (source / "build" / "lib" / left).parent.mkdir(parents=True)
        (source / "build" / "lib" / left).touch()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(output)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (found,) = output.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, beside an environment that has what it needs."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    return target


def kd(installed: Path, folder: Path, *words: str) -> str:
    """What the console command prints."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(installed / "bin" / "kd"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_recipes_and_no_results(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*") if path.is_file()}
    expected = {f"kd/{name}" for name in ours if "/results/" not in name}
    assert {name for name in names if name.startswith("kd/recipes/")} == expected
    assert {"kd/report/templates/page.html", "kd/py.typed", "students/tracking/tracker.py", "teachers/run.py"} <= names
    assert not [name for name in names if name.split("/")[0] in ("tests", "tools", "recipes", "build")]
    assert not [name for name in names if "left_over" in name]


def test_an_empty_directory_is_enough(installed: Path, tmp_path: Path) -> None:
    assert "extends: [_parts/data/shapes" in kd(installed, tmp_path, "recipes", "show", "shapes/tiny")
    trained = kd(installed, tmp_path, "train", "shapes/tiny", "jml_kd", "--smoke", "--output", "runs/mine", "run.device=cpu")
    assert "runs/mine: finished" in trained
    assert "| jml_kd |" in kd(installed, tmp_path, "table", "runs")
    assert "runs/report.html: " in kd(installed, tmp_path, "report", "runs")
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
