"""Rows from run directories: what is read, what compares, what is refused or flagged, and the numbers themselves."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_results import begin, counts, load, write_run
from tiny import execute, tiny

from kd.config import ConfigError, InputError
from kd.metrics.counts import Counts
from kd.metrics.scores import dataset_mean
from kd.results.differences import differing
from kd.results.footnotes import about, title
from kd.results.groups import Choices
from kd.results.layouts import long
from kd.results.names import row_label, student_label, teacher_label
from kd.results.published import load_published
from kd.results.rows import Block, Row, statistics, summarise
from kd.results.runs import load_counts, load_runs, records
from kd.results.runs import number as finite
from kd.sealed import write_sealed


def three(folder: Path, kind: str, middle: float, changes: dict[str, Any] | None = None, **knobs: Any) -> None:
    """Seeds 0, 1, 2 of a recipe, with mIoU ``middle`` - 1, ``middle``, ``middle`` + 1."""
    for seed in range(3):
        recipe = tiny(kind, **{**(changes or {}), "seed": seed})
        write_run(folder / kind / f"seed{seed}", recipe, middle - 1 + seed, **knobs)


def only(folder: Path, choices: Choices = Choices()) -> Block:  # noqa: B008
    (block,) = summarise(load(folder), choices)
    return block


def row(block: Block, label: str) -> Row:
    (found,) = [one for one in block.rows if one.label == label]
    return found


# ------------------------------------------------------------------------------------------------------- numbers


def test_mean_and_deviation_are_numpys() -> None:
    values = [71.2, 70.4, 72.9, 71.0]
    assert statistics(values) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert statistics([3.0]) == (3.0, None)
    assert statistics([3.0, None]) == (None, None)


def test_rows_of_three_seeds(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0, cost={"seconds_per_step": 0.5, "accelerator_hours": 1.0, "peak_memory_mb": 100.0})
    three(tmp_path, "kd", 53.0, cost={"seconds_per_step": 0.75, "accelerator_hours": 1.5, "peak_memory_mb": 200.0})
    block = only(tmp_path)
    assert [one.label for one in block.rows] == ["ce", "kd"]
    assert (block.group.dataset, block.group.student, block.group.baseline) == ("shapes", "DL3-test_resnet", "ce")
    ce, kd = block.rows
    assert (ce.mean, ce.std, ce.delta, ce.flags) == (pytest.approx(50), pytest.approx(1), None, ())
    assert (kd.mean, kd.std, kd.seeds, kd.flags) == (pytest.approx(53), pytest.approx(1), [0, 1, 2], ())
    assert kd.delta is not None
    assert (kd.delta.value, kd.delta.low, kd.delta.high) == tuple(pytest.approx(3.0) for _ in range(3))
    assert kd.delta.sign == 1
    assert (kd.ratio, kd.hours, kd.memory_mb, ce.ratio) == (pytest.approx(1.5), 1.5, 200.0, 1.0)
    assert block.images == 4


def test_a_gain_on_half_of_the_images_is_not_marked(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"ce{seed}", tiny("ce", seed=seed), [50.0] * 8)
        write_run(tmp_path / f"kd{seed}", tiny("kd", seed=seed), [60.0, 41.0] * 4)
    delta = row(only(tmp_path), "kd").delta
    assert delta is not None
    assert delta.value == pytest.approx(0.5)
    assert (delta.low or 0) < 0 < (delta.high or 0)
    assert delta.sign == 0


def test_a_real_run_makes_a_row(tmp_path: Path) -> None:
    for kind in ("ce", "kd"):
        execute(tiny(kind), tmp_path / kind / "seed0")
    block = only(tmp_path)
    result = json.loads((tmp_path / "kd" / "seed0" / "result.json").read_text())
    kd = row(block, "kd")
    assert kd.mean == result["last"]["test"]["mIoU"]
    assert kd.best == result["best"]["test"]["mIoU"]
    assert kd.delta is not None
    assert (kd.delta.low or 0) <= kd.delta.value <= (kd.delta.high or 0)
    assert not kd.delta.over_seeds
    assert block.doubts == ()


def test_the_best_checkpoint(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0, best=58.0)
    three(tmp_path, "kd", 50.0)
    block = only(tmp_path)
    assert (row(block, "ce").best, row(block, "ce").best_std) == (58.0, 0.0)
    assert row(block, "kd").best is None


# ------------------------------------------------------------------------------------------------------- reading


def test_what_is_unfinished_or_damaged_is_named(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    begin(tmp_path / "kd" / "seed0", tiny("kd"), [(3, 20.0)])
    for name, text in (("cut", '{"status": "fin'), ("short", "{}"), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_bytes((tmp_path / "ce" / "seed0" / "recipe.yaml").read_bytes())
        (tmp_path / name / "result.json").write_text(text)
    (tmp_path / "foreign").mkdir()
    os.mkfifo(tmp_path / "foreign" / "result.json")
    (write_run(tmp_path / "norecipe", tiny(), 50.0) / "recipe.yaml").unlink()
    (write_run(tmp_path / "badrecipe", tiny(), 50.0) / "recipe.yaml").write_text("a: [")
    found = load_runs([tmp_path])
    assert len(found.finished) == 3
    assert [str(run) for run in found.incomplete] == [
        f"{tmp_path / 'kd' / 'seed0'}: incomplete, last logged at step 3; the command that began it resumes it"
    ]
    assert len(found.damaged) == 5
    for name, file, reason in (
        ("cut", "result.json", "Unterminated"),
        ("short", "result.json", "status is missing"),
        ("list", "result.json", "it holds a list, no mapping"),
        ("norecipe", "recipe.yaml", "No such file"),
        ("badrecipe", "recipe.yaml", "while parsing"),
    ):
        (line,) = [line for line in found.damaged if f"/{name}/" in line]
        assert line.startswith(f"{tmp_path}/{name}/{file}: is damaged (")
        assert line.count("damaged") == 1
        assert reason in line
        assert "restore it, or move the directory away" in line
    assert found.left_out == [str(found.incomplete[0]), *found.damaged]
    for seed in (1, 2):
        begin(tmp_path / "kd" / f"seed{seed}", tiny("kd", seed=seed), [(seed, 20.0)])
        (tmp_path / f"short{seed}").mkdir()
        (tmp_path / f"short{seed}" / "recipe.yaml").write_bytes((tmp_path / "ce" / "seed0" / "recipe.yaml").read_bytes())
        (tmp_path / f"short{seed}" / "result.json").write_text("{}")
    found = load_runs([tmp_path])
    assert len(found.left_out) == 6
    assert found.left_out[0] == (
        "3 runs: incomplete; the commands that began them resume them; last logged: "
        + ", ".join(f"{tmp_path}/kd/seed{seed} at step {step}" for seed, step in ((0, 3), (1, 1), (2, 2)))
    )
    assert (
        "3 files: is damaged (status is missing); restore it, or move the directory away and run anew; "
        f"first: {tmp_path}/short/result.json"
    ) in found.left_out


def test_strange_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0, curve=[(3, 40.0), (6, 41.5)])
    with (tmp_path / "ce" / "seed1" / "metrics.jsonl").open("ab") as file:
        file.write(b'\n\xff\xfe\n{"step": 6, "val": 5}\n{"step": "x"}\n[1]\n7\n{"step": 6, "val": {"mIoU": "NaN"}}\n{"st')
    assert row(only(tmp_path), "ce").flags == ("under-trained",)
    assert len(records(tmp_path / "ce" / "seed1")) == 4


def test_a_run_is_read_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a", tiny(), 50.0)
    assert len(load_runs([tmp_path, tmp_path / "runs", folder, folder]).finished) == 1


@pytest.mark.parametrize(("name", "message"), [("none", "none: is no directory; give run"), ("", "holds no run")])
def test_where_there_is_no_run(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_runs([tmp_path / name])


def test_nothing_finished(tmp_path: Path) -> None:
    begin(tmp_path / "a", tiny())
    with pytest.raises(InputError, match=r"no run is finished:\n.*a: incomplete, last logged at step 0"):
        summarise(load_runs([tmp_path]), Choices())


def test_counts_that_are_missing_damaged_or_another_runs(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 53.0)
    folder = tmp_path / "kd"
    (folder / "seed0" / "counts.npz").unlink()
    (folder / "seed1" / "counts.npz").write_bytes(b"PK\x03\x04 cut")
    (folder / "seed2" / "counts.npz").write_bytes(b"")
    found = load(tmp_path)
    for run, message in zip(found.finished[3:], ("is missing; .* no interval", "is damaged", "is damaged"), strict=True):
        with pytest.raises(InputError, match=message):
            load_counts(run)
    (block,) = summarise(found, Choices())
    kd = row(block, "kd")
    assert kd.flags == ("no counts",)
    assert kd.delta is not None
    assert (kd.delta.value, kd.delta.low, kd.delta.sign) == (pytest.approx(3), None, 0)
    assert len([line for line in block.doubts if "counts.npz" in line]) == 3
    counts([70.0] * 4).save(folder / "seed2" / "counts.npz")
    (line,) = load_runs([tmp_path]).damaged
    assert line.startswith(
        f"{folder}/seed2/result.json: is damaged (its mIoU on test is 54.00, that of counts.npz 70.00); rest"
    )


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("last", "test", "mIoU"), 400.0, "last.test.mIoU is 400.0, Input should be less than or equal to 100"),
        (("last", "test", "mIoU"), -7, "last.test.mIoU is -7,"),
        (("last", "test", "mAcc"), 101.0, "last.test mAcc is 101.0, no percentage"),
        (("last", "test", "iou"), [1], "last.test.iou is [1],"),
        (("steps",), "many", "steps is 'many',"),
        (("steps",), True, "steps is True,"),
        (("cost", "accelerator_hours"), -1.0, "cost.accelerator_hours is -1.0,"),
        (("cost", "seconds_per_step"), 0, "cost.seconds_per_step is 0,"),
        (("reported_on",), "nowhere", "last has no scores on nowhere"),
        (("best",), {"step": 1, "mIoU": 2.0, "test": 5}, "best.test is 5,"),
        (("teacher",), "somebody", "teacher is 'somebody',"),
        (("seed",), None, "seed is None,"),
        (("environment",), [], "environment is [],"),
        (("parts",), {}, "parts has no data"),
        (("agreement",), {"split": "test", "same": 1.0, "classes": {"a": {}}}, "agreement.classes.a.both is missing"),
    ],
)
def test_a_result_of_what_cannot_be_is_left_out(tmp_path: Path, keys: tuple[str, ...], value: Any, reason: str) -> None:
    folder = write_run(tmp_path / "a", tiny(), 50.0)
    result = json.loads((folder / "result.json").read_text())
    inner = result
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / "result.json").write_text(json.dumps(result))
    (line,) = load_runs([folder]).damaged
    assert reason in line


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "part", "key", "values"),
    [
        ({"data": {"train": 12}}, "data", "data.train", "10 and 12"),
        ({"augmentation": {"flip": 0.0}}, "augmentation", "augmentation.flip", "0.5 and 0.0"),
        ({"student": {"width": 16}}, "student", "student.width", "8 and 16"),
        ({"schedule": {"steps": 12}}, "schedule", "schedule.steps", "6 and 12"),
        ({"evaluation": {"report": "val"}}, "evaluation", "evaluation.report", "test and val"),
    ],
)
def test_other_parts_are_refused_and_named(tmp_path: Path, changes: dict[str, Any], part: str, key: str, values: str) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 53.0, changes)
    with pytest.raises(ConfigError) as refused:
        summarise(load(tmp_path), Choices())
    text = str(refused.value)
    assert f"{tmp_path}/ce/seed0 and {tmp_path}/kd/seed0 do not compare: {part} differs ({key}: {values})" in text
    assert f"--by {key}" in text
    assert f"--allow {key}" in text


def test_seeds_of_one_row_must_agree_too(tmp_path: Path) -> None:
    write_run(tmp_path / "a", tiny(seed=0), 50.0)
    write_run(tmp_path / "b", tiny(seed=1, schedule={"batch": 2}), 50.0)
    with pytest.raises(ConfigError, match=r"a and .*b do not compare: schedule differs \(schedule\.batch: 4 and 2\)"):
        summarise(load(tmp_path), Choices())


def test_where_the_data_lies_is_no_difference(tmp_path: Path) -> None:
    data = {"name": "camvid", "root": "/a"}
    write_run(tmp_path / "ce", tiny(data=data), 50.0)
    write_run(tmp_path / "kd", tiny("kd", data={**data, "root": "/b"}), 50.0)
    assert len(only(tmp_path).rows) == 2


def test_teachers_must_agree_among_the_taught(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 50.0)
    three(tmp_path, "jml_kd", 50.0, {"teacher": {"floor": 10.0}})
    with pytest.raises(ConfigError, match=r"teacher differs \(teacher\.floor: 10.0 and 0.0\)|\(teacher\.floor: 0.0 and 10.0\)"):
        summarise(load(tmp_path), Choices())


def test_cached_teachers_make_rows_of_their_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        for name, how in (("asked", None), ("c16", "16 crops an image"), ("whole", "whole images")):
            teacher = {"cache": f"caches/{name}" if how else None}
            write_run(tmp_path / f"{name}{seed}", tiny("kd", seed=seed, teacher=teacher), 50.0, mark="m", cached=how)
    rows = {row.label: len(row.runs) for row in only(tmp_path).rows}
    assert rows == {"kd": 2, "kd, cached teacher (16 crops an image)": 2, "kd, cached teacher (whole images)": 2}


def test_a_teacher_that_was_trained_anew_in_between(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "kd" / f"seed{seed}", tiny("kd", seed=seed), 50.0, mark="m2" if seed == 2 else "m1")
    with pytest.raises(ConfigError, match=r"seed2 do not compare: fresh taught them with different weights .m1 and m2.; run"):
        summarise(load(tmp_path), Choices())


def test_parts_that_differ_where_the_recipe_does_not(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    path = tmp_path / "ce" / "seed1" / "result.json"
    result = json.loads(path.read_text())
    result["parts"]["data"] = "0" * 12
    path.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match=r"data differs .not in recipe.yaml; they were run by the revisions abc and abc"):
        summarise(load(tmp_path), Choices())
    assert only(tmp_path, Choices(allow=("data",))).rows[0].seeds == [0, 1, 2]


def test_one_seed_twice(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    write_run(tmp_path / "again", tiny(), 50.0)
    with pytest.raises(InputError, match=r"again and .*ce/seed0 are both seed 0 of one row"):
        summarise(load(tmp_path), Choices())


def test_other_images(tmp_path: Path) -> None:
    write_run(tmp_path / "ce", tiny(), [50.0] * 4)
    write_run(tmp_path / "kd", tiny("kd"), [50.0] * 5)
    with pytest.raises(ConfigError, match=r"measured on different images or labels \(4 and 5 images\)"):
        summarise(load(tmp_path), Choices())


# ---------------------------------------------------------------------------------------------- choices and blocks


def test_by_makes_blocks_and_allow_mixes(tmp_path: Path) -> None:
    three(tmp_path / "short", "ce", 50.0)
    three(tmp_path / "long", "ce", 60.0, {"schedule": {"steps": 12}})
    three(tmp_path / "long", "kd", 61.0, {"schedule": {"steps": 12}})
    long, short = summarise(load(tmp_path), Choices(by=("schedule.steps",)))
    assert (dict(long.group.by), len(long.rows)) == ({"schedule.steps": 12}, 2)
    assert (dict(short.group.by), len(short.rows)) == ({"schedule.steps": 6}, 1)
    for seed in range(3):
        (tmp_path / "long" / "ce" / f"seed{seed}" / "result.json").unlink()
    block = only(tmp_path, Choices(allow=("schedule.steps",)))
    assert (block.allowed, row(block, "kd").steps) == (("schedule.steps",), 12)
    assert row(block, "ce").flags == ()  # another attempt at seeds that are there
    with pytest.raises(ConfigError, match=r"--allow schedule.stps: no recipe.yaml has such a key"):
        summarise(load(tmp_path), Choices(allow=("schedule.stps",)))
    with pytest.raises(ConfigError, match=r"--by schedule.nothing: no recipe.yaml has such a key"):
        summarise(load(tmp_path), Choices(by=("schedule.nothing",)))


def test_apart_makes_rows_so_that_methods_compare_with_a_longer_baseline(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 53.0)
    three(tmp_path / "long", "ce", 52.0, {"schedule": {"steps": 12}})
    with pytest.raises(ConfigError, match=r"--apart schedule.steps for a row each"):
        only(tmp_path)
    with pytest.raises(ConfigError, match=r"several rows .* alone: ce \(schedule.steps=6\); ce \(schedule.steps=12\)"):
        only(tmp_path, Choices(apart=("schedule.steps",)))
    for steps, baseline, delta in ((6, 50.0, 3.0), (12, 52.0, 1.0)):
        block = only(tmp_path, Choices(apart=("schedule.steps",), baseline=f"ce (schedule.steps={steps})"))
        assert [(one.label, one.steps) for one in sorted(block.rows, key=lambda one: one.label)] == [
            ("ce (schedule.steps=12)", 12),
            ("ce (schedule.steps=6)", 6),
            ("kd", 6),
        ]
        assert row(block, block.group.baseline or "").mean == pytest.approx(baseline)
        assert row(block, "kd").delta.value == pytest.approx(delta)  # type: ignore[union-attr]
        assert "Rows of their own: schedule.steps" in about(block)
    with pytest.raises(ConfigError, match=r"--apart schedule.stps: no recipe.yaml has such a key"):
        summarise(load(tmp_path), Choices(apart=("schedule.stps",)))


def test_rows_apart_in_one_key_still_agree_in_the_others(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path / "long", "kd", 52.0, {"schedule": {"steps": 12, "batch": 2}})
    with pytest.raises(ConfigError, match=r"schedule differs \(schedule.batch: "):
        only(tmp_path, Choices(apart=("schedule.steps",)))


def test_a_null_key_apart_is_one_that_an_older_source_did_not_know(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path / "own", "kd", 51.0, {"schedule": {"optimizer": {"method_multiplier": 1.0}}})
    three(tmp_path, "kd", 52.0)
    for kind in ("ce", "kd"):
        file = tmp_path / kind / "seed0" / "recipe.yaml"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if "method_multiplier" not in line))
    block = only(tmp_path, Choices(apart=("schedule.optimizer.method_multiplier",)))
    assert {one.label: len(one.runs) for one in block.rows} == {
        "ce": 3,
        "kd (schedule.optimizer.method_multiplier=1.0)": 3,
        "kd (schedule.optimizer.method_multiplier=None)": 3,
    }


def test_a_sweep_that_matched_the_time_may_mix_steps(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0, {"schedule": {"steps": 12}})
    three(tmp_path, "kd", 51.0, {"schedule": {"steps": 7}})

    def plan(label: str, seconds: float | None) -> None:
        points = {f"seed{seed}": {"budget_steps": 12, "calibrated_seconds_per_step": seconds} for seed in range(3)}
        (tmp_path / label / "sweep.json").write_text(json.dumps({"file": {}, "points": points}))

    with pytest.raises(ConfigError, match=r"schedule.steps: 12 and 7"):
        summarise(load(tmp_path), Choices())
    plan("ce", 0.2)
    for seconds in (None, 0.25, 0.5):  # not measured; 2.4 s against 1.75 s and 3.5 s
        plan("kd", seconds)
        with pytest.raises(ConfigError, match=r"schedule.steps: 12 and 7"):
            summarise(load(tmp_path), Choices())
    plan("kd", 0.33)
    block = only(tmp_path)
    assert [line for line in about(block) if "matched" in line] == [
        "Steps matched to equal time, by step times measured beforehand: `ce` 12 x 0.2 s, `kd` 7 x 0.33 s; unmatched: 12 steps"
    ]
    assert not any("Allowed" in line for line in about(block))


def test_a_teacher_of_the_students_kind_is_a_row_only_on_their_schedule(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for seed in range(3):
        teacher = {"name": "run", "path": str(tmp_path / "long")}
        write_run(tmp_path / "kd" / f"seed{seed}", tiny("kd", seed=seed, teacher=teacher), 51.0)
        again = {"name": "run", "path": str(tmp_path / "ce" / "seed0")}
        write_run(tmp_path / "again" / "kd" / f"seed{seed}", tiny("kd", seed=seed, teacher=again), 51.0)
    write_run(tmp_path / "long", tiny(schedule={"steps": 12}), 70.0)
    born_again, longer = summarise(load(tmp_path), Choices())
    assert longer.teacher is not None
    assert (longer.teacher.mean, longer.teacher.steps) == (70.0, 12)
    assert born_again.teacher is None
    for block in (longer, born_again):
        assert [(one.label, one.seeds) for one in block.rows] == [("ce", [0, 1, 2]), ("kd", [0, 1, 2])]


def test_a_baselines_seed_that_taught_shorter_rows_stays_a_row(tmp_path: Path) -> None:
    three(tmp_path, "ce", 61.0, {"schedule": {"steps": 12}})
    three(tmp_path, "kd", 62.0, {"teacher": {"name": "run", "path": str(tmp_path / "ce" / "seed0")}})
    block = only(tmp_path, Choices(allow=("schedule.steps",)))
    assert block.teacher is None
    assert row(block, "ce").mean == pytest.approx(61.0)
    assert row(block, "kd").delta.seeds == (0, 1, 2)  # type: ignore[union-attr]


def test_pairs_make_blocks(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0)
    three(tmp_path / "r34", "kd", 62.0, {"student": {"backbone": "resnet34"}})
    three(tmp_path / "r34", "ce", 60.0, {"student": {"backbone": "resnet34"}})
    three(tmp_path / "camvid", "ce", 70.0, {"data": {"name": "camvid"}})
    blocks = summarise(load(tmp_path), Choices())
    assert [(block.group.dataset, block.group.student, [one.label for one in block.rows]) for block in blocks] == [
        ("camvid", "DL3-test_resnet", ["ce"]),
        ("shapes", "DL3-test_resnet", ["ce", "kd"]),
        ("shapes", "DL3-R34", ["ce", "kd"]),
    ]
    deltas = [row(block, "kd").delta for block in blocks[1:]]
    assert [delta.value for delta in deltas if delta] == [pytest.approx(1), pytest.approx(2)]


def test_each_teacher_has_its_block_with_the_same_baseline(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for name in ("one", "two"):
        three(tmp_path / name, "kd", 51.0, {"teacher": {"name": "run", "path": f"runs/{name}/seed0"}})
    blocks = summarise(load(tmp_path), Choices())
    assert [block.group.teacher for block in blocks] == ["runs/one", "runs/two"]
    assert [[one.label for one in block.rows] for block in blocks] == [["ce", "kd"]] * 2


def test_a_run_that_taught_is_the_blocks_teacher(tmp_path: Path) -> None:
    big = {"student": {"backbone": "resnet34"}, "evaluation": {"every": 2}}
    write_run(tmp_path / "big" / "seed0", tiny(**big), 70.0)
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0, {"teacher": {"name": "run", "path": "big/seed0"}})
    block = only(tmp_path)
    assert block.teacher is not None
    assert (block.teacher.label, block.teacher.mean, block.teacher.flags) == ("teacher", pytest.approx(70), ())
    assert [one.label for one in block.rows] == ["ce", "kd"]

    recipe = tiny(**{**big, "evaluation": {"report": "val"}})
    for file in (tmp_path / "big" / "seed0").iterdir():
        file.unlink()
    (tmp_path / "big" / "seed0").rmdir()
    write_run(tmp_path / "big" / "seed0", recipe, 70.0)
    block = only(tmp_path)
    assert block.teacher is None
    assert block.doubts == (
        f"{tmp_path}/big/seed0 taught these rows and has no row: it was measured otherwise (evaluation.report)",
    )


def test_it_is_said_why_the_teacher_has_no_row(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0)
    assert only(tmp_path).no_teacher == "No row of the teacher: it is no run of ours (teacher.name: fresh)"
    three(tmp_path / "run", "ce", 50.0)
    three(tmp_path / "run", "kd", 51.0, {"teacher": {"name": "run", "path": "big/seed0"}})
    block = only(tmp_path / "run")
    assert block.no_teacher == "No row of the teacher: big/seed0 is not among the directories given; give it too"
    assert block.no_teacher in long([block], load_published())[0].notes
    begin(tmp_path / "run" / "big" / "seed0", tiny(student={"backbone": "resnet34"}))
    assert only(tmp_path / "run").no_teacher == f"No row of the teacher: {tmp_path}/run/big/seed0 has begun and not ended"
    three(tmp_path / "own", "ce", 50.0)
    three(tmp_path / "own", "kd", 51.0, {"teacher": {"name": "run", "path": str(tmp_path / "own" / "ce" / "seed0")}})
    assert only(tmp_path / "own").no_teacher == "No row of the teacher beside the others: it is one of `ce`"
    shutil.rmtree(tmp_path / "run" / "big")
    write_run(tmp_path / "run" / "big" / "seed0", tiny(student={"backbone": "resnet34"}), 70.0)
    block = only(tmp_path / "run")
    assert (block.teacher is None, block.no_teacher) == (False, "")


def test_a_copied_sweep_still_knows_its_teacher(tmp_path: Path) -> None:
    name = "big-0123456789ab-s0"
    write_run(tmp_path / "copied" / name, tiny(student={"backbone": "resnet34"}), 70.0)
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0, {"teacher": {"name": "run", "path": f"runs/sweeps/x/{name}"}})
    block = only(tmp_path)
    assert block.teacher is not None
    assert block.teacher.mean == pytest.approx(70)


def test_runs_of_different_code_are_flagged(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for seed in range(3):
        path = write_run(tmp_path / "kd" / f"seed{seed}", tiny("kd", seed=seed), 51.0) / "result.json"
        code = {"mine": "old" if seed == 0 else "new"}
        path.write_text(json.dumps({**json.loads(path.read_text()), "code": code}))
    assert row(only(tmp_path), "kd").flags == ("other code",)


def test_a_table_for_each_value_of_a_knob_that_others_lack(tmp_path: Path) -> None:
    for temperature in (1.0, 4.0):
        write_run(tmp_path / f"kd{temperature}", tiny("kd", method={"temperature": temperature}), 51.0)
    write_run(tmp_path / "ce", tiny(), 50.0)
    blocks = summarise(load(tmp_path), Choices(by=("method.temperature",)))
    assert [block.group.by["method.temperature"] for block in blocks] == [None, 1.0, 4.0]


def test_one_teacher_spelled_differently_makes_one_row(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for seed, path in enumerate(["runs/big/seed0", "/data/runs/big/seed0", "../copies/big/seed0"]):
        write_run(tmp_path / f"kd{seed}", tiny("kd", seed=seed, teacher={"name": "run", "path": path}), 51.0, mark="of big")
    block = only(tmp_path)
    assert [(one.label, one.seeds) for one in block.rows] == [("ce", [0, 1, 2]), ("kd", [0, 1, 2])]
    write_run(tmp_path / "other", tiny("kd", teacher={"name": "run", "path": "x/big/seed0"}), 51.0, mark="of another")
    blocks = summarise(load(tmp_path), Choices())
    assert [len(other.rows) for other in blocks] == [2, 2]
    assert [title(other) for other in blocks] == [
        f"shapes, DL3-test_resnet, teacher big, teacher.path={path}" for path in ("runs/big", "x/big")
    ]


def test_tokens_of_a_copied_sweep_are_the_same(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for seed, root in enumerate(["runs/sweeps/x", "/data/x", "."]):
        method = {"name": "maskd", "tokens": f"{root}/tokens-0123456789ab-s0"}
        folder = write_run(tmp_path / f"maskd{seed}", tiny("kd", seed=seed, method=method), 52.0)
        result = json.loads((folder / "result.json").read_text())
        result["parts"]["method"] = f"when the path counted, {root}"
        (folder / "result.json").write_text(json.dumps(result))
    assert [(one.label, one.seeds) for one in only(tmp_path).rows] == [("ce", [0, 1, 2]), ("maskd", [0, 1, 2])]


@pytest.mark.parametrize("path", [".", "", "seed0"])
def test_a_path_that_tells_nothing_makes_no_teacher(tmp_path: Path, path: str) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0, {"teacher": {"name": "run", "path": path}})
    assert [one.label for one in only(tmp_path).rows] == ["ce", "kd"]
    if path == "seed0":
        write_run(tmp_path / "kd" / "inner" / "seed7", tiny("kd", seed=7, teacher={"name": "run", "path": "ce"}), 51.0)
        write_run(tmp_path / "kd" / "ce", tiny(student={"backbone": "resnet34"}), 70.0)
        blocks = summarise(load(tmp_path), Choices())
        assert sorted(block.teacher is not None for block in blocks if len(block.rows) == 2) == [False, True]
        write_run(tmp_path / "long" / "seed0", tiny(schedule={"steps": 12}), 70.0)
        with pytest.raises(ConfigError, match=r"schedule.steps: 6 and 12"):  # one seed0 of many is nobody's teacher
            summarise(load(tmp_path), Choices())


def test_a_run_that_only_learnt_tokens_is_no_row(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    own = {"method": {"name": "maskd"}}
    write_run(tmp_path / "tokens", tiny("kd", **own, schedule={"steps": 1}), 10.0)
    for seed in range(3):
        taken = {"seed": seed, "method": {"name": "maskd", "tokens": "tokens/method.safetensors"}}
        write_run(tmp_path / "maskd" / f"seed{seed}", tiny("kd", **taken), 52.0)
    block = only(tmp_path)
    assert [(one.label, one.seeds) for one in block.rows] == [("ce", [0, 1, 2]), ("maskd", [0, 1, 2])]
    assert any(line.startswith(f"{tmp_path}/tokens learnt tokens") for line in block.doubts)


def test_nor_is_it_where_those_who_take_the_tokens_are_still_to_come(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    write_run(tmp_path / "tokens", tiny("kd", method={"name": "maskd"}, schedule={"steps": 1}), 10.0)
    with pytest.raises(ConfigError, match=r"schedule.steps: 6 and 1"):
        only(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps({"file": {}, "points": {"tokens": {"role": "tokens"}}}))
    assert [(one.label, one.seeds) for one in only(tmp_path).rows] == [("ce", [0, 1, 2])]


def test_a_teacher_alone_is_a_row(tmp_path: Path) -> None:
    write_run(tmp_path / "teacher", tiny(), 70.0)
    assert [one.label for one in only(tmp_path).rows] == ["ce"]


# ------------------------------------------------------------------------------------------------ labels, baseline


JACCARD = {"loss": {"jaccard": {"name": "overlap"}}, "weights": {"jaccard": 0.75}}


def test_labels() -> None:
    assert row_label({"method": {"name": "jml_kd"}, "loss": None}) == "jml_kd"
    assert row_label({"method": {"name": "several", "members": [{"name": "kd"}, {"name": "m:Mine"}]}}) == "kd+Mine"
    terms = {"ce": {"field": "logits"}, "ce_aux": {"field": "aux_logits"}, "jaccard": {}}
    assert row_label({"method": None, "loss": terms}) == "ce+jaccard"
    assert row_label({"loss": {"a": {"field": "aux_logits"}}, "labels": {"where": "boundary"}}) == "a, smoothed labels"
    for name, backbone, label in (
        ("deeplabv3", "resnet18d.ra2_in1k", "DL3-R18"),
        ("pspnet", "resnet18", "PSP-R18"),
        ("deeplabv3", "mobilenetv2_100.ra_in1k", "DL3-MB2"),
        ("deeplabv3plus", "resnet101", "DL3+-R101"),
        ("unet", "efficientnet_b0", "UNet-efficientnet_b0"),
        ("mine:Net", "resnet18", "Net-R18"),
    ):
        assert student_label({"student": {"name": name, "backbone": backbone}}) == label
    for teacher, told in (
        (None, None),
        ({"name": "run", "path": "runs/a/r50/seed3"}, "runs/a/r50"),
        ({"name": "cirkd", "path": "x.pth"}, "x.pth"),
        ({"name": "hf", "model": "nvidia/b5"}, "nvidia/b5"),
        ({"name": "ensemble"}, "ensemble"),
    ):
        assert teacher_label({"teacher": teacher}) == told


def test_rows_of_one_method_tell_what_differs(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for temperature in (1.0, 4.0):
        three(tmp_path / str(temperature), "kd", 51.0, {"method": {"temperature": temperature}})
    assert [one.label for one in only(tmp_path).rows] == ["ce", "kd (method.temperature=1.0)", "kd (method.temperature=4.0)"]


OWN = {"method": {"name": "kd.methods.kd:KD"}}


def swept(folder: Path, choices: dict[str, dict[str, str]]) -> None:
    """The record of a sweep whose points have these choices."""
    points = {name: {"choices": {"recipe": "shapes/tiny", "seed": name[-1], **axes}} for name, axes in choices.items()}
    (folder / "sweep.json").write_text(json.dumps({"file": {}, "points": points}))


@pytest.mark.parametrize(
    ("axes", "labels"),
    [
        ([{"method": "ce"}, {"method": "mine"}, {"method": "ce_jml"}], ["ce", "ce_jml", "mine"]),
        ([{"method": "ce"}, {"method": "kd", "method.name": "my_losses:Mine"}, {"method": "j"}], ["ce", "j", "my_losses:Mine"]),
        ([{"variant": "plain"}, {"variant": "ours"}, {"variant": "theirs"}], ["plain", "theirs", "ours"]),
        ([{}, {}, {}], ["ce", "ce+jaccard", "KD"]),
    ],
)
def test_rows_of_a_sweep_are_called_as_its_axes_are_written(
    tmp_path: Path, axes: list[dict[str, str]], labels: list[str]
) -> None:
    """The user's own class, ``KD`` here, has no say where an axis has one."""
    recipes: list[tuple[str, dict[str, Any]]] = [("ce", {}), ("kd", OWN), ("ce", JACCARD)]
    for number, (kind, changes) in enumerate(recipes):
        for seed in range(2):
            write_run(tmp_path / f"{number}-s{seed}", tiny(kind, **changes, seed=seed), 50.0 + number)
    swept(tmp_path, {f"{number}-s{seed}": one for number, one in enumerate(axes) for seed in range(2)})
    assert [one.label for one in only(tmp_path).rows] == labels


def test_rows_of_one_word_tell_the_axis_in_which_they_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "ce-s0", tiny(), 50.0)
    choices: dict[str, dict[str, str]] = {"ce-s0": {"method": "ce"}}
    for label, temperature in (("cold", 1.0), ("hot", 4.0)):
        recipe = tiny("kd", method={"name": "kd", "temperature": temperature})
        write_run(tmp_path / f"{label}-s0", recipe, 51.0)
        choices[f"{label}-s0"] = {"method": "kd", "heat": label, "same": "1"}
    swept(tmp_path, choices)
    assert [one.label for one in only(tmp_path).rows] == ["ce", "kd (heat=cold)", "kd (heat=hot)"]
    (tmp_path / "sweep.json").unlink()
    assert [one.label for one in only(tmp_path).rows] == ["ce", "kd (method.temperature=1.0)", "kd (method.temperature=4.0)"]
    write_run(tmp_path / "usual-s0", tiny("kd", method={"name": "kd", "temperature": 2.0}), 51.0)
    swept(tmp_path, {**choices, "usual-s0": {"method": "kd", "same": "1"}})  # of a grid without that axis
    assert [one.label for one in only(tmp_path).rows] == ["ce", "kd (heat=cold)", "kd (heat=hot)", "kd"]
    swept(tmp_path, choices)
    assert "kd (method.temperature=2.0)" in [one.label for one in only(tmp_path).rows]


@pytest.mark.parametrize(
    "point",
    [
        {"choices": 5},
        {"choices": {"method": 5}},
        {"choices": {"method": ""}},
        {"calibrated_seconds_per_step": "x"},
        {"calibrated_seconds_per_step": 0.5},
        {"calibrated_seconds_per_step": 0.5, "budget_steps": [1]},
        [],
    ],
)
def test_a_point_that_no_sweep_has_written_names_no_row(tmp_path: Path, point: Any) -> None:
    write_run(tmp_path / "ce", tiny(), 50.0)
    (tmp_path / "sweep.json").write_text(json.dumps({"points": {"ce": point}}))
    assert [one.label for one in only(tmp_path).rows] == ["ce"]
    assert load(tmp_path).finished[0].plan is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": {"seconds_per_step": 1.0, "peak_memory_mb": 1.0}}, "cost.accelerator_hours is missing"),
        ({"cost": {"seconds_per_step": 1.0, "accelerator_hours": 1.0, "peak_memory_mb": None}}, "cost.peak_memory_mb is None"),
        ({"environment": {"device": ["x"]}}, "environment.device is ['x']"),
        ({"environment": {"device": "x", "device_type": "cpu", "processes": 1}}, "environment.threads is missing"),
    ],
)
def test_a_result_without_what_tables_show_is_damaged(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = write_run(tmp_path / "ce", tiny(), 50.0)
    (folder / "result.json").write_text(json.dumps({**json.loads((folder / "result.json").read_text()), **change}))
    assert message in load_runs([tmp_path]).damaged[0]


def test_names_of_absent_classes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "ce", tiny(), 50.0)
    result = json.loads((folder / "result.json").read_text())
    result["last"]["test"]["absent_but_predicted"] = 5
    (folder / "result.json").write_text(json.dumps(result))
    assert "last.test.absent_but_predicted is 5" in load_runs([tmp_path]).damaged[0]


def test_points_of_a_sweep_that_have_not_begun_are_told(tmp_path: Path) -> None:
    """No row is missing without a word, also where another machine trains it, or nobody does."""
    write_run(tmp_path / "sweep" / "tiny_ce-1-s0", tiny(), 50.0)
    begin(tmp_path / "sweep" / "tiny_ce-1-s1", tiny(seed=1))
    points = {
        f"tiny_{label}-1-s{seed}": {"role": "student", "choices": {"method": label, "seed": str(seed)}}
        for label in ("ce", "kd", "cwd")
        for seed in (0, 1)
    }
    points |= {"r10_teacher-2-s0": {"role": "teacher", "choices": {}}, "x" * 3000: {}}
    write_sealed(tmp_path / "sweep" / "sweep.json", {"points": points})
    for place in (tmp_path, tmp_path / "sweep"):
        line = load_runs([place]).left_out[-1]
        assert "6 of the 8 points of its sweep have not begun: kd (seed 0, 1), cwd (seed 0, 1), r10_teacher-2-s0, xx" in line
    assert load_runs([tmp_path / "sweep" / "tiny_ce-1-s0"]).left_out == []
    write_sealed(tmp_path / "sweep" / "sweep.json", {"points": ["strange"]})
    assert load_runs([tmp_path, tmp_path / "sweep"]).waiting == []


def test_a_teacher_of_an_unnamed_split(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "kd", tiny("kd"), 50.0)
    result = json.loads((folder / "result.json").read_text())
    result["teacher"].pop("split", None)
    (folder / "result.json").write_text(json.dumps(result))
    assert "mIoU on ?" in " ".join(about(only(tmp_path)))


def test_numbers_that_no_float_holds_are_none() -> None:
    record = {"a": int("9" * 400), "b": 10**300, "c": float("nan"), "d": -(10**400)}
    assert [finite(record, key) for key in "abcd"] == [None, 1e300, None, None]


def test_words_name_rows_and_do_not_make_them(tmp_path: Path) -> None:
    """A row is its content: a run by itself joins the sweep's row, and two words for one content count for nothing."""
    three(tmp_path / "alone", "ce", 50.0)
    for seed in range(3, 5):
        write_run(tmp_path / "sweep" / f"a-s{seed}", tiny(seed=seed), 50.0)
    swept(tmp_path / "sweep", {f"a-s{seed}": {"method": "plain"} for seed in range(3, 5)})
    assert [(one.label, one.seeds) for one in only(tmp_path).rows] == [("plain", [0, 1, 2, 3, 4])]
    swept(tmp_path / "sweep", {"a-s3": {"method": "plain"}, "a-s4": {"method": "other"}})
    assert [one.label for one in only(tmp_path).rows] == ["ce"]
    swept(tmp_path / "sweep", {f"a-s{seed}": {"method": "plain"} for seed in range(3, 5)})
    three(tmp_path, "kd", 51.0)
    assert only(tmp_path, Choices(baseline="ce")).group.baseline == "plain"


def test_two_contents_of_one_word_stay_two_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "a-s0", tiny(), 50.0)
    write_run(tmp_path / "b-s0", tiny(**JACCARD), 51.0)
    swept(tmp_path, {"a-s0": {"method": "x"}, "b-s0": {"method": "x"}})
    labels = [one.label for one in only(tmp_path).rows]
    assert len(set(labels)) == 2
    assert all(label.startswith("x (") for label in labels)


def test_cross_entropy_alone_is_the_baseline_unless_another_is_chosen(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path / "jml", "ce", 52.0, JACCARD)
    three(tmp_path, "kd", 53.0)
    block = only(tmp_path)
    assert ([one.label for one in block.rows], block.group.baseline) == (["ce", "ce+jaccard", "kd"], "ce")
    block = only(tmp_path, Choices(baseline="ce+jaccard"))
    assert [one.label for one in block.rows] == ["ce+jaccard", "ce", "kd"]
    assert row(block, "kd").delta is not None
    assert [round(one.delta.value, 6) for one in block.rows if one.delta] == [-2.0, 1.0]
    with pytest.raises(ConfigError, match=r"--baseline jml: there is no such row; rows: ce, ce\+jaccard, kd"):
        summarise(load(tmp_path), Choices(baseline="jml"))


def test_two_plain_baselines_are_a_question(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path / "b", "ce", 50.0, {"weights": {"ce_aux": 1.0}})
    three(tmp_path, "kd", 51.0)
    message = r"several rows train on cross-entropy alone: .*weights.ce_aux=1.0.*Choose with --baseline LABEL"
    with pytest.raises(ConfigError, match=message):
        summarise(load(tmp_path), Choices())
    block = only(tmp_path, Choices(baseline="ce (weights.ce_aux=0.4)"))
    assert row(block, "kd").delta is not None


# ---------------------------------------------------------------------------------------------------------- flags


def test_flags(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0, curve=[(3, 40.0), (6, 41.5)])
    elsewhere = {"device": "other"}
    write_run(tmp_path / "kd" / "seed0", tiny("kd"), 53.0, teacher=52.0, environment=elsewhere)
    write_run(tmp_path / "kd" / "seed9", tiny("kd", seed=9), 53.0, teacher=52.0, environment=elsewhere)
    begin(tmp_path / "kd" / "seed1", tiny("kd", seed=1))
    block = only(tmp_path)
    assert row(block, "ce").flags == ("under-trained",)
    expected = ("n < 3", "other seeds", "teacher below student", "other machine", "incomplete")
    kd = row(block, "kd")
    assert kd.flags == expected
    assert kd.ratio is None
    assert kd.delta is not None
    assert (kd.delta.seeds, kd.delta.value) == ((0,), pytest.approx(4.0))


def test_a_row_of_some_of_the_baselines_seeds_is_compared_over_these(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    for seed in (1, 2):
        write_run(tmp_path / "kd" / f"seed{seed}", tiny("kd", seed=seed), 53.0)
    assert row(only(tmp_path), "kd").flags == ("n < 3",)
    assert row(only(tmp_path, Choices(baseline="kd")), "ce").flags == ("other seeds",)
    for baseline, label, value in (("ce", "kd", 2.5), ("kd", "ce", -2.5)):
        delta = row(only(tmp_path, Choices(baseline=baseline)), label).delta
        assert delta is not None
        assert (delta.seeds, delta.value) == ((1, 2), pytest.approx(value))


def test_no_baseline(tmp_path: Path) -> None:
    three(tmp_path, "kd", 50.0)
    three(tmp_path, "jml_kd", 51.0)
    block = only(tmp_path)
    assert [(one.label, one.flags, one.delta, one.ratio) for one in block.rows] == [
        ("kd", ("no baseline",), None, None),
        ("jml_kd", ("no baseline",), None, None),
    ]
    for seed in range(3):
        (tmp_path / "kd" / f"seed{seed}" / "result.json").unlink()
        (tmp_path / "kd" / f"seed{seed}" / "run.json").unlink()
    assert only(tmp_path).rows[0].flags == ("no baseline",)


@pytest.mark.parametrize(
    ("curve", "flag", "doubt"),
    [
        ([(3, 40.0), (6, 41.1)], True, False),
        ([(3, 40.0), (6, 41.0)], False, False),
        ([(1, 20.0), (4, 41.0), (5, 41.0), (6, 41.5)], False, False),
        ([(5, 10.0), (6, 60.0)], False, True),
        ([(3, 40.0), (5, 60.0)], False, True),
        ([], False, True),
    ],
)
def test_under_trained(tmp_path: Path, curve: list[tuple[int, float]], flag: bool, doubt: bool) -> None:
    three(tmp_path, "ce", 50.0, curve=curve)
    block = only(tmp_path)
    assert ("under-trained" in row(block, "ce").flags) == flag
    assert any("is unknown: no evaluations at 80% of the steps" in line for line in block.doubts) == doubt


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({}, {"method_multiplier": None}, {}),
        ({}, {"method_multiplier": 1.0}, {"schedule.optimizer.method_multiplier": (None, 1.0)}),
        ({"method_multiplier": 1.0}, {}, {"schedule.optimizer.method_multiplier": (1.0, None)}),
        ({"method_multiplier": None}, {"method_multiplier": 1.0}, {"schedule.optimizer.method_multiplier": (None, 1.0)}),
        ({}, {"lr": 1.0}, {"schedule.optimizer.lr": (None, 1.0)}),
    ],
)
def test_a_key_that_came_later_differs_where_it_says_something_else(one: Any, other: Any, found: Any) -> None:
    """Whether a recipe has it not yet, or has it at the value that was the only one before."""
    recipes = [{"schedule": {"optimizer": {"kind": "adamw", **keys}}} for keys in (one, other)]
    assert differing(*recipes, ("schedule",)) == found


@pytest.mark.parametrize(
    ("losses", "flag"),
    [
        ([("ce", 2.0), ("ce", 20.1), ("ce", 1.0)], True),
        ([("ce", 2.0), ("ce", 1.0), ("ce", 20.0)], False),
        ([("fake", 0.1), ("ce", 2.0), ("ce", 1.0)], False),  # two stages of a method
        ([("fake", 0.1), ("ce", 2.0), ("fake", 1.1)], True),
        ([("ce", 0.0), ("ce", 5.0)], False),
        ([("ce", -0.1), ("ce", 5.0)], False),
        ([("ce", None), ("ce", 5.0)], False),
        ([], False),
    ],
)
def test_diverged(tmp_path: Path, losses: list[tuple[str, float | None]], flag: bool) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0)
    with (tmp_path / "kd" / "seed1" / "metrics.jsonl").open("w") as file:
        for step, (term, loss) in enumerate(losses):
            file.write(json.dumps({"step": step, "train": {"loss": loss}, "terms": {term: loss}}) + "\n")
        for odd in (5, [[]], None):
            file.write(json.dumps({"step": 9, "train": {"loss": 1.0}, "terms": odd}) + "\n")
    assert row(only(tmp_path), "ce").flags == ()
    assert row(only(tmp_path), "kd").flags == (("diverged",) if flag else ())


def test_a_machines_threads_matter_on_a_cpu_only(tmp_path: Path) -> None:
    three(tmp_path, "ce", 50.0)
    three(tmp_path, "kd", 51.0, environment={"threads": 4})
    assert row(only(tmp_path), "kd").flags == ("other machine",)
    gpu = {"device": "GPU", "device_type": "cuda"}
    three(tmp_path / "gpu", "ce", 50.0, environment=gpu)
    three(tmp_path / "gpu", "kd", 51.0, environment={**gpu, "threads": 4})
    assert row(only(tmp_path / "gpu"), "kd").flags == ()


def test_a_run_from_before_has_todays_miou(tmp_path: Path) -> None:
    """Once a class without labels left the mean even where it was predicted; a table must not mix both."""
    folder = write_run(tmp_path / "a", tiny(), 50.0)
    table = Counts.load(folder / "counts.npz")
    wrong = replace(table, fp=np.stack([table.fp[:, 0], table.fn[:, 0]], 1))
    wrong.save(folder / "counts.npz")
    (run,) = load_runs([folder]).finished
    assert run.miou() == 25.0
    assert dataset_mean(load_counts(run)) == 25.0
    result = json.loads((folder / "result.json").read_text())
    result["last"]["test"]["mIoU_labelled"] = 50.0  # written by today's code
    (folder / "result.json").write_text(json.dumps(result))
    assert "its mIoU on test is 50.00, that of counts.npz 25.00" in load_runs([folder]).damaged[0]


def test_step_times_are_compared_on_machines_of_one_kind(tmp_path: Path) -> None:
    """Of a baseline and a method of three seeds each, the last ones of both on a machine twice as slow."""
    slow = {"device": "x86_64 AVX2"}
    for seed, place, factor in ((0, {}, 1.0), (1, {}, 1.0), (2, slow, 2.0)):
        for kind, seconds in (("ce", 1.0), ("kd", 1.5)):
            recipe = tiny(kind, seed=seed)
            write_run(
                tmp_path / kind / f"seed{seed}", recipe, 50.0, environment=place, cost={"seconds_per_step": seconds * factor}
            )
    assert row(only(tmp_path), "kd").ratio == pytest.approx(1.5)
    write_run(tmp_path / "jml_kd" / "seed2", tiny("jml_kd", seed=2), 50.0, environment=slow, cost={"seconds_per_step": 2.2})
    assert row(only(tmp_path), "jml_kd").ratio == pytest.approx(1.1)
