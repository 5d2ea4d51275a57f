"""A sweep as jobs of a real Slurm of one node, which ``tests/slurm/up.sh`` starts; skipped where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_faults import SLOW
from helpers_forked import free_port
from helpers_tools import call
from test_sweep_run import ENVIRONMENT, ROOT, finish, results
from tiny_sweep import write, write_recipes

from kd.config import InputError
from kd.sealed import write_sealed
from kd.sweep.points import Point, expand
from kd.sweep.schema import read_sweep
from students.sweeping.point_process import begun, claimed, holder
from students.sweeping.sbatch_options import check_options, minutes
from students.sweeping.state import is_finished, logged_step

pytestmark = pytest.mark.timeout(600)
HERE = Path(__file__).parent / "slurm"
LOW = ("--launcher", "slurm", "--sbatch", "partition=low", "--sbatch", "time=20")
MISSING = [
    name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if MISSING or os.geteuid():
        pytest.skip(f"no Slurm can be started here: {'not root' if os.geteuid() else 'no ' + ', '.join(MISSING)}")
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "KD_SLURM_PORT": str(free_port())}
    done = subprocess.run(["bash", HERE / "up.sh", folder], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    before = dict(os.environ)
    os.environ["SLURM_CONF"] = ENVIRONMENT["SLURM_CONF"] = str(folder / "slurm.conf")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where kd is
    yield
    subprocess.run(["bash", HERE / "down.sh", folder], timeout=60, check=False)
    os.environ.clear()
    os.environ.update(before)
    del ENVIRONMENT["SLURM_CONF"]


def until(reached: Callable[[], Any], seconds: float = 300) -> None:
    """Wait until something holds."""
    ends = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < ends, subprocess.run(["squeue", "-a"], capture_output=True, text=True).stdout
        time.sleep(0.1)


def queue(*words: str) -> str:
    return subprocess.run(["squeue", "--noheader", "--array", *words], capture_output=True, text=True, check=True).stdout


def log(folder: Path, point: Point) -> str:
    return (folder / ROOT / point.name / "log.txt").read_text()


def six(folder: Path) -> tuple[Path, list[Point]]:
    """A sweep of a teacher and five students."""
    folder.mkdir()
    write_recipes(folder, schedule={"steps": 40}, run={"checkpoint_every": 10_000})
    axes = {"method": ["ce", "kd", "jml_kd"], "seed": [0, 1]}
    sweep = write(folder, axes=axes, exclude=[{"method": "jml_kd", "seed": 1}])
    return sweep, expand(read_sweep(sweep), ROOT)


@SLOW
def test_a_sweep_on_slurm_is_that_of_this_machine(slurm: None, tmp_path: Path) -> None:
    """One job is preempted and queued again, a point fails once, and the node is drained meanwhile."""
    sweep, points = six(tmp_path / "slurm")
    folder = tmp_path / "slurm"
    by_name = {point.label + str(point.recipe.seed): point for point in points}
    teacher, failing, preempted = by_name["teacher0"], by_name["a_ce1"], by_name["a_kd0"]
    broken = folder / ROOT / failing.name / "checkpoint.pt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no checkpoint")
    queued = call("sweep", sweep, *LOW, folder=folder)
    assert queued.returncode == 0, queued.stderr
    assert "6 points queued, 0 were queued before, 0 are finished, of 6" in queued.stdout
    again = call("sweep", sweep, *LOW, folder=folder)
    assert "0 points queued, 6 were queued before, 0 are finished, of 6" in again.stdout
    until(lambda: call("sweep", sweep, "--status", folder=folder).stdout.count(" PENDING (Dependency)]") == 3)
    until(lambda: is_finished(folder / ROOT / teacher.name))
    until(lambda: logged_step(folder / ROOT / preempted.name) > 2)
    wants = ["sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 1"]
    subprocess.run(wants, check=True, capture_output=True)
    until(lambda: "stopped at step" in log(folder, preempted))
    node = queue("-o", "%N", "-t", "RUNNING").split() or [os.uname().nodename.split(".")[0]]
    subprocess.run(["scontrol", "update", f"nodename={node[0]}", "state=drain", "reason=test"], check=True)
    until(lambda: not queue("-t", "RUNNING,COMPLETING"))
    assert "queued" in call("sweep", sweep, "--status", folder=folder).stdout
    subprocess.run(["scontrol", "update", f"nodename={node[0]}", "state=resume"], check=True)
    until(lambda: not queue())
    assert "resuming" in log(folder, preempted)
    told = call("sweep", sweep, "--status", folder=folder).stdout
    assert "6 points: 5 finished, 1 resumable" in told
    assert f"not finished, and does not run: {failing.name}: error: " in told
    broken.unlink()
    done = call("sweep", sweep, *LOW, "--wait", folder=folder)
    assert (done.returncode, "6 finished of 6 points" in done.stdout) == (0, True), done.stdout + done.stderr
    sweep, _ = six(tmp_path / "here")
    code, _, errors = finish(sweep, tmp_path / "here")
    assert code == 0, errors
    assert results(folder) == results(tmp_path / "here")


@SLOW
def test_jobs_are_cancelled_and_stay_so(slurm: None, tmp_path: Path) -> None:
    sweep, points = six(tmp_path / "slurm")
    folder = tmp_path / "slurm"
    call("sweep", sweep, *LOW, "--only", "a_ce*", folder=folder)
    one = next(point for point in points if point.label == "a_ce")
    until(lambda: logged_step(folder / ROOT / one.name) > 2)
    assert "jobs of Slurm cancelled" in call("sweep", sweep, "--cancel", folder=folder).stdout
    until(lambda: not queue())
    time.sleep(12)  # in which it would have been queued again
    assert queue() == ""
    assert (folder / ROOT / one.name / "checkpoint.pt").exists()
    assert "nothing waits or runs" in call("sweep", sweep, "--cancel", folder=folder).stdout
    script = call("sweep", sweep, "--slurm", "--only", "a_kd*", folder=folder).stdout
    (folder / "queue.sh").write_text(script)
    subprocess.run(["bash", "queue.sh", "--partition=low", "--time=20"], cwd=folder, check=True, capture_output=True)
    until(lambda: queue("-t", "PENDING", "-o", "%r").count("Dependency") == 2)
    until(lambda: not queue())
    done = [point.name for point in points if is_finished(folder / ROOT / point.name)]
    assert done == [point.name for point in points if point.label in ("teacher", "a_kd")]


def test_several_processes_of_a_point(slurm: None, tmp_path: Path) -> None:
    sweep, _ = six(tmp_path / "slurm")
    words = ("--processes", 2, "--sbatch", "cpus-per-task=2", "--only", "a_ce*s0", "--wait")
    done = call("sweep", sweep, *LOW, *words, folder=tmp_path / "slurm")
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = results_with_environment(tmp_path / "slurm")
    assert result["environment"]["processes"] == 2


def results_with_environment(folder: Path) -> list[dict[str, Any]]:
    from kd.sealed import read_sealed

    return [dict(read_sealed(path)) for path in (folder / ROOT).glob("*/result.json")]


@pytest.mark.parametrize(
    ("text", "found"),
    [("90", 90), ("90:30", 91), ("4:00:00", 240), ("2-12", 3600), ("1-0:30", 1470), ("0:10", 1), ("0-0:0:59", 1)],
)
def test_times_are_slurms(text: str, found: int) -> None:
    assert minutes({"time": text}) == found


def test_options_of_sbatch_are_looked_at() -> None:
    check_options({"partition": "gpu", "gres": "gpu:4", "exclude": "n[1-3]", "time": "4:00:00"})
    for key, value in (
        ("array", "1"),
        ("dependency", "x"),
        ("Partition", "x"),
        ("partition", ""),
        ("x y", "1"),
        ("mem", "1\n#"),
    ):
        with pytest.raises(InputError, match=f"--sbatch {key}="):
            check_options({key: value})
    with pytest.raises(InputError, match="time=soon: is no time"):
        minutes({"time": "soon"})


def test_what_slurm_alone_takes_is_refused_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipes(tmp_path)
    sweep = write(tmp_path)
    for words in (("--wait",), ("--nodes", 2), ("--sbatch", "partition=x")):
        done = call("sweep", sweep, *words, folder=tmp_path)
        assert (done.returncode, "add --launcher slurm" in done.stderr) == (2, True)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("sweep", sweep, "--launcher", "slurm", folder=tmp_path)
    assert (done.returncode, "there is no sbatch here" in done.stderr) == (2, True)


STUBS = {
    "sbatch": 'cp "$1" "$STUBS/job.sh"; echo Submitted batch job 7',
    "srun": "exit 1",
    "squeue": 'cat "$STUBS/queue"',
    "scancel": 'echo "$@" > "$STUBS/cancelled"',
}
"""Commands of a Slurm that notes what it is told."""


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that runs nothing, and what it was told."""
    pytest.importorskip("submitit")
    place = tmp_path / "stubs"
    place.mkdir()
    for name, line in STUBS.items():
        (place / name).write_text(f"#!/bin/sh\n{line}\n")
        (place / name).chmod(0o755)
    (place / "queue").write_text("")
    monkeypatch.setenv("STUBS", str(place))
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    write_recipes(tmp_path)
    return place


def test_a_name_of_a_sweep_is_no_line_of_a_jobs_script(noted: Path, tmp_path: Path) -> None:
    sweep = write(tmp_path).rename(tmp_path / "recipes/sweeps/x'\"\ntouch ran #.yaml")
    done = call("sweep", sweep, "--launcher", "slurm", "--only", "a_ce*s0", "--output", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    script = (noted / "job.sh").read_text()
    assert not [line for line in script.splitlines() if line.startswith("touch")]
    assert "#SBATCH --job-name=x_touch_ran\n" in script
    odd = call("sweep", sweep, "--launcher", "slurm", "--output", "a\nb", folder=tmp_path)
    assert (odd.returncode, "take a plain name" in odd.stderr) == (2, True)


def test_jobs_read_what_their_own_submission_wrote(noted: Path, tmp_path: Path) -> None:
    """What lies in a stranger's directory is never unpickled: each submission has a folder of its own."""
    sweep = write(tmp_path)
    for name in ("a_ce*s0", "a_ce*s1"):
        call("sweep", sweep, "--launcher", "slurm", "--only", name, "--output", "out", folder=tmp_path)
    folders = list((tmp_path / "out" / ".slurm").iterdir())
    assert len(folders) == 2
    assert all(folder.stat().st_mode & 0o77 == 0 for folder in folders)
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(tmp_path / "out" / ".slurm")
    (tmp_path / "out" / ".slurm").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "jobs.json").unlink()
    done = call("sweep", sweep, "--launcher", "slurm", "--output", "out", folder=tmp_path)
    assert (done.returncode, "is a link" in done.stderr, list((tmp_path / "elsewhere").iterdir())) == (2, True, [])


def test_jobs_that_are_not_the_sweeps_are_left_alone(noted: Path, tmp_path: Path) -> None:
    sweep = write(tmp_path)
    call("sweep", sweep, "--launcher", "slurm", "--only", "a_ce*s0", "--output", "out", folder=tmp_path)
    (noted / "queue").write_text("7|RUNNING|None|somebody else's\n")
    told = call("sweep", sweep, "--cancel", "--output", "out", folder=tmp_path)
    assert "nothing waits or runs" in told.stdout
    assert not (noted / "cancelled").exists()
    (noted / "queue").write_text(f"7|RUNNING|None|kd {tmp_path / 'out'}\n")
    gone = call("sweep", sweep, "seed=[1]", "--status", "--output", "out", folder=tmp_path)
    assert "jobs of other points of this directory: 7; --cancel stops them too" in gone.stdout
    told = call("sweep", sweep, "seed=[1]", "--cancel", "--output", "out", folder=tmp_path)
    assert "1 jobs of Slurm cancelled" in told.stdout
    assert (noted / "cancelled").read_text().split() == ["7"]
    for jobs in ([1, 2], {"x": 7}, {"x": "--help"}, None):
        write_sealed(tmp_path / "out" / "jobs.json", {"jobs": jobs})
        done = call("sweep", sweep, "--status", "--output", "out", folder=tmp_path)
        assert (done.returncode, "does not hold the numbers of jobs" in done.stderr) == (2, True)


def test_links_and_pipes_in_a_point_lead_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "point"
    folder.mkdir()
    for name in ("log.txt", "point.yaml", ".point.lock"):
        (folder / name).symlink_to(victim)
    lock = claimed(folder)
    assert lock is not None
    begun(folder, "a: 1", [sys.executable, "-c", "print(1)"], os.environ, lock).wait()
    assert victim.read_text() == "precious"
    assert (folder / "log.txt").read_text() == "1\n"
    lock.close()
    (folder / ".point.lock").unlink()
    os.mkfifo(folder / ".point.lock")
    assert holder(folder) is None
    with pytest.raises(InputError, match="is no file; remove it"):
        claimed(folder)
