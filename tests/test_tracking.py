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
from students import tracking
from students.tracking import Tracker, Tracking, read_metrics

ROOT = Path(__file__).parents[1]
START = """
import sys, time
from pathlib import Path
import numpy as np
from students.tracking import Tracker, Tracking
directory = Path(sys.argv[1])
def start(resume_step=None, **config):
    config = Tracking(**config)
    return Tracker(config, directory, "run-7", "kd seed 0", {"method": {"name": "kd"}, "seed": 0}, resume_step)
"""


def tracker(directory: Path, resume_step: int | None = None) -> Tracker:
    return Tracker(Tracking(), directory, "run-7", "kd", {"seed": 0}, resume_step)


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
    with Tracker(config, tmp_path / "run", "run-7", "kd", {}) as run:
        run.log({"a": 1}, 1)
        run.summary({"a": 1})
        run.images(1, [], ())
        run.alert("a", "b")
    assert list(tmp_path.iterdir()) == []


def test_bad_run_id_and_bad_configuration_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run_id is 'a/b'"):
        Tracker(Tracking(), tmp_path, "a/b", "kd", {})
    with pytest.raises(ConfigError, match="mode"):
        validate(Tracking, {"mode": "sometimes"})


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    script = """
import os
for mode, variable in (("disabled", ""), ("online", "disabled"), ("disabled", "online")):
    os.environ["WANDB_MODE"] = variable
    with start(0, mode=mode) as run:
        run.log({"a": 1}, 1); run.summary({"a": 1}); run.images(1, [], ()); run.alert("a", "b")
    print("wandb" in sys.modules)
"""
    done = run(script, tmp_path / "run")
    assert done.stdout.split() == ["False"] * 3, done.stderr
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_offline_run_is_recorded_and_reads_back(tmp_path: Path) -> None:
    script = """
with start(mode="offline", images=2, group="pair", job_type="train", tags=("kd", "shapes")) as run:
    for step in (10, 20, 30):
        run.log({"train/loss": 1 / step, "stage": "distil", "val": {"mIoU": {10: .5, 20: .7, 30: .6}[step]}}, step)
    image = np.arange(40 * 2048 * 3).reshape(40, 2048, 3).astype(np.uint8)
    mask = np.full((40, 2048), 255, np.uint8); mask[:, :500] = 1
    panels = [(f"panel {i}", image + i, {"prediction": mask - i, "teacher": mask // 255 + i}) for i in range(3)]
    run.images(30, panels, ("sky", "road"))
    run.summary({"final": {"mIoU": 0.6}})
    run.alert("done", "well")
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
    assert summary["final/mIoU"] == 0.6
    assert any("alert" in record for record in records)
    media = next((tmp_path / "run/wandb").glob("offline-run-*/files/media/images"))
    assert len(list(media.glob("*.jpg"))) == 2
    assert [Image.open(file).size for file in media.glob("mask/*.png")] == [(1024, 20)] * 4
    assert not (tmp_path / "home/.local").exists()
    assert not (tmp_path / "home/.cache").exists()


def check_history(history: list[dict]) -> None:
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
    for part in ("train", "val", "test", "teacher", "perf"):
        assert axes[f"{part}/*"]["step_metric"] == "iter"
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


def test_a_failing_view_does_not_stop_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def log(self, values: object) -> None:
            raise RuntimeError("the service died")

    with tracker(tmp_path) as run:
        run._run = Broken()
        for step in (1, 2):
            run.log({"a": 1}, step)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert capsys.readouterr().err.count("the service died") == 1
