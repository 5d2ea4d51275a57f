"""W&B is a view of the run that costs nothing when off, records without a network and never stops a training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from kd.config import ConfigError, validate
from students.tracking import tracker as tracking
from students.tracking.tracker import Tracker, Tracking, read_metrics
from students.tracking.wandb_facts import About
from students.tracking.wandb_view import View

ROOT = Path(__file__).parents[1]
START = """
import sys, time
from pathlib import Path
import numpy as np
from students.tracking.tracker import Tracker, Tracking
from students.tracking.wandb_facts import About
directory = Path(sys.argv[1])
about = About("run-7", "kd seed 0", "pair", "train", ("kd", "shapes"), {"method": {"name": "kd"}, "seed": 0}, "val")
def start(resume_step=None, directory=directory, **config):
    return Tracker(Tracking(**config), directory, about, resume_step)
"""
ABOUT = About("run-7", "kd", "pair", "train", (), {"seed": 0}, "val")


def tracker(directory: Path, resume_step: int | None = None) -> Tracker:
    return Tracker(Tracking(), directory, ABOUT, resume_step)


def run(script: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own that knows no W&B account."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and "proxy" not in key.lower()}
    home = directory.parent / "home"
    home.mkdir(exist_ok=True)
    clean |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", START + script, str(directory)], env=clean, capture_output=True, text=True, timeout=100
    )


def inspect(directory: Path) -> list[dict]:
    """What W&B has recorded, read back by its own tool."""
    (log,) = directory.glob("wandb/offline-run-*-run-7/*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    read = subprocess.run([wandb, "leet", "inspect", "--json", log], capture_output=True, text=True, timeout=60)
    return [json.loads(line) for line in read.stdout.splitlines()]


class Refuses(BaseHTTPRequestHandler):
    """A server that is there and accepts nothing."""

    def do_GET(self) -> None:
        self.send_error(403)

    def do_POST(self) -> None:
        self.send_error(403)

    def log_message(self, *about: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_port}"
        listener.shutdown()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_other_ranks_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "is_main", lambda: False)
    config = Tracking(mode="online", strict=True)
    with Tracker(config, tmp_path / "run", ABOUT) as run:
        run.log({"a": 1}, 1)
        run.teacher({"mIoU": 1})
        run.summary({"a": 1})
        run.images(1, [], ())
    assert list(tmp_path.iterdir()) == []


def test_bad_run_id_and_bad_configuration_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run_id is 'a/b'"):
        Tracker(Tracking(), tmp_path, ABOUT._replace(id="a/b"))
    with pytest.raises(ConfigError, match="mode"):
        validate(Tracking, {"mode": "sometimes"})


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    script = """
import os
for mode, variable in (("disabled", ""), ("online", "disabled"), ("disabled", "online")):
    os.environ["WANDB_MODE"] = variable
    with start(0, mode=mode) as run:
        run.log({"a": 1}, 1); run.teacher({"a": 1}); run.summary({"a": 1}); run.images(1, [], ())
    print("wandb" in sys.modules)
"""
    done = run(script, tmp_path / "run")
    assert done.stdout.split() == ["False"] * 3, done.stderr
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_offline_run_is_recorded_and_reads_back(tmp_path: Path) -> None:
    script = """
with start(mode="offline", images=2) as run:
    run.teacher({"source": "runs/teacher", "mIoU": 0.8, "iou": {"sky": 0.9, "road": None}, "reliability": [0.1, 0.2]})
    for step in (10, 20, 30):
        run.log({"train/loss": 1 / step, "stage": "distil", "val": {"mIoU": {10: .5, 20: .7, 30: .6}[step]}}, step)
    image = np.arange(40 * 2048 * 3).reshape(40, 2048, 3).astype(np.uint8)
    mask = np.full((40, 2048), 255, np.uint8); mask[:, :500] = 1
    panels = [(f"panel {i}", image + i, {"prediction": mask - i, "teacher": mask // 255 + i}) for i in range(3)]
    run.images(30, panels, ("sky", "road"))
    run.images(30, [], ("sky", "road"))
    run.summary({"final": {"mIoU": 0.6, "reliability": [0.1, 0.2], "accuracy": None}})
"""
    done = run(script, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    records = inspect(tmp_path / "run")
    about = next(record["run"] for record in records if record["type"] == "run")
    assert (about["run_id"], about["project"], about["display_name"]) == ("run-7", "segmentation-kd", "kd seed 0")
    assert (about["run_group"], about["job_type"], about["tags"]) == ("pair", "train", ["kd", "shapes"])
    assert {key: about["config"]["update"][key] for key in ("method", "seed")} == {"method": {"name": "kd"}, "seed": 0}
    check_history([record["history"]["item"] for record in records if record["type"] == "history"])
    check_metrics([record["metric"] for record in records if record["type"] == "metric"])
    summary: dict = {}
    for record in records:
        summary |= record["summary"]["update"] if record["type"] == "summary" else {}
    assert {key: value for key, value in summary.items() if key.startswith("final")} == {"final/mIoU": 0.6}
    assert not any("alert" in record or "preempting" in record for record in records)
    assert records[-1]["exit"].get("exit_code", 0) == 0
    media = next((tmp_path / "run/wandb").glob("offline-run-*/files/media/images"))
    assert len(list(media.glob("*.jpg"))) == 2
    assert [Image.open(file).size for file in media.glob("mask/*.png")] == [(1024, 20)] * 4
    assert not (tmp_path / "home/.local").exists()
    assert not (tmp_path / "home/.cache").exists()


def check_history(history: list[dict]) -> None:
    assert (history[0]["iter"], history[0]["teacher/mIoU"], history[0]["teacher/iou/sky"]) == (0, 0.8, 0.9)
    assert not {"teacher/source", "teacher/iou/road", "teacher/reliability"} & history[0].keys()
    scalars = [item for item in history if "train/loss" in item]
    assert [(item["iter"], item["train/loss"], item["val/mIoU"]) for item in scalars] == [
        (10, 0.1, 0.5),
        (20, 0.05, 0.7),
        (30, pytest.approx(1 / 30), 0.6),
    ]
    assert all("stage" not in item for item in scalars)
    (images,) = [item for item in history if "images.captions" in item]
    assert images["iter"] == 30
    assert (images["images.width"], images["images.height"]) == (1024, 20)
    assert images["images.captions"] == ["panel 0", "panel 1"]


def check_metrics(metrics: list[dict]) -> None:
    axes = {metric.get("glob_name") or metric["name"]: metric for metric in metrics}
    assert axes["iter"]["options"]["hidden"]
    assert axes["*"]["step_metric"] == axes["val/mIoU"]["step_metric"] == "iter"
    assert axes["val/mIoU"]["summary"] == {"last": True, "max": True}


def test_environment_turns_w_and_b_offline(tmp_path: Path, server: str) -> None:
    script = 'start(mode="online").close()'
    done = run(script, tmp_path / "run", WANDB_MODE="offline", WANDB_BASE_URL=server)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("W&B records this run offline in ")
    assert inspect(tmp_path / "run")


@pytest.mark.parametrize(
    ("network", "key", "complaint"),
    [
        (True, "", "there is no W&B key for"),
        (False, "0" * 40, "does not answer"),
        (True, "short", "the W&B key is not usable"),
        (True, "0" * 40, "W&B refused the run"),
    ],
)
def test_online_falls_back_to_offline_with_one_warning(
    tmp_path: Path, server: str, network: bool, key: str, complaint: str
) -> None:
    script = """
then = time.monotonic()
run = start(mode="online")
print(time.monotonic() - then)
run.log({"train/loss": 1.0}, 1)
run.close()
"""
    done = run(script, tmp_path / "run", WANDB_BASE_URL=server if network else closed_port(), WANDB_API_KEY=key)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 15
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("wandb: ")]
    assert complaint in line
    assert f"offline in {tmp_path / 'run/wandb'}; upload it with: wandb sync " in line
    pattern = line.split("wandb sync ")[1]
    assert [*Path("/").glob(pattern[1:])] == [*tmp_path.glob("run/wandb/offline-run-*")] != []
    assert [record for record in inspect(tmp_path / "run") if record["type"] == "history"]


def test_strict_refuses_instead(tmp_path: Path) -> None:
    script = """
from kd.config import ConfigError
try:
    start(mode="online", strict=True)
except ConfigError as error:
    print(error)
"""
    done = run(script, tmp_path / "run", WANDB_BASE_URL=closed_port())
    assert done.stdout.startswith("run.wandb.mode is 'online' but "), done.stderr
    assert "wandb login" in done.stdout
    assert "run.wandb.mode=offline" in done.stdout


def test_an_error_is_told_and_a_stop_is_no_failure(tmp_path: Path) -> None:
    script = """
from students.signals import REQUEUE, Interrupted
for number, error in enumerate((FloatingPointError("line 1\\n" + "more\\n" * 9), Interrupted(REQUEUE), KeyboardInterrupt())):
    try:
        with start(mode="offline", directory=directory.parent / f"run{number}") as run:
            raise error
    except BaseException as caught:
        print(caught is error)
"""
    done = run(script, tmp_path / "run")
    assert done.stdout.split() == ["True"] * 3, done.stderr
    failed, stopped, halted = (inspect(tmp_path / f"run{number}") for number in range(3))
    (alert,) = [record["alert"] for record in failed if "alert" in record]
    assert (alert["title"], alert["level"]) == ("FloatingPointError: kd seed 0", "ERROR")
    assert alert["text"].splitlines() == ["line 1", *["more"] * 4]
    assert not any("preempting" in record for record in failed)
    for records in (stopped, halted):
        assert any("preempting" in record for record in records)
        assert not any("alert" in record for record in records)
    assert [records[-1]["exit"]["exit_code"] for records in (failed, stopped, halted)] == [1, 75, 130]


def test_a_failing_view_does_not_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def log(self, values: object) -> None:
            raise RuntimeError("the service died")

    with tracker(tmp_path) as run:
        run._view = View(Broken())
        for step in (1, 2):
            run.log({"a": 1}, step)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert capsys.readouterr().err.count("the service died") == 1
