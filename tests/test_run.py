"""A whole run: its files, its numbers, and resuming it exactly wherever it was cut."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers_forked import Forked
from helpers_tools import call
from PIL import Image
from safetensors.torch import load_file
from tiny import STUDENT, execute, merged, tiny

from kd.commands.train import asked
from kd.commands.train import report as ended
from kd.config import ConfigError, InputError
from kd.data.build import open_split
from kd.metrics.counts import Counts
from kd.networks.build import load_network
from kd.recipe.schema import build, fingerprint
from kd.results.runs import load_runs
from kd.sealed import read_sealed, write_sealed
from students import checkpoint
from students.examining.previews import write_samples
from students.nonfinite import NonFiniteLossError
from students.run_directory import finished
from students.tracking.tracker import read_metrics
from students.trainer import Trainer

ROOT = Path(__file__).parent.parent


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The records without what depends on the clock or the machine."""
    records = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in ("time", "perf")} for record in records]


def same(one: Path, other: Path) -> None:
    """Bitwise equal students, equal metrics and results."""
    for name in ("student", "best"):
        first, second = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert metrics(one) == metrics(other)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["last"] == results[1]["last"]
    assert results[0]["best"] == results[1]["best"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of JML-KD, with averaged weights and two accumulated parts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    execute(resumable(), folder)
    return folder


def resumable(**changes: Any) -> Any:
    return tiny("jml_kd", **merged({"schedule": {"ema": 0.9, "accumulate": 2}}, changes))


def test_the_run_directory(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert result["status"] == "finished"
    assert set(result["last"]) == {"val", "test"}
    assert set(result["agreement"]["classes"]) == set(result["last"]["test"]["iou"])
    assert result["best"]["step"] in (3, 6)
    assert result["teacher"]["split"] == "val"
    assert result["cost"]["seconds_per_step"] > 0
    assert Counts.load(whole / "counts.npz").classes == 8
    logged = [record for record in metrics(whole) if "terms" in record]
    assert [record["step"] for record in logged] == [1, 2, 3, 4, 5, 6]
    terms, weighted = logged[0]["terms"], logged[0]["weighted"]
    assert weighted["jaccard_soft"] == pytest.approx(0.4 * terms["jaccard_soft"])
    assert logged[0]["train"]["loss"] == pytest.approx(sum(weighted.values()), rel=1e-5)
    assert yaml.safe_load((whole / "recipe.yaml").read_text())["method"]["name"] == "jml_kd"


def test_the_saved_student_gives_the_reported_scores(whole: Path) -> None:
    assert call("evaluate", whole, "--json", whole / "again.json").returncode == 0
    again = json.loads((whole / "again.json").read_text())
    result = json.loads((whole / "result.json").read_text())
    reported = result["last"]["test"]
    assert again["iou"] == reported["iou"]
    numbers = {key: value for key, value in reported.items() if isinstance(value, float)}
    assert {key: again[key] for key in numbers} == pytest.approx(numbers, rel=1e-5)


def test_scores_are_printed_with_their_units_and_what_their_names_mean(whole: Path) -> None:
    printed = call("evaluate", whole).stdout
    scores = json.loads((whole / "result.json").read_text())["last"]["test"]
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for key, unit in (("mIoU_I_q1", "%"), ("ECE", "%"), ("ECE_I", "%"), ("SCE", "per mille"), ("SCE_I", "per mille")):
        assert f"{key} {scores[key]:.2f} {unit}" in lines
    assert f"images {scores['images']}" in lines
    assert [line for line in lines if "_q5: of the worst 5 % of them alone" in line and line.startswith("_I: mean over images")]
    name, value = next((name, value) for name, value in scores["iou"].items() if value is not None)
    assert f"{name} {value:.2f} %" in lines


def test_a_training_ends_with_the_iou_of_each_class(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads((whole / "result.json").read_text())
    ended(result, whole, "finished")
    told = capsys.readouterr().out.splitlines()[2:]
    iou = result["last"]["test"]["iou"]
    assert [line.rsplit(maxsplit=2 if line.endswith("%") else 1)[0].strip() for line in told] == list(iou)
    many = {f"class {number}": 50.0 for number in range(13)}
    ended({**result, "last": {"test": {**result["last"]["test"], "iou": many}}}, Path("runs/a b/seed0"), "finished")
    assert capsys.readouterr().out.splitlines()[2:] == ["IoU of each of the 13 classes: kd evaluate 'runs/a b/seed0'"]


def test_a_run_remembers_the_word_that_named_its_method(tmp_path: Path) -> None:
    for words, known in (
        (["ce_jml+kd", "method.temperature=4"], "ce_jml+kd"),
        (["kd", "method.name=cwd"], ""),
        (["kd", "method=[{name: kd}, {name: cwd}]"], ""),
        (["seed=1"], ""),
    ):
        assert asked(words) == known
    done = call("train", "shapes/tiny", "ce_jml", "--smoke", "--output", tmp_path / "run", "run.device=cpu")
    assert done.returncode == 0, done.stderr
    (run,) = load_runs([tmp_path]).finished
    assert run.asked == {"method": "ce_jml"}


def test_the_progress_of_a_training_says_of_which_split_its_miou_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(tiny(evaluation={"every": 3, "select": "test"}), tmp_path / "run")
    assert ", test mIoU " in capsys.readouterr().err


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_resuming_is_bitwise_exact(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """Batches of 4 from 10 images: every cut lies inside a pass over the data, 3 right after an evaluation."""
    original = Trainer.one_step

    def dies(self: Trainer, batches: Any) -> Any:
        if self.step == cut:
            raise RuntimeError("power cut")
        return original(self, batches)

    monkeypatch.setattr(Trainer, "one_step", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        execute(resumable(), tmp_path / "run")
    monkeypatch.setattr(Trainer, "one_step", original)
    execute(resumable(run={"workers": 1}), tmp_path / "run")
    same(whole, tmp_path / "run")


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(resumable(**changes).model_dump(mode="json")))
    return path


def until_step(folder: Path, step: int, poll: Callable[[], int | None]) -> None:
    """Wait until a process, whose exit code ``poll`` tells, has logged a step."""
    for _ in range(600):
        if (folder / "metrics.jsonl").exists() and any(r["step"] >= step for r in read_metrics(folder / "metrics.jsonl")):
            return
        assert poll() is None, f"ended with {poll()}"
        time.sleep(0.1)
    raise TimeoutError(f"step {step} was never logged")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of twelve steps."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    execute(resumable(**LONGER), folder)
    return folder


LONGER = {"schedule": {"steps": 12}, "evaluation": {"every": 6}}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_signals(straight: Path, tmp_path: Path, number: int, code: int) -> None:
    """SIGKILL loses the steps since the last checkpoint, SIGTERM and SIGUSR1 none; the result is the same."""
    words = ("train", write_recipe(tmp_path, **LONGER), "--output", tmp_path / "cut")
    process = Forked(tmp_path, *words)
    until_step(tmp_path / "cut", 3, process.poll)
    process.signal(number)
    ended, _, errors = process.wait()
    assert ended == code, errors
    if code == 75:
        assert "the same command resumes" in errors
        saved = checkpoint.load(tmp_path / "cut", torch.device("cpu"))
        assert saved is not None
        assert saved["step"] == read_metrics(tmp_path / "cut" / "metrics.jsonl")[-1]["step"]
    done = call(*words)
    assert done.returncode == 0, done.stderr
    same(straight, tmp_path / "cut")


def test_a_finished_run_is_never_overwritten(whole: Path) -> None:
    before = (whole / "result.json").stat().st_mtime_ns
    assert execute(resumable(), whole)["status"] == "finished"
    assert (whole / "result.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"different: schedule\.steps.*another --output"):
        execute(resumable(schedule={"steps": 7}), whole)
    with pytest.raises(ConfigError, match="different: seed"):
        execute(resumable(seed=1), whole)


def test_from_a_damaged_checkpoint_the_run_goes_on_with_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny()
    monkeypatch.setattr("students.run._conclude", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
    with pytest.raises(RuntimeError, match="cut"):
        execute(recipe, tmp_path)
    monkeypatch.undo()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    previous, lines = tmp_path / "checkpoint.previous.pt", (tmp_path / "metrics.jsonl").read_bytes()
    kept = previous.read_bytes()
    previous.write_bytes(b"")
    with pytest.raises(
        InputError, match=r"(?s)/checkpoint\.pt: cannot be read.*/checkpoint\.previous\.pt: cannot.* whole: rest"
    ):
        execute(recipe, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines
    previous.write_bytes(kept)
    capsys.readouterr()
    execute(recipe, tmp_path)
    assert re.search(
        r"WARNING: .*/checkpoint\.pt: cannot.* going on from checkpoint\.previous\.pt, at step 4", capsys.readouterr().err
    )
    execute(recipe, tmp_path / "straight")
    same(tmp_path / "straight", tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_with_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Trainer.one_step

    def breaks(self: Trainer, batches: Any) -> Any:
        if self.step == 4:
            with torch.no_grad():
                next(self.objective.student.head.parameters()).fill_(float("nan"))
        return original(self, batches)

    monkeypatch.setattr(Trainer, "one_step", breaks)
    with pytest.raises(
        NonFiniteLossError, match=r"step 4: the loss is not finite \(terms: ce.*earlier step broke the weights.*lower"
    ):
        execute(tiny(), tmp_path)
    report = json.loads((tmp_path / "diagnosis.json").read_text())
    assert report["terms"]["ce"] == "nan"
    assert len(torch.load(tmp_path / "diagnosis_batch.pt", weights_only=True)["ids"]) == 4
    monkeypatch.setattr(Trainer, "one_step", original)
    execute(tiny(), tmp_path)  # the checkpoint of step 4 was written before, and is whole
    execute(tiny(), tmp_path / "straight")
    same(tmp_path / "straight", tmp_path)


@pytest.mark.parametrize(("factor", "told"), [(50.0, 1), (5.0, 0)])
def test_a_loss_that_grows_and_stays_finite_is_told_once(
    factor: float, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Trainer.one_step

    def grows(self: Trainer, batches: Any) -> dict[str, float]:
        return {"ce": 2.0 * (factor if self.step > 3 else 1.0), **dict.fromkeys(original(self, batches).keys() - {"ce"}, 0.1)}

    monkeypatch.setattr(Trainer, "one_step", grows)
    execute(tiny(schedule={"steps": 6}, run={"log_every": 1}), tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "training diverges" in line]
    assert len(lines) == told
    assert all("WARNING: step 5: the loss of 100 is 49 times" in line for line in lines)
    assert all("most of it ce (100):" in line for line in lines)


def test_a_huge_learning_rate_is_diagnosed(tmp_path: Path) -> None:
    recipe = tiny(schedule={"steps": 20, "optimizer": {"kind": "sgd", "lr": 1e20}})
    with pytest.raises(NonFiniteLossError, match="learning rate"):
        execute(recipe, tmp_path)


def test_a_batch_without_labels_is_told_once_and_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny("jml_kd", data={"name": "helpers_data:Unlabelled"}, evaluation={"every": 0}, run={"absent_classes": "allow"})
    execute(recipe, tmp_path)
    told = capsys.readouterr().err
    assert told.count("every pixel of the batch is ignored") == 1
    assert "wrong labels or crops too small" in told
    assert all(record["train"]["loss"] == 0 for record in metrics(tmp_path) if "train" in record)


def test_a_part_that_nothing_trains_is_refused(tmp_path: Path) -> None:
    recipe = tiny(student={"aux": 8}, loss={"ce_aux": {"field": "logits"}})
    with pytest.raises(ConfigError, match=r"student\.aux_head.*no term.*student\.aux=0"):
        execute(recipe, tmp_path)


def test_a_teacher_below_its_floor_stops_the_run(tmp_path: Path) -> None:
    recipe = tiny("kd", teacher={"name": "fresh", "network": STUDENT, "floor": 99})
    with pytest.raises(ConfigError, match=r"teacher\.floor: a fresh network reaches .* below the floor of 99"):
        execute(recipe, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_run_teaches_another(whole: Path, tmp_path: Path) -> None:
    recipe = tiny("kd", teacher={"name": "run", "path": str(whole)}, evaluation={"every": 0})
    result = execute(recipe, tmp_path)
    taught = json.loads((whole / "result.json").read_text())["last"]["val"]
    assert result["teacher"]["mIoU"] == taught["mIoU"]


def test_killed_before_the_result_is_written(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = write_sealed

    def dies(path: Path, values: Any) -> None:
        if path.name == "result.json":
            raise RuntimeError("power cut")
        original(path, values)

    monkeypatch.setattr("students.run.write_sealed", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        execute(resumable(), tmp_path)
    assert (tmp_path / "counts.npz").exists()
    monkeypatch.setattr("students.run.write_sealed", original)
    execute(resumable(), tmp_path)
    same(whole, tmp_path)
    assert (
        json.loads((whole / "result.json").read_text())["agreement"]
        == json.loads((tmp_path / "result.json").read_text())["agreement"]
    )


def test_a_run_keeps_what_a_report_shows(whole: Path, tmp_path: Path) -> None:
    """Who is right on the reported split, class by class; bins of confidence; the preview's label maps as numbers."""
    recipe = tiny("kd", teacher={"name": "run", "path": str(whole)}, run={"previews": 2})
    result = execute(recipe, tmp_path)
    counts, taught = Counts.load(tmp_path / "counts.npz"), Counts.load(whole / "counts.npz")
    assert result["agreement"]["split"] == "test"
    for number, cases in enumerate(result["agreement"]["classes"].values()):
        assert cases["both"] + cases["student"] == counts.tp[:, number].sum()
        assert cases["both"] + cases["teacher"] == taught.tp[:, number].sum()
        assert sum(cases.values()) == counts.truth[:, number].sum()
    assert sum(result["last"]["test"]["reliability"]["pixels"]) == counts.valid.sum()
    folders = sorted((tmp_path / "previews" / "final").iterdir())
    assert len(folders) == 2
    write_samples([("a/b", np.zeros((4, 4, 3), np.uint8), {})], [], tmp_path / "other")
    write_samples([("c", np.zeros((4, 4, 3), np.uint8), {})], [], tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["00_c"]  # nothing stale stays
    data, network = open_split(recipe.data, "val"), load_network(tmp_path)[0].eval()
    for folder, index in zip(folders, (0, 1), strict=True):
        assert {file.name for file in folder.iterdir()} == {"image.jpg", "target.png", "teacher.png", "student.png"}
        image, target = data.read(index)
        assert np.array_equal(np.asarray(Image.open(folder / "target.png")), target.numpy())
        with torch.no_grad():
            prediction = network(image[None]).at(image.shape[1:]).argmax(1)[0]
        assert np.array_equal(np.asarray(Image.open(folder / "student.png")), prediction.numpy())
        assert Image.open(folder / "target.png").getpalette()[: 3 * 8] == [part for colour in data.colours for part in colour]


def test_students_of_all_methods_start_alike(tmp_path: Path) -> None:
    starts = []
    for kind in ("ce", "kd", "jml_kd"):
        recipe = tiny(kind, schedule={"steps": 1, "optimizer": {"kind": "sgd", "lr": 1e-30}}, evaluation={"every": 0})
        execute(recipe, tmp_path / kind)
        starts.append(load_network(tmp_path / kind)[0].state_dict()["head.classifier.conv.weight"])
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])


def test_seeds_differ(tmp_path: Path) -> None:
    one = execute(tiny(evaluation={"every": 0}), tmp_path / "0")
    other = execute(tiny(evaluation={"every": 0}, seed=1), tmp_path / "1")
    assert metrics(tmp_path / "0")[0] != metrics(tmp_path / "1")[0]
    assert one["fingerprint"] == other["fingerprint"]


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_damaged_file_of_a_run_is_named(tmp_path: Path, name: str) -> None:
    recipe = tiny(schedule={"steps": 1}, evaluation={"every": 0})
    execute(recipe, tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(InputError, match=rf"{name}: is damaged .*; restore it, or move the directory away"):
        execute(recipe, tmp_path)


@pytest.mark.parametrize("words", [["--output", "{file}"], ["run.device=cudaa"], ["run.device=cuda"]])
def test_a_wrong_path_or_device_is_one_clear_line(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").touch()
    recipe = write_recipe(tmp_path)
    done = call("train", recipe, "--output", tmp_path / "run", *(word.format(file=tmp_path / "file") for word in words))
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert "choose another path" in lines[0] or "Use auto, cpu" in lines[0]


def test_a_run_is_known_however_its_teacher_is_spelled(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole.parent)
    teacher = shutil.copytree(whole, tmp_path / "teacher", ignore=shutil.ignore_patterns("*.pt", "previews"))
    folder = tmp_path / "run"

    def asked(path: Path | str) -> Any:
        return tiny("kd", teacher={"name": "run", "path": str(path)}, schedule={"steps": 1})

    execute(asked(whole), folder)
    kept = (folder / "run.json").read_text()
    for path in (whole.name, f"../{whole.parent.name}/{whole.name}", teacher):
        assert finished(asked(path), folder) is not None
    known = read_sealed(folder / "run.json")
    older = {**known, "fingerprint": fingerprint(asked(whole), spelled=True)}  # from when the path was written down
    write_sealed(folder / "run.json", older)
    for path in (whole, whole.name, teacher):
        assert finished(asked(path), folder) is not None
    (folder / "run.json").write_text(kept)
    with pytest.raises(ConfigError, match=r"another run \(different: teacher\.path\)"):
        finished(asked(tmp_path / "nowhere"), folder)
    shutil.copy(whole / "best.safetensors", teacher / "student.safetensors")
    with pytest.raises(ConfigError, match=r"different: teacher\.path"):
        finished(asked(teacher), folder)
    execute(asked(teacher), tmp_path / "other")
    shutil.copy(whole / "student.safetensors", teacher / "student.safetensors")
    with pytest.raises(ConfigError, match=r"different: the weights that its recipe names"):
        finished(asked(teacher), tmp_path / "other")


def test_a_run_whose_teacher_has_gone_is_still_finished(whole: Path, tmp_path: Path) -> None:
    teacher = shutil.copytree(whole, tmp_path / "teacher", ignore=shutil.ignore_patterns("*.pt", "previews"))
    recipe = tiny("kd", teacher={"name": "run", "path": str(teacher)}, schedule={"steps": 1})
    execute(recipe, tmp_path / "run")
    shutil.rmtree(teacher)
    assert finished(recipe, tmp_path / "run") is not None


OWN = """
from kd.methods.kd import KD


class Mine(KD):
    pass
"""


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A method of the user's own, in a module that is found."""
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / f"own_{tmp_path.name.replace('-', '_')}.py"
    file.write_text(OWN)
    return file


def test_a_changed_method_is_told(own_method: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny("kd", method={"name": f"{own_method.stem}:Mine"}, schedule={"steps": 1})
    execute(recipe, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["code"].keys() == {own_method.stem}
    assert finished(recipe, tmp_path / "run") is not None
    assert "WARNING" not in capsys.readouterr().err
    own_method.write_text(OWN + "# other\n")
    assert finished(recipe, tmp_path / "run") is not None
    assert f"WARNING: {own_method.stem} has changed since {tmp_path}/run began" in capsys.readouterr().err


def test_an_evaluation_needs_no_method(own_method: Path, tmp_path: Path) -> None:
    execute(tiny("kd", method={"name": f"{own_method.stem}:Mine"}, schedule={"steps": 1}), tmp_path / "run")
    own_method.unlink()
    done = call("evaluate", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr


def test_an_ensemble_whose_member_has_gone_is_still_finished(whole: Path, tmp_path: Path) -> None:
    members = []
    for name in ("one", "two"):
        shutil.copytree(whole, tmp_path / name, ignore=shutil.ignore_patterns("*.pt", "previews"))
        members.append({"name": "run", "path": str(tmp_path / name)})
    teacher = {"name": "ensemble", "members": members}
    tree = json.loads(tiny("kd", schedule={"steps": 1}).model_dump_json())
    recipe = build({**tree, "teacher": teacher})
    execute(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "two")
    assert finished(recipe, tmp_path / "run") is not None
    shutil.copy(whole / "best.safetensors", tmp_path / "one" / "student.safetensors")
    with pytest.raises(ConfigError, match="another run"):
        finished(recipe, tmp_path / "run")
