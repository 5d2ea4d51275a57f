"""Running a sweep: real tiny runs killed and finished, and the runner's own rules with a stand-in for the training."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_faults import FAULTS
from helpers_tools import call, inside
from safetensors.torch import load_file
from tiny import STUDENT, execute, tiny
from tiny_sweep import write, write_recipes

from kd.config import InputError
from kd.content import file_mark
from kd.data.build import open_split
from kd.recipe.own_code import code_marks
from kd.recipe.schema import plain
from kd.results.groups import Choices
from kd.results.layouts import brief
from kd.results.published import load_published
from kd.results.records import records
from kd.results.render import markdown
from kd.results.rows import summarise
from kd.results.runs import load_runs
from kd.sweep.points import Point, expand
from kd.sweep.schema import read_sweep
from students.signals import Interrupted
from students.sweeping.kept_step_times import measured, read_clock
from students.sweeping.measure_step_times import step_times
from students.sweeping.places import Place, places
from students.sweeping.runner import Runner, report
from students.sweeping.stale import stale
from students.sweeping.state import listing, logged_step, state, write_record
from teachers.load import load_teacher

ROOT = Path("runs/sweeps/x")
NUMBERS = Path(__file__).parent.parent / "recipes" / "published.yaml"
KILLS = 3 if FAULTS else 1
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(sweep: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    """The tool in a process group of its own, in ``folder``."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "kd", "sweep", str(sweep), "--jobs", "2", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(sweep: Path, folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(sweep, folder, *words)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def results(folder: Path) -> dict[str, Any]:
    """What every result says, times, machine and nonce apart."""
    found = {}
    for path in sorted((folder / ROOT).glob("*/result.json")):
        result = json.loads(path.read_text())
        dropped = ("id", "cost", "environment", "sha256")
        found[path.parent.name] = {key: value for key, value in result.items() if key not in dropped}
    return found


def test_killed_and_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of the whole group at random moments loses nothing: results and table are those of runs made one by one."""
    write_recipes(tmp_path)
    sweep, folder = write(tmp_path, axes={"method": ["ce", "kd"], "seed": 0}), tmp_path / "cut"
    points = expand(read_sweep(sweep), ROOT)
    moments = sorted(random.sample(range(1, 19), KILLS))  # of 22 steps in all
    for moment in moments:
        process = start(sweep, folder)
        while process.poll() is None and sum(logged_step(folder / ROOT / point.name) for point in points) < moment:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.3))
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    code, out, err = finish(sweep, folder)
    assert code == 0, err
    assert "3 finished of 3 points" in out
    whole = one_by_one(points, tmp_path / "whole", monkeypatch)
    assert results(folder) == whole, f"cut at {moments}"
    assert table(folder) == table(tmp_path / "whole"), f"cut at {moments}"
    before = stamps(folder)
    again = call("sweep", sweep, "--jobs", 2, folder=folder)
    assert (again.returncode, again.stderr) == (0, "")
    assert stamps(folder) == before


def one_by_one(points: list[Point], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The results of all points, run in this process."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    for point in points:
        execute(point.recipe, ROOT / point.name)
    found = results(folder)
    assert len(found) == len(points)
    return found


def table(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The brief table as it is printed, and every number of the long one that is no time, no memory and no path."""
    blocks = summarise(load_runs([folder / ROOT]), Choices(), resamples=200)
    assert [(row.label, row.seeds) for row in blocks[0].rows] == [("ce", [0]), ("kd", [0])]
    costs = ("seconds_per_step", "times_baseline", "peak_memory_mb", "accelerator_hours", "folders")
    rows = [{key: value for key, value in row.items() if key not in costs} for row in records(blocks, load_published(NUMBERS))]
    return markdown(brief(blocks, load_published(NUMBERS), best=True)), rows


def test_students_take_the_shared_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipes(tmp_path, evaluation={"every": 0})
    sweep = read_sweep(write(tmp_path, axes={"method": "maskd", "seed": [0, 1]}, tokens="shared"))
    points = expand(sweep, ROOT)
    found = one_by_one(points, tmp_path / "run", monkeypatch)
    assert [found[point.name]["steps"] for point in points] == [6, 3, 8, 8]
    tokens = [load_file(ROOT / point.name / "method.safetensors")["tokens"] for point in points[1:]]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])


def stamps(folder: Path) -> dict[Path, int]:
    """When each file below the points was written last."""
    return {path: path.stat().st_mtime_ns for path in (folder / ROOT).rglob("*/*")}


def test_a_signal_then_a_failing_point_that_does_not_stop_the_others(tmp_path: Path) -> None:
    write_recipes(tmp_path)
    axes = {"method": "ce", "schedule.optimizer.lr": [1e20, 0.001]}
    sweep = write(tmp_path, axes=axes, settings={"schedule.optimizer.kind": "sgd", "schedule.steps": 12})
    process = start(sweep, tmp_path / "run")
    assert process.stderr is not None
    assert "started" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 75, err
    assert "the same command goes on" in out
    code, out, err = finish(sweep, tmp_path / "run")
    assert code == 1, err
    assert "1 failed, 1 finished of 2 points" in out
    assert "a_ce-lr=1e+20" in out
    assert "learning rate" in out
    assert "Traceback" not in out + err
    assert [result["status"] for result in results(tmp_path / "run").values()] == ["finished"]


def test_a_dry_run_only_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipes(tmp_path)
    sweep = write(tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    code = inside("sweep", sweep, "--dry-run", "--only", "a_kd*-s1")
    out = capsys.readouterr().out
    assert (code, out.count("a_kd")) == (0, 1)
    assert "2 points: 1 to do, 1 waiting" in out
    assert not list((tmp_path / "run").iterdir())


# ------------------------------------------------------------------------- the runner alone, with a stand-in for training

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
recipe, _, folder = sys.argv[1:]
folder = Path(folder)
print("begun", os.environ.get("PLACE"), os.environ.get("WANDB_RUN_ID"), flush=True)
def stop(*_):
    (folder / "checkpoint.pt").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
if "broken" in recipe:
    sys.exit("the data are broken")
(folder / "ready").touch()
while os.environ.get("HANG") and not (folder / "checkpoint.pt").exists():
    time.sleep(0.02)
_, mark, seed = folder.name.rsplit("-", 2)
(folder / "result.json").write_text(json.dumps({"fingerprint": mark, "seed": int(seed[1:]), "reported_on": "val",
    "last": {"val": {"mIoU": 50.0}}, "cost": {"seconds_per_step": 2.0}}))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    (tmp_path / "train.py").write_text(STAND_IN)
    return [sys.executable, str(tmp_path / "train.py")]


def tiny_points(folder: Path, root: Path, **keys: Any) -> list[Point]:
    write_recipes(folder)
    return expand(read_sweep(write(folder, **keys)), root)


def test_each_place_runs_one_point_and_what_is_done_is_skipped(tmp_path: Path, stand_in: list[str]) -> None:
    root = tmp_path / "x"
    points = tiny_points(tmp_path, root)
    before = listing(points, root)
    assert before.count("\nto do") == 3
    assert before.count("\nwaiting") == 2
    outcomes = Runner(points, root, stand_in, [Place({"PLACE": "0"}), Place({"PLACE": "1"})]).run()
    assert set(outcomes.values()) == {"finished"}
    logs = {point.name: (root / point.name / "log.txt").read_text().split()[1] for point in points}
    assert set(logs.values()) == {"0", "1"}
    assert Runner(points, root, ["no", "such", "command"], [Place({})]).run() == outcomes
    assert listing(points, root).count("\nfinished") == 5


def test_the_cost_is_estimated_from_finished_siblings(tmp_path: Path, stand_in: list[str]) -> None:
    root = tmp_path / "x"
    points = tiny_points(tmp_path, root)
    Runner(points[:2], root, stand_in, [Place({})]).run()
    lines = {line.split()[-1]: line for line in listing(points, root).splitlines() if "-s" in line}
    assert "16.0 s" in lines[points[2].name]  # eight steps of 2 s, as the other seed
    assert state(points[3], root) == "to do"


def test_a_failure_blocks_only_what_needs_it(tmp_path: Path, stand_in: list[str]) -> None:
    root = tmp_path / "broken"
    points = tiny_points(tmp_path, root, axes={"method": ["ce", "kd"], "seed": 0})
    command = [sys.executable, "-c", "import sys; 'teacher' in sys.argv[1] and sys.exit('the data are broken')"]
    outcomes = Runner(points, root, command, [Place({})]).run()
    assert list(outcomes.values()) == ["failed", "failed", "blocked"]  # the second says 0 and leaves no result
    told = report(outcomes, root)
    assert "2 failed, 1 blocked of 3 points" in told
    assert f"{points[0].name}: the data are broken" in told


def test_failures_of_one_cause_are_told_once(tmp_path: Path) -> None:
    root = tmp_path / "x"
    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
        (root / name / "log.txt").write_text("step 1\nerror: no room\n" if name != "c" else "error: no data\n")
    outcomes = {**dict.fromkeys("abc", "failed"), **dict.fromkeys("de", "blocked"), "f": "finished"}
    assert report(outcomes, root).splitlines()[1:] == [  # type: ignore[arg-type]
        "  2 points: error: no room; first: a",
        "  c: error: no data",
        "  2 points: not run, what it needs has failed; first: d",
    ]


def test_a_signal_stops_and_leaves_all_resumable(tmp_path: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "x"
    points = tiny_points(tmp_path, root)
    monkeypatch.setenv("HANG", "1")

    def terminate() -> None:
        while len(list(root.glob("*/ready"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate).start()
    outcomes = Runner(points, root, stand_in, [Place({}), Place({})]).run()
    assert list(outcomes.values()) == ["stopped"] * 2 + ["not begun"] * 3
    assert [state(point, root) for point in points] == ["resumable", "resumable", "to do", "waiting", "waiting"]
    assert set(Runner(points[:2], root, stand_in, [Place({})]).run().values()) == {"finished"}


def test_two_sweeps_share_the_work(tmp_path: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one trains the teacher, the other takes what it can and waits, even if the first is gone and only its child left;
    nothing runs twice."""
    root = tmp_path / "x"
    points = tiny_points(tmp_path, root)
    found: list[dict[str, Any]] = []
    first = Runner(points, root, stand_in, [Place({"PLACE": "first", "HANG": "1"})])
    first._consider(points[0])
    first.running[0].lock.close()
    thread = threading.Timer(1.0, (root / points[0].name / "checkpoint.pt").touch)
    thread.start()
    found.append(Runner(points, root, stand_in, [Place({"PLACE": "second"})]).run())
    found.append(first.run())
    assert all(set(outcomes.values()) == {"finished"} for outcomes in found)
    logs = [(root / point.name / "log.txt").read_text().splitlines() for point in points]
    assert [len(log) for log in logs] == [1] * 5
    assert "first" in logs[0][0]
    assert "second" in logs[1][0]


def test_a_teacher_trained_by_hand_is_not_trained_again(
    tmp_path: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = ROOT
    points = tiny_points(tmp_path, root)
    _, mark, seed = points[0].name.rsplit("-", 2)
    folder = Path("runs/tiny/teacher/seed0")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(
        json.dumps({"fingerprint": mark, "seed": int(seed[1:]), "cost": {"seconds_per_step": 1.0}})
    )
    outcomes = Runner(points, root, stand_in, [Place({})]).run()
    assert set(outcomes.values()) == {"finished"}
    assert (root / points[0].name).resolve() == folder.resolve()
    assert not (folder / "log.txt").exists()


def test_an_agents_identity_is_not_given_to_the_teacher(
    tmp_path: Path, stand_in: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "x"
    points = tiny_points(tmp_path, root, axes={"method": "kd", "seed": 0})
    monkeypatch.setenv("WANDB_RUN_ID", "agent")
    Runner(points, root, stand_in, [Place({})], [points[-1].name]).run()
    assert [(root / point.name / "log.txt").read_text().split()[-1] for point in points] == ["None", "agent"]


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("students.sweeping.places._cores", lambda: 8)
    assert places(None) == [Place({})]
    assert places(2) == [Place({"OMP_NUM_THREADS": "4"})] * 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in places(3)] == ["3", "5", "3"]
    assert len(places(None)) == 2
    with pytest.raises(InputError, match="--jobs is 0"):
        places(0)


def test_the_last_step_is_read_from_the_end(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "text": "x" * 3000}) for step in range(1, 20)]
    assert logged_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 20, "te')
    assert logged_step(tmp_path) == 19


# --------------------------------------------------------------------------------------------------------- step times


def test_step_times_of_all_stages() -> None:
    recipe = tiny("ce", teacher={"name": "fresh", "network": STUDENT}, method={"name": "maskd"})
    data = open_split(recipe.data, "train")
    teacher = load_teacher(recipe.teacher, data.classes)
    times = step_times(recipe, teacher, data, torch.device("cpu"), 4)
    assert times["student"] > times["extra"] > 0
    plain = step_times(tiny(), None, data, torch.device("cpu"), 4)
    assert plain["student"] > plain["extra"] == 0


METER = """
import json, sys
from pathlib import Path
recipe, _, answer = sys.argv[1:]
with open("asked", "a") as file:
    file.write("x")
Path(answer).write_text(json.dumps({"student": 0.2 if "kl" in Path(recipe).read_text() else 0.1, "extra": 0.0}))
"""


def test_measured_times_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is measured once, whatever its seeds, and the points stay what they are."""
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    sweep, root = read_sweep(write(tmp_path, match="wall_clock")), ROOT
    (tmp_path / "meter.py").write_text(METER)
    command = [sys.executable, str(tmp_path / "meter.py")]
    clock = measured(sweep, root, command, {})
    points = expand(sweep, root, clock)
    assert [point.recipe.schedule.steps for point in points] == [6, 8, 8, 4, 4]
    assert measured(sweep, root, ["no", "such", "command"], {}) == read_clock(root) == clock
    assert (tmp_path / "asked").read_text() == "xx"
    write_record(root, points, sweep.file.model_dump(mode="json", exclude_unset=True))
    told = json.loads((root / "sweep.json").read_text())["points"][points[-1].name]
    assert (told["steps"], told["budget_steps"], told["calibrated_seconds_per_step"]) == (4, 8, 0.2)
    assert [path.name for path in root.iterdir() if path.suffix == ".yaml"] == []


def test_the_record_forgets_what_has_not_begun_and_is_another_by_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun stays, and so does what a narrower command does not ask for."""
    monkeypatch.chdir(tmp_path)
    write_recipes(tmp_path)
    path = write(tmp_path, axes={"method": ["ce", "kd"], "seed": [0, 1]})
    before, after = expand(read_sweep(path), ROOT), expand(read_sweep(path, ["schedule.batch=2", "method=[ce]"]), ROOT)
    write_record(ROOT, before, {})
    names = {(point.label, point.recipe.seed): point.name for point in before}
    (ROOT / names["a_ce", 0]).mkdir()
    (ROOT / names["a_ce", 0] / "run.json").write_text("{}")
    write_record(ROOT, after, {})
    kept = json.loads((ROOT / "sweep.json").read_text())["points"].keys()
    assert kept == {point.name for point in before if point.name != names["a_ce", 1]} | {point.name for point in after}


def test_a_recipe_that_cannot_be_measured_is_named(tmp_path: Path) -> None:
    write_recipes(tmp_path)
    sweep = read_sweep(write(tmp_path, match="wall_clock"))
    command = [sys.executable, "-c", "import sys; sys.exit('error: no such data')"]
    with pytest.raises(InputError, match=r"cannot be measured \(error: no such data\)"):
        measured(sweep, tmp_path / "x", command, {})


def test_measuring_stops_on_a_signal(tmp_path: Path) -> None:
    write_recipes(tmp_path)
    sweep = read_sweep(write(tmp_path, match="wall_clock"))
    thread = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    thread.start()
    with pytest.raises(Interrupted):
        measured(sweep, tmp_path / "x", [sys.executable, "-c", "import time; time.sleep(60)"], {})
    assert read_clock(tmp_path / "x") == {}


def test_points_that_would_come_out_differently_today_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipes(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_stale.py").write_text("from kd.methods.kd import KD\n\n\nclass Mine(KD):\n    pass\n")
    preset = tmp_path / "recipes" / "_parts" / "method" / "mine.yaml"
    preset.parent.mkdir(parents=True, exist_ok=True)
    preset.write_text('method: {name: "own_stale:Mine"}\nweights: {kl: 1.0}\n')
    points = expand(read_sweep(write(tmp_path, axes={"method": ["ce", "mine"], "seed": 0})), tmp_path / "x")
    for point in points:
        folder = tmp_path / "x" / point.name
        folder.mkdir(parents=True)
        (folder / "student.safetensors").write_bytes(b"weights")
        (folder / "result.json").write_text(json.dumps({"code": code_marks(plain(point.recipe))}))
    teacher, student = points[0], points[-1]
    mark = file_mark(tmp_path / "x" / teacher.name / "student.safetensors")
    source = {"source": str(tmp_path / "elsewhere" / teacher.name), "mark": mark}
    (tmp_path / "x" / student.name / "teacher.json").write_text(json.dumps(source))
    assert stale(points, tmp_path / "x") == []
    (tmp_path / "x" / teacher.name / "student.safetensors").write_bytes(b"others")
    (tmp_path / "own_stale.py").write_text("from kd.methods.kd import KD\n\n\nclass Mine(KD):\n    other = 1\n")
    first, second = stale(points, tmp_path / "x")
    assert first.startswith("WARNING: the code of own_stale has changed since 1 finished points were run")
    assert second.startswith(f"WARNING: the weights of {teacher.name} have changed since 1 finished points were run")
