"""A real run, cut twice, in W&B: its segments, and the one clean run that is rebuilt from its directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_tools import ROOT, apart
from tiny import merged, tiny

from kd.config import InputError
from kd.recipe.schema import plain
from students.tracking.metrics_file import read_metrics
from students.tracking.wandb_facts import numbers
from students.tracking.wandb_replay import replay

TRAIN = """
import os, signal, sys
from pathlib import Path
from tiny import execute
from kd.recipe.loading import load
from students.trainer import Trainer
recipe, folder, cut, number = load(sys.argv[1])[0], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
step = Trainer.one_step
def cut_short(self, batches):
    if self.step == cut:
        os.kill(os.getpid(), number)
    return step(self, batches)
Trainer.one_step = cut_short
execute(recipe, folder)
"""
STOPPED, KILLED, NEVER = (1, 15), (3, 9), (99, 15)  # before which step, by which signal


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No W&B account, no proxy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_") or "proxy" in name.lower()]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


def train(folder: Path, cut: tuple[int, int] = NEVER, **changes: Any) -> int:
    """Train until a signal comes; the exit code."""
    wishes = {"run": {"previews": 2, "wandb": {"mode": "offline", "tags": ["mine"], "images": 3}}}
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump(plain(tiny("kd", **merged(wishes, changes)))))
    command = [sys.executable, "-c", TRAIN, str(recipe), str(folder), *map(str, cut)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    return subprocess.run(command, env=surroundings, capture_output=True, timeout=200, check=False).returncode


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped after step 2, killed before step 4 (step 3 was logged, but has no checkpoint), and finished."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    assert [train(folder, STOPPED), train(folder, KILLED), train(folder)] == [75, -9, 0]
    return folder


@pytest.fixture(scope="module")
def replayed(cut: Path) -> tuple[Path, str]:
    """The run again, with its replay in W&B, and what the tool printed."""
    done = apart("replay-wandb", cut)
    assert done.returncode == 0, done.stderr
    return cut, done.stdout


def read(segment: Path) -> list[dict[str, Any]]:
    """What W&B has recorded, read back by its own tool."""
    (log,) = segment.glob("*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    found = subprocess.run([wandb, "leet", "inspect", "--json", log], capture_output=True, text=True, timeout=60, check=False)
    return [json.loads(line) for line in found.stdout.splitlines()]


def segments(folder: Path, run_id: str) -> list[list[dict[str, Any]]]:
    return [read(path) for path in sorted(folder.glob(f"wandb/offline-run-*-{run_id}"), key=lambda path: path.stat().st_mtime)]


def identity(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["id"]


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without W&B's own columns."""
    rows = [row["item"] for row in of_kind(records, "history")]
    assert all(row["iter"] >= before["iter"] for before, row in pairwise(rows))
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def scalars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [{key: value for key, value in row.items() if not key.startswith("images.")} for row in rows]
    return [row for row in found if len(row) > 1]


def logged(folder: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` as rows."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{"iter": record.pop("step"), **numbers({k: v for k, v in record.items() if k != "time"})} for record in records]


def summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for update in of_kind(records, "summary") for key, value in update["update"].items()}


def check_identity(records: list[dict[str, Any]], folder: Path, run_id: str) -> None:
    (about,) = of_kind(records, "run")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert (about["run_id"], about["display_name"]) == (run_id, "kd-DL3-test_resnet-s0")
    assert (about["run_group"], about["job_type"]) == ("shapes/fresh->DL3-test_resnet", "train")
    assert about["tags"] == ["kd", "shapes", "DL3-test_resnet", identity(folder)[:8], "mine"]
    assert {key: value for key, value in about["config"]["update"].items() if key != "_wandb"} == recipe
    axes = {metric.get("glob_name") or metric["name"]: metric for metric in of_kind(records, "metric")}
    assert axes["*"]["step_metric"] == axes["val/mIoU"]["step_metric"] == "iter"
    assert axes["val/mIoU"]["summary"] == {"last": True, "max": True}


def check_end(records: list[dict[str, Any]], folder: Path) -> None:
    """Summary, and the last images with all masks."""
    result = json.loads((folder / "result.json").read_text())
    found = summary(records)
    for part, scores in (("final", result["last"]["test"]), ("best", result["best"]["test"]), ("cost", result["cost"])):
        expected = numbers({part: scores})
        assert expected
        assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["best/step"] == result["best"]["step"]
    images = [row for row in history(records) if "images.captions" in row][-1]
    assert (images["iter"], images["images.captions"]) == (6, ["val_00000", "val_00001"])
    assert [set(masks) for masks in images["images.all_masks"]] == [{"target", "teacher", "student"}] * 2
    assert records[-1]["exit"]["exit_code"] == 0


def test_segments_of_a_run_share_its_id(cut: Path) -> None:
    first, _, last = segments(cut, identity(cut))  # the killed process took what W&B had not yet written
    for records in (first, last):
        check_identity(records, cut, identity(cut))
    assert [row["iter"] for row in history(first)] == [0, 1, 2]
    assert "teacher/mIoU" in history(first)[0]
    assert history(last)[0]["iter"] == 3
    assert not any("teacher/mIoU" in row for row in history(last))
    assert of_kind(first, "preempting")
    assert first[-1]["exit"]["exit_code"] == 75
    assert not of_kind(first, "alert")


def test_history_and_end_of_the_last_segment(cut: Path) -> None:
    records = segments(cut, identity(cut))[-1]
    check_end(records, cut)
    found = scalars(history(records))
    assert found == [pytest.approx(row) for row in logged(cut) if row["iter"] > 2]
    names = {name for row in found for name in row}
    assert {"train/loss", "train/gradient_norm", "terms/kl", "weighted/kl", "lr/student", "val/mIoU"} <= names
    assert {"perf/seconds_per_step", "perf/memory_mb"} <= names
    assert any(name.startswith("val/iou/") for name in names)


def test_a_replay_is_one_clean_run(replayed: tuple[Path, str]) -> None:
    folder, text = replayed
    run_id = f"{identity(folder)}-replay"
    (records,) = segments(folder, run_id)
    check_identity(records, folder, run_id)
    check_end(records, folder)
    rows = scalars(history(records))
    assert [row["iter"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    teacher = json.loads((folder / "teacher.json").read_text())
    expected: dict[int, dict[str, Any]] = {0: {"iter": 0, **numbers({"teacher": teacher})}}
    for row in logged(folder):
        expected.setdefault(row["iter"], {}).update(row)
    assert rows == [pytest.approx(row) for row in expected.values()]
    assert "perf/images_per_second" in rows[-2]
    assert not {"stats", "output_raw", "output"} & {record["type"] for record in records}
    assert f"wandb sync {folder}/wandb/offline-run-*-{run_id}" in text
    with pytest.raises(InputError, match=r"-replay: was recorded before.*choose another --id"):
        replay(folder)


def test_the_time_is_that_of_the_training(replayed: tuple[Path, str]) -> None:
    folder, _ = replayed
    (records,) = segments(folder, f"{identity(folder)}-replay")
    rows = [row["item"] for row in of_kind(records, "history")]
    times = {record["step"]: record["time"] for record in read_metrics(folder / "metrics.jsonl")}
    assert [row["_timestamp"] for row in rows[1:]] == [pytest.approx(times[step], abs=1e-3) for step in range(1, 7)]


def test_an_unfinished_run_without_pictures(cut: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder, ignore=shutil.ignore_patterns("wandb", "previews", "result.json", "teacher.json"))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    done = apart("replay-wandb", folder, "--id", "mine", "--project", "other", WANDB_MODE="disabled")
    assert done.returncode == 0, done.stderr
    (records,) = segments(folder, "mine")
    assert of_kind(records, "run")[0]["project"] == "other"
    assert [row["iter"] for row in history(records)] == [1, 2, 3]
    assert not [key for key in summary(records) if key.startswith(("final", "images"))]
    assert of_kind(records, "preempting")


def test_without_evaluations_the_images_are_shown_at_the_end(tmp_path: Path) -> None:
    assert train(tmp_path / "run", evaluation={"every": 0}) == 0
    (records,) = segments(tmp_path / "run", identity(tmp_path / "run"))
    (images,) = [row for row in history(records) if "images.captions" in row]
    assert images["iter"] == 6
    assert [set(masks) for masks in images["images.all_masks"]] == [{"target", "teacher", "student"}] * 2
    assert not [key for key in summary(records) if key.startswith("best")]


def test_online_without_a_server_is_an_error_with_a_remedy(cut: Path) -> None:
    before = sorted((cut / "wandb").iterdir())
    done = apart("replay-wandb", cut, "--mode", "online", WANDB_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --mode online: W&B at http://127.0.0.1:9 does not answer; run `wandb login`")
    assert sorted((cut / "wandb").iterdir()) == before


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        ("run.json", {}, "is no run directory, it has no run.json; give what `kd train` wrote"),
        ("metrics.jsonl", {}, "metrics.jsonl: holds no record"),
        ("recipe.yaml: {a: 1}", {}, "is no resolved recipe"),
        ("recipe.yaml: {a", {}, "is no resolved recipe"),
        ("recipe.yaml: \xfc", {}, "recipe.yaml: is no resolved recipe .UnicodeDecodeError"),
        ("run.json: {", {}, "run.json: is damaged"),
        ("run.json: {}", {}, "run.json: holds no id and fingerprint"),
        ("previews/final/00_x/image.jpg: torn", {}, "image.jpg: cannot be decoded"),
        ("metrics.jsonl: ", {}, "metrics.jsonl: holds no record"),
        ("", {"run_id": "a b"}, "run_id is 'a b'; use 1 to 128 of the characters"),
        ("", {"mode": "online"}, "--mode online: WANDB_MODE=offline forbids it"),
    ],
)
def test_mistakes_are_named(
    cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, options: dict[str, str], message: str
) -> None:
    for name in ("recipe.yaml", "run.json", "metrics.jsonl"):
        shutil.copy(cut / name, tmp_path)
    name, told, text = damage.partition(": ")
    if told:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="latin-1")
    elif name:
        (tmp_path / name).unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InputError, match=message):
        replay(tmp_path, **options)
    assert not (tmp_path / "wandb").exists()  # nothing that a second attempt would find taken
