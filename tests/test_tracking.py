"""The run's record: metrics.jsonl survives crashes and resumes; W&B is a view that never stops a training."""

from __future__ import annotations

import io
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kd.config import ConfigError, validate
from students import progress, tracking
from students.progress import Progress, bar, short
from students.tracking import Tracker, TrackingConfig, read_metrics

ROOT = Path(__file__).parents[1]
START = """
import sys, time
from pathlib import Path
import numpy as np
from students.tracking import Tracker, TrackingConfig
directory = Path(sys.argv[1])
def start(resume_step=None, **config):
    config = TrackingConfig(**config)
    return Tracker(config, directory, "run-7", "kd seed 0", {"method": {"name": "kd"}, "seed": 0}, resume_step)
"""


def tracker(directory: Path, resume_step: int | None = None) -> Tracker:
    return Tracker(TrackingConfig(), directory, "run-7", "kd", {"seed": 0}, resume_step)


def timeless(path: Path) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "time"} for record in read_metrics(path)]


def run(script: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own that knows no W&B account."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and "proxy" not in key.lower()
    }
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
    import numpy as np
    import torch

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


def test_other_ranks_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "is_main", lambda: False)
    config = TrackingConfig(mode="online", strict=True)
    with Tracker(config, tmp_path / "run", "run-7", "kd", {}) as run:
        run.log({"a": 1}, 1)
        run.summary({"a": 1})
        run.images(1, [], ())
        run.alert("a", "b")
    assert list(tmp_path.iterdir()) == []


def test_bad_run_id_and_bad_configuration_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run_id is 'a/b'"):
        Tracker(TrackingConfig(), tmp_path, "a/b", "kd", {})
    with pytest.raises(ConfigError, match="mode"):
        validate(TrackingConfig, {"mode": "sometimes"})


@pytest.mark.parametrize(("mode", "variable"), [("disabled", ""), ("online", "disabled"), ("disabled", "online")])
def test_disabled_never_imports_wandb(tmp_path: Path, mode: str, variable: str) -> None:
    script = f"""
with start(mode="{mode}") as run:
    run.log({{"a": 1}}, 1); run.summary({{"a": 1}}); run.alert("a", "b")
print("wandb" in sys.modules)
"""
    done = run(script, tmp_path / "run", WANDB_MODE=variable)
    assert done.stdout == "False\n", done.stderr
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
    assert len(list(media.glob("mask/*.png"))) == 4
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
    assert "WARNING" not in done.stderr
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
    (files,) = (tmp_path / "run").glob("wandb/offline-run-*")
    assert complaint in line
    assert f"offline in {files}; upload it with: wandb sync {files}" in line
    assert [record for record in inspect(tmp_path / "run") if record["type"] == "history"]


@pytest.mark.parametrize("network", [True, False])
def test_strict_refuses_instead(tmp_path: Path, server: str, network: bool) -> None:
    script = """
from kd.config import ConfigError
try:
    start(mode="online", strict=True)
except ConfigError as error:
    print(error)
"""
    done = run(script, tmp_path / "run", WANDB_BASE_URL=server if network else closed_port())
    assert done.stdout.startswith("tracking.mode is 'online' but "), done.stderr
    assert "wandb login" in done.stdout
    assert "tracking.mode=offline" in done.stdout


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fake_training(total: int = 40, start: int = 0) -> None:
    with Progress(total, start=start, description="distil", seconds=0, every=10) as shown:
        for _ in range(start, total):
            losses = {"loss": 1.23456, "ce": 0.5, "jaccard_hard": 12.345, "jaccard_soft": 0.000123}
            shown.update(losses, images=16, lr=0.01, miou=61.27)


def test_batch_logs_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fake_training(total=45, start=5)
    written = capsys.readouterr().err
    assert "\r" not in written
    lines = written.splitlines()
    assert [line.split()[1] for line in lines] == ["6/45", "10/45", "20/45", "30/45", "40/45", "45/45"]
    for text in ("loss 1.23,", "ce 0.500", "mIoU 61.3", "lr 1.0e-02", "img/s", "jaccard_soft 0.000123", "ETA "):
        assert text in lines[-1]


def test_batch_logs_are_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1000, every=1, seconds=10) as shown:
        for _ in range(1000):
            shown.update()
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(("columns", "there", "gone"), [(80, "mIoU 61.3", "jaccard"), (160, "jaccard_soft", "\n\n")])
def test_the_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, there: str, gone: str) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (columns, 24))
    fake_training()
    shown = screen.getvalue().split("\r")
    assert max(len(line.rstrip("\n")) for line in shown) <= columns
    assert there in shown[-1]
    assert "40/40" in shown[-1]
    assert gone not in shown[-1]


def test_speed_counts_images_over_time_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(100)
    for step in range(40):
        now[0] += 0.0 if step % 2 else 1.0
        shown.update(images=8)
    with shown.paused():
        now[0] += 1000
    assert shown._clock.speed() == pytest.approx(16, rel=0.02)
    now[0] += 1.0
    shown.update(images=16)
    assert shown._clock.speed() == pytest.approx(16, rel=0.02)


def test_other_ranks_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "is_main", lambda: False)
    fake_training()
    assert list(bar([1, 2], "evaluate")) == [1, 2]
    progress.say("hello")
    assert screen.getvalue() == ""


def test_the_small_bar_counts_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(bar(iter([1, 2]), "evaluate")) == [1, 2]
    with bar(3, "evaluate") as counted:
        counted.update(3)
    assert "evaluate" in screen.getvalue()
    assert not screen.getvalue().endswith("\n")


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.500"), (12.345, "12.3"), (123.4, "123"), (12345.0, "1.23e+04")])
def test_three_digits(value: float, text: str) -> None:
    assert short(value) == text
