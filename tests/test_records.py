"""metrics.jsonl is valid JSON, survives a crash, and a resumed run ends with the file of an undisturbed one."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kd.config import ConfigError
from students.tracking.tracker import Tracker, Tracking, read_metrics
from students.tracking.wandb_facts import About


def tracker(directory: Path, resume_step: int | None = None) -> Tracker:
    return Tracker(Tracking(), directory, About("run-7", "kd", "pair", "train", (), {"seed": 0}, "val"), resume_step)


def timeless(path: Path) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "time"} for record in read_metrics(path)]


def test_each_line_is_json_with_step_and_time_and_on_disk_at_once(tmp_path: Path) -> None:
    before = time.time()
    with tracker(tmp_path) as run:
        run.log({"train/loss": 1.5, "stage": "distil", "val": {"IoU": {"road": 0.5}}}, step=3)
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert before - 1 <= record.pop("time") <= time.time() + 1
    assert record == {"step": 3, "train/loss": 1.5, "stage": "distil", "val": {"IoU": {"road": 0.5}}}


def test_not_a_number_is_valid_json_and_comes_back(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    with tracker(tmp_path) as run:
        run.log({"a": math.nan, "b": {"c": math.inf, "d": [-math.inf, 1.0]}}, step=1)
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"])
    assert record["b"] == {"c": math.inf, "d": [-math.inf, 1.0]}


def test_tensors_of_one_element_are_numbers(tmp_path: Path) -> None:
    with tracker(tmp_path) as run:
        run.log({"a": torch.tensor(0.5), "b": np.float32(np.nan), "c": np.int64(3)}, step=1)
    (record,) = read_metrics(tmp_path / "metrics.jsonl")
    assert (record["a"], record["c"]) == (0.5, 3)
    assert math.isnan(record["b"])


def test_taken_names_are_refused(tmp_path: Path) -> None:
    with tracker(tmp_path) as run, pytest.raises(ValueError, match="step"):
        run.log({"step": 1}, step=1)


def test_a_resumed_run_ends_with_the_undisturbed_file(tmp_path: Path) -> None:
    def train(directory: Path, first: int, last: int, resume_step: int | None = None) -> None:
        with tracker(directory, resume_step) as run:
            for step in range(first, last + 1):
                run.log({"train/loss": 1 / step}, step)

    train(tmp_path / "whole", 1, 9)
    train(tmp_path / "broken", 1, 7)
    with (tmp_path / "broken/metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "time": 17')
    kept = (tmp_path / "broken/metrics.jsonl").read_bytes().splitlines()[:4]
    train(tmp_path / "broken", 5, 9, resume_step=4)
    assert timeless(tmp_path / "broken/metrics.jsonl") == timeless(tmp_path / "whole/metrics.jsonl")
    assert (tmp_path / "broken/metrics.jsonl").read_bytes().splitlines()[:4] == kept
    assert [file.name for file in (tmp_path / "broken").iterdir()] == ["metrics.jsonl"]


def test_a_torn_last_line_goes_even_if_its_step_would_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "a": 1}\n{"step": 2, "a": \xff')
    assert read_metrics(path) == [{"step": 1, "a": 1}]
    with tracker(tmp_path, resume_step=5) as run:
        run.log({"a": 6}, 6)
    assert timeless(path) == [{"step": 1, "a": 1}, {"step": 6, "a": 6}]


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(ConfigError, match="record 2 is not JSON"):
        read_metrics(path)


def test_a_fresh_start_sets_the_old_file_aside(tmp_path: Path) -> None:
    for value in (1, 2):
        with tracker(tmp_path) as run:
            run.log({"a": value}, 1)
    assert [record["a"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [2]
    assert [record["a"] for record in read_metrics(tmp_path / "metrics.old.jsonl")] == [1]
