"""Files that were damaged, swapped or edited: nothing of them is used without a word, and what is whole goes on.

``make faults`` sets KD_FAULTS, by which each kind of file is harmed at many more places.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_faults import FAULTS
from helpers_tools import call
from PIL import Image
from safetensors.torch import load_file, save_file
from test_data import told
from test_folder import config as folder_config
from test_folder import pictures
from tiny import execute, tiny

from kd.config import ConfigError, InputError
from kd.data.build import open_split
from kd.data.store.writing import store
from kd.networks import load_network
from kd.results.runs import load_counts, load_runs
from kd.sealed import DamagedError, digest, read_sealed, sealed, unsealed, write_sealed
from students import checkpoint
from students.verifying import files_below, verify
from teachers.soft_labels import files as soft_labels

CPU = torch.device("cpu")
PLACES = 50 if FAULTS else 4
CUTS = range(0, 100, 2) if FAULTS else (0, 50, 98)


# --------------------------------------------------------------------------------------------------------------- digests


def test_a_digest_is_of_the_content_alone() -> None:
    content = {"a": [1, 2.0, None, "x"], "b": {1: torch.arange(4.0), "1": np.arange(3)}, "c": torch.zeros(0)}
    assert digest(content) == digest(dict(reversed(content.items())))
    assert digest({"a": (1, 2)}) == digest({"a": [1, 2]})
    turned = torch.arange(6.0).view(2, 3).t()
    assert digest(turned) == digest(turned.contiguous())
    bf16 = torch.ones(3, dtype=torch.bfloat16)
    others = [1, 1.0, True, "1", [1], [[1]], {"1": 1}, None, torch.ones(1), torch.ones(1, 1), torch.ones(1).double(), bf16]
    assert len({digest(other) for other in others}) == len(others)


def test_what_is_sealed_comes_back_and_what_was_changed_does_not(tmp_path: Path) -> None:
    values = {"a": 1e-5, "b": [1, (2, 3)], "c": "ü"}
    write_sealed(tmp_path / "a.json", values)
    assert read_sealed(tmp_path / "a.json") == {**values, "b": [1, [2, 3]]}
    assert unsealed(values, tmp_path) == values  # as files once were
    with pytest.raises(DamagedError, match="is damaged, it does not hold what was written there; do this"):
        unsealed({**sealed(values), "a": 2e-5}, tmp_path, "do this")
    for text in ("[]", "5", "null", '"x"', "[" * 100_000, "{", "\ud800"):
        (tmp_path / "b.json").write_bytes(text.encode(errors="surrogatepass"))
        assert isinstance(told(lambda: read_sealed(tmp_path / "b.json")), DamagedError)


# ----------------------------------------------------------------------------------------------------------------- flips


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all that one leaves."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    method = {"name": "maskd", "count": 2, "share": 0.5}
    weights = {"ce": 1.0, "ce_aux": 0.4, "token_ce": 1.0, "token_dice": 1.0, "mask": 1.0, "mask_aux": 0.4}
    execute(tiny("kd", method=method, weights={"kl": None, **weights}), folder)
    return folder


def same(first: Any, second: Any) -> bool:
    return digest(first) == digest(second)


def network_of(folder: Path) -> Any:
    network, card = load_network(folder)
    return dict(network.state_dict()), card


READERS: dict[str, Callable[[Path], Any]] = {
    "checkpoint.pt": lambda folder: checkpoint.read(folder / "checkpoint.pt", CPU)[0],
    "student.safetensors": network_of,
    "student.yaml": network_of,
    "method.safetensors": lambda folder: _sound(folder / "method.safetensors", load_file),
    "result.json": lambda folder: read_sealed(folder / "result.json"),
    "run.json": lambda folder: read_sealed(folder / "run.json"),
    "teacher.json": lambda folder: read_sealed(folder / "teacher.json"),
    "recipe.yaml": lambda folder: _row(folder).recipe,
    "counts.npz": lambda folder: load_counts(_row(folder)).arrays(),
}


def _sound(path: Path, read: Callable[[Path], Any]) -> Any:
    found = verify([path])
    if found.damaged:
        raise InputError(found.damaged[0])
    return read(path)


def _row(folder: Path) -> Any:
    found = load_runs([folder])
    if found.damaged:
        raise InputError(found.damaged[0])
    return found.finished[0]


def harms(content: bytes, seed: int) -> list[bytes]:
    """The content with one bit turned, at random places, and cut at many."""
    draw, found = random.Random(seed), []
    for _ in range(PLACES):
        place = draw.randrange(len(content))
        found.append(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
    return found + [content[: len(content) * cut // 100] for cut in CUTS]


@pytest.mark.parametrize("name", READERS)
def test_a_turned_bit_or_a_cut_is_told_or_changes_nothing(name: str, whole: Path, tmp_path: Path) -> None:
    read, folder = READERS[name], tmp_path / "run"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("previews", "*.previous.pt"))
    intact, content = read(folder), (folder / name).read_bytes()
    said: list[str] = []
    for number, harmed in enumerate(harms(content, seed=len(name) + FAULTS)):
        (folder / name).write_bytes(harmed)
        try:
            found = read(folder)
        except InputError as error:
            said.append(str(error))
        else:
            assert same(found, intact), f"{name}: harm {number} was used silently"
            assert number < PLACES, f"{name}: cut {number - PLACES} was not told"
    assert len(said) > len(CUTS)
    assert not [line for line in said if not re.match(rf"{folder}/\S+: ", line)]


def test_one_damaged_run_costs_one_line_of_the_table(tmp_path: Path) -> None:
    for seed in range(2):
        execute(tiny(seed=seed), tmp_path / f"ce{seed}")
    result = tmp_path / "ce1" / "result.json"
    result.write_text(result.read_text().replace('"mIoU": ', '"mIoU": 4'))
    done = call("table", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{result}: is damaged, it does not hold what was written there" in done.stdout
    for words in (["evaluate", tmp_path / "ce0"], ["predict", tmp_path / "ce0", tmp_path]):
        card = tmp_path / "ce0" / "student.yaml"
        before = card.read_text()
        card.write_text(before.replace("width: 8", "width: 9", 1))
        Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
        harmed = call(*words)
        card.write_text(before)
        assert harmed.returncode == 2
        assert "student.yaml: is damaged" in harmed.stderr


# ------------------------------------------------------------------------------------------------------- going on, whose


def cut_off(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    """A run that was killed before its result; its recipe."""
    recipe = tiny(**changes)
    with monkeypatch.context() as patch:
        patch.setattr("students.run._conclude", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
        with pytest.raises(RuntimeError, match="cut"):
            execute(recipe, folder)
    return recipe


def test_a_directory_without_its_name_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = cut_off(tmp_path, monkeypatch)
    (tmp_path / "run.json").rename(tmp_path / "elsewhere")
    for other in (recipe, tiny(seed=5)):
        with pytest.raises(ConfigError, match=r"holds checkpoint\.pt, but no run\.json, so that nobody can tell which run"):
            execute(other, tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "run.json")
    assert execute(recipe, tmp_path)["status"] == "finished"


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = cut_off(tmp_path / "a", monkeypatch)
    cut_off(tmp_path / "b", monkeypatch, seed=1)
    shutil.copy(tmp_path / "b" / "checkpoint.pt", tmp_path / "a" / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"its checkpoint is of the run \w+-s1-\w+, the directory that of \w+-s0-\w+"):
        execute(recipe, tmp_path / "a")


def test_a_checkpoint_that_holds_code_is_called_so(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"step": Evil()}, tmp_path / "checkpoint.pt")
    assert "it holds code, which is never run" in str(told(lambda: checkpoint.load(tmp_path, CPU)))
    assert not (tmp_path / "ran").exists()


def test_data_that_has_changed_between_two_parts_of_a_run_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "mine", ["train/a", "train/b", "train/c", "val/d", "test/e"])
    data = json.loads(folder_config(root).model_dump_json())
    recipe = cut_off(tmp_path / "run", monkeypatch, data=data, schedule={"batch": 2}, run={"absent_classes": "allow"})
    kept = {path: path.read_bytes() for path in root.rglob("*.png")}

    def refused() -> str:
        with pytest.raises(ConfigError, match="the data has changed since this run began") as error:
            execute(recipe, tmp_path / "run")
        return str(error.value)

    for folder in ("images", "masks"):
        (root / folder / "train" / "b.png").unlink()
    assert re.search(r"train was 3 images, names \w+, it is 2 images, names", refused())
    for path, content in kept.items():
        path.write_bytes(content)
    (root / "images" / "val" / "d.png").rename(root / "images" / "val" / "z.png")
    (root / "masks" / "val" / "d.png").rename(root / "masks" / "val" / "z.png")
    assert "val was 1 images" in refused()
    for place in ("images", "masks"):
        (root / place / "val" / "z.png").unlink()
    for path, content in kept.items():
        path.write_bytes(content)
    Image.effect_noise((16, 12), 50).convert("RGB").save(root / "images" / "train" / "a.png")  # mended, say
    assert execute(recipe, tmp_path / "run")["status"] == "finished"
    assert "WARNING: " in (said := capsys.readouterr().err)
    assert "files of train have other sizes than when this run began" in said


def test_data_may_be_mended_before_the_first_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "mine", ["train/a", "train/b", "train/c", "val/d", "test/e"])
    data = json.loads(folder_config(root).model_dump_json())
    recipe = tiny(data=data, schedule={"batch": 2}, run={"absent_classes": "allow"})
    with monkeypatch.context() as patch:
        patch.setattr("students.trainer.Trainer.fit", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
        with pytest.raises(RuntimeError, match="cut"):
            execute(recipe, tmp_path / "run")
    before = read_sealed(tmp_path / "run" / "run.json")
    for folder in ("images", "masks"):
        (root / folder / "train" / "b.png").unlink()
    assert execute(recipe, tmp_path / "run")["status"] == "finished"
    after = read_sealed(tmp_path / "run" / "run.json")
    assert (before["id"], before["data"]["train"][:8], after["data"]["train"][:8]) == (after["id"], "3 images", "2 images")


# ---------------------------------------------------------------------------------------------------- caches and stores


def test_a_turned_bit_in_a_store_is_told(tmp_path: Path) -> None:
    config = folder_config(pictures(tmp_path / "mine", ["train/a", "train/b"]))
    store(config, tmp_path / "store", ["train"])
    stored = open_split(config.model_copy(update={"store": str(tmp_path / "store")}), "train")
    (path,) = (tmp_path / "store" / "train").glob("b.*")
    content = path.read_bytes()
    intact = stored.read(1)
    for harmed in harms(content, 0):
        path.write_bytes(harmed)
        again = open_split(config.model_copy(update={"store": str(tmp_path / "store")}), "train")
        assert f"{path}: cannot be read" in str(told(lambda data=again: data.read(1)))
    path.write_bytes(content[:-4])  # as stores once were
    assert all(torch.equal(*pair) for pair in zip(stored.read(1), intact, strict=True))


def test_a_turned_bit_in_a_cache_is_told(tmp_path: Path) -> None:
    codes = {"logits": torch.randint(0, 256, (1, 3, 8, 9), dtype=torch.uint8)}
    soft_labels.save(tmp_path, "a", "crops", codes, (8, 9), torch.zeros(1))
    path = tmp_path / "a.safetensors"
    content = path.read_bytes()
    for harmed in harms(content, 1):
        path.write_bytes(harmed)
        try:
            found, _ = soft_labels.read(tmp_path, "a", "crops", 0, ["logits"])
        except InputError:
            continue
        assert torch.equal(found["logits"], codes["logits"][0])


# ---------------------------------------------------------------------------------------------------------------- verify


def test_verify_looks_at_everything(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "runs" / "a")
    done = call("verify", tmp_path / "runs")
    assert (done.returncode, done.stderr) == (0, "")
    names = {path.name for path in files_below([tmp_path / "runs"])}
    assert names == {*READERS, "best.safetensors", "best.yaml", "checkpoint.previous.pt"}
    assert done.stdout == f"{len(names)} files are as they were written; 0 are damaged\n"
    for name in names:
        path = tmp_path / "runs" / "a" / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert any(name in line for line in verify(files_below([tmp_path / "runs"])).damaged), name
        path.write_bytes(content)
    (tmp_path / "runs" / "a" / "checkpoint.pt").write_bytes(b"")
    done = call("verify", tmp_path / "runs", "--json", tmp_path / "verdict.json")
    assert done.returncode == 2
    assert "checkpoint.pt: cannot be read" in done.stdout
    assert done.stderr == "error: 1 files are damaged, see above\n"
    assert len(json.loads((tmp_path / "verdict.json").read_text())["damaged"]) == 1


def test_verify_tells_what_was_written_before_there_were_digests(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "a")
    save_file(load_file(whole / "student.safetensors"), tmp_path / "a" / "student.safetensors")
    assert verify(files_below([tmp_path])).unsealed == [tmp_path / "a" / "student.safetensors"]
    done = call("verify", tmp_path)
    assert "1 of them written before files carried a digest" in done.stdout
    assert "does not exist" in call("verify", tmp_path / "nowhere").stderr
    (tmp_path / "empty").mkdir()
    assert "holds no file of a run, a sweep or a cache" in call("verify", tmp_path / "empty").stderr
