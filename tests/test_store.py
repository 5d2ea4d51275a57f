"""A store of decoded samples changes no byte of a batch, is refused where it is stale, and is whole or not there."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_official import camvid, cityscapes, deepglobe, voc
from helpers_tools import call
from PIL import Image
from test_data import content, told
from tiny import tiny

from kd.config import ConfigError, InputError
from kd.data.augment import Augmentation
from kd.data.build import open_split
from kd.data.loader import training_batches, whole_batches
from kd.data.reading import read_image
from kd.data.store import writing
from kd.data.store.stored import Stored
from kd.data.store.writing import store
from kd.lookup import configured
from kd.recipe.schema import fingerprint
from kd.results.differences import differing

COUNT, SIZE = 5, (40, 56)
KNOBS = {"name": "folder", "classes": ["a", "b", "c"], "portions": {"train": 0.6, "val": 0.4}}
OFFICIAL: dict[str, tuple[Any, dict[str, Any]]] = {
    "camvid": (camvid, {"resize": [20, 30]}),
    "cityscapes": (cityscapes, {"count": "any"}),
    "deepglobe": (deepglobe, {"count": "any"}),
    "voc": (voc, {"count": "any", "train": "official"}),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photos and masks, one of another size, one a JPEG."""
    folder, draw = tmp_path / "data", np.random.default_rng(0)
    for number in range(COUNT):
        height, width = SIZE if number else (33, 71)
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(draw.integers(0, 256, (height, width, 3)).astype(np.uint8))
        photo.save(folder / "images" / f"{number}.{'jpg' if number == 2 else 'png'}")
        Image.fromarray(draw.integers(0, 3, (height, width)).astype(np.uint8)).save(folder / "masks" / f"{number}.png")
    return folder


def config(root: Path, **knobs: Any) -> Any:
    return configured({**KNOBS, "root": str(root), **knobs}, "kd.data", "Dataset", "data")


def batches(given: Any, **knobs: Any) -> list:
    crops = Augmentation.model_validate({"crop": (24, 32), "photometric": 0.2, **knobs.pop("augmentation", {})})
    return list(training_batches(open_split(given, "train"), crops, **{"seed": 1, "batch": 4, "first": 0, "last": 4, **knobs}))


@pytest.mark.parametrize("resize", ["opencv", "antialiased"])
@pytest.mark.parametrize("spread", [{}, {"workers": 2}, {"rank": 1, "world": 2}])
def test_batches_are_the_same_bit_for_bit(root: Path, tmp_path: Path, resize: str, spread: dict[str, int]) -> None:
    store(config(root), tmp_path / "store")
    cut = {"augmentation": {"resize": resize}, **spread}
    stored = config(root, store=str(tmp_path / "store"))
    assert isinstance(open_split(stored, "train"), Stored)
    assert content(batches(stored, **cut)) == content(batches(config(root), **cut))
    whole = [content(list(whole_batches(open_split(given, "val")))) for given in (stored, config(root))]
    assert whole[0] == whole[1]


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_data_set_of_files_can_be_stored(tmp_path: Path, name: str) -> None:
    build, knobs = OFFICIAL[name]
    build(tmp_path / "data")
    given = configured({"name": name, "root": str(tmp_path / "data"), **knobs}, "kd.data", "Dataset", "data")
    store(given, tmp_path / "store", ["train"], workers=1)
    plain = open_split(given, "train")
    given = given.model_copy(update={"store": str(tmp_path / "store")})
    stored = pickle.loads(pickle.dumps(open_split(given, "train")))  # as a worker that is spawned gets it
    assert isinstance(stored, Stored)
    for index in range(len(plain)):
        assert stored.identity(index) == plain.identity(index)
        for one, other in zip(stored.read(index), plain.read(index), strict=True):
            assert torch.equal(one, other)
    assert not isinstance(open_split(given, "val"), Stored)  # what is not stored is read from its files


def test_what_is_read_is_nobodys_else(root: Path, tmp_path: Path) -> None:
    store(config(root), tmp_path / "store")
    data = open_split(config(root, store=str(tmp_path / "store")), "train")
    before = data.read(0)[0].clone()
    data.read(0)[0].zero_()
    assert torch.equal(data.read(0)[0], before)


def test_a_store_is_no_part_of_what_a_run_is(root: Path) -> None:
    one, other = (tiny(data={**KNOBS, "root": str(root), "store": place}) for place in (None, "there"))
    assert fingerprint(one) == fingerprint(other)
    assert not differing(one.model_dump(), other.model_dump(), ("data",))


@pytest.mark.parametrize("change", ["image", "mask", "time", "more"])
def test_a_stale_store_is_refused_and_brought_up_to_date(root: Path, tmp_path: Path, change: str) -> None:
    given, folder = config(root, portions={"train": 1.0}), tmp_path / "store"
    store(given, folder)
    stored = given.model_copy(update={"store": str(folder)})
    if change == "image":
        Image.new("RGB", (SIZE[1], SIZE[0])).save(root / "images" / "1.png")
    elif change == "mask":
        Image.new("L", (SIZE[1], SIZE[0])).save(root / "masks" / "1.png")
    elif change == "time":
        os.utime(root / "images" / "1.png", (1, 1))
    else:
        for part in ("images", "masks"):
            shutil.copy(root / part / "1.png", root / part / "9.png")
    told_ = str(told(lambda: open_split(stored, "train")))
    assert "1 of" in told_
    assert f"first {9 if change == 'more' else 1}" in told_
    assert "kd prepare RECIPE --store" in told_
    assert "data.store=null" in told_
    store(given, folder)
    assert content(batches(stored)) == content(batches(given))
    assert len(list((folder / "train").iterdir())) == len(open_split(given, "train"))  # nothing old is left


def test_a_store_of_other_data_is_refused(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store(config(root), folder)
    other = config(root, resize=[20, 30], store=str(folder))
    with pytest.raises(ConfigError, match=r"is of other data \(data.resize None instead of \[20, 30\]\)"):
        open_split(other, "train")
    assert isinstance(open_split(config(root, unlabelled="photos", store=str(folder)), "train"), Stored)
    with pytest.raises(InputError, match=r"holds a store of other data .*give --store another folder"):
        store(other, folder)
    with pytest.raises(ConfigError, match="holds no store; `kd prepare RECIPE --store"):
        open_split(config(root, store=str(tmp_path / "typo")), "train")
    with pytest.raises(InputError, match="is no store; give --store a new folder"):
        store(config(root), root)
    with pytest.raises(ConfigError, match="reads no files"):
        store(tiny().data, folder)


def test_a_store_that_the_code_no_longer_agrees_with_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(config(root), tmp_path / "store")
    monkeypatch.setattr("kd.data.band_files.read_image", lambda path: 255 - read_image(path))
    with pytest.raises(ConfigError, match=r"is stale: . is read otherwise today"):
        open_split(config(root, store=str(tmp_path / "store")), "train")


def test_storing_goes_on_where_it_was_stopped(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, folder, seen = config(root, portions={"train": 1.0}), tmp_path / "store", []
    write = writing.write_sample

    def stopping(path: Path, **sample: Any) -> None:
        seen.append(path)
        if len(seen) == 3:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, **sample)

    monkeypatch.setattr(writing, "write_sample", stopping)
    with pytest.raises(KeyboardInterrupt):
        store(given, folder)
    with pytest.raises(ConfigError, match="3 of 5 samples of train are not stored"):
        open_split(given.model_copy(update={"store": str(folder)}), "train")
    report = store(given, folder)
    assert "train: 5 samples, 2 of them stored before" in report
    assert len(seen) == 6
    assert content(batches(given.model_copy(update={"store": str(folder)}))) == content(batches(given))


def test_a_full_disk_is_said_in_a_line_and_leaves_nothing_half(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, folder = config(root, portions={"train": 1.0}), tmp_path / "store"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 40_000))
    with pytest.raises(InputError, match=r"needs .* GB, .* GB are free; make room or choose another disk"):
        store(given, folder)
    assert not folder.exists()
    monkeypatch.undo()

    def full(path: Path, **sample: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_sample", full)
        with pytest.raises(InputError, match=r"the disk is full; make room, then the same command goes on") as error:
            store(given, folder)
    assert "\n" not in str(error.value)
    assert not list((folder / "train").iterdir())


def test_a_damaged_sample_is_named(root: Path, tmp_path: Path) -> None:
    store(config(root), tmp_path / "store")
    data = open_split(config(root, store=str(tmp_path / "store")), "train")
    for damage in (b"", b"kd", data.paths[1].read_bytes()[:-1]):
        data.paths[1].write_bytes(damage)
        with pytest.raises(InputError, match=rf"{data.paths[1].name}: cannot be read .* remove it"):
            data.read(1)


def test_a_sample_that_was_cut_off_is_written_anew(root: Path, tmp_path: Path) -> None:
    store(config(root), tmp_path / "store")
    files = sorted((tmp_path / "store" / "train").iterdir())
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(before[0][:100])
    files[1].write_bytes(b"")
    store(config(root), tmp_path / "store")
    assert [file.read_bytes() for file in files] == before


def test_a_broken_picture_is_named_by_the_command(root: Path, tmp_path: Path) -> None:
    words = [
        "folder/r18",
        f"data.root={root}",
        "data.classes=[a, b, c]",
        "data.portions={train: 0.6, val: 0.4}",
        "--store",
        tmp_path / "store",
        "--workers",
        0,
    ]
    done = call("prepare", *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "store").exists()
    done = call("prepare", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"ready: data.store={tmp_path / 'store'}"
    picture = next((root / "images").glob("1.png"))
    picture.write_bytes(picture.read_bytes()[:200])
    done = call("prepare", *words)
    assert done.returncode == 2
    assert str(picture) in done.stderr
    assert "Traceback" not in done.stderr
