"""PASCAL VOC: palette PNGs with white lines, lists, train_aug, and whose labels win."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_official import SBD, VOC_TRAIN, VOC_VAL, opened, save, sbd_labels, voc, voc_labels
from PIL import Image
from test_data import told

from kd.config import ConfigError
from kd.data.dataset import Dataset, LabelError
from kd.data.voc import VOC
from kd.types import IGNORE

AUGMENTED = sorted({*VOC_TRAIN, *SBD} - {*VOC_VAL})


def prepared(root: Path) -> Path:
    """VOC with SegmentationClassAug. Returns VOC2012."""
    home = voc(root) / "VOCdevkit" / "VOC2012"
    for name in SBD:
        save(Image.fromarray(sbd_labels(name)), home / "SegmentationClassAug" / f"{name}.png")
    (home / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("".join(f"{name}\n" for name in AUGMENTED))
    return home


def names(data: Dataset) -> list[str]:
    return [data.identity(index) for index in range(len(data))]


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_roots_and_splits(tmp_path: Path, root: str) -> None:
    prepared(tmp_path)
    assert names(opened("voc", tmp_path / root, "train")) == AUGMENTED
    assert names(opened("voc", tmp_path / root, "train", train="official")) == VOC_TRAIN
    assert names(opened("voc", tmp_path / root, "val")) == VOC_VAL


def test_palette_indices_are_labels_and_lines_are_ignored(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    assert Image.open(home / "SegmentationClass" / f"{VOC_VAL[0]}.png").mode == "P"
    data = opened("voc", home, "val")
    for index in range(len(data)):
        image, labels = data.read(index)  # the second one is in SBD too, whose labels never validate
        assert image.dtype == labels.dtype == torch.uint8
        assert (labels.numpy() == voc_labels()).all()
        assert set(labels.unique().tolist()) == {*range(21), IGNORE}


def test_val_may_have_the_labels_of_sbd(tmp_path: Path) -> None:
    data = opened("voc", home := prepared(tmp_path), "val", val_labels="sbd_first")
    assert names(data) == VOC_VAL
    for index, name in enumerate(VOC_VAL):
        assert (data.read(index)[1].numpy() == (sbd_labels(name) if name in SBD else voc_labels())).all()
    assert 0 < len({*SBD} & {*VOC_VAL}) < len(VOC_VAL)
    for name in {*SBD} & {*VOC_VAL}:
        (home / "SegmentationClassAug" / f"{name}.png").unlink()
    with pytest.raises(
        ConfigError, match=r"data\.val_labels=sbd_first asks for, are missing: none of val lies in .*kd prepare"
    ):
        opened("voc", home, "val", val_labels="sbd_first")


@pytest.mark.parametrize(("knobs", "shared"), [({}, "sbd"), ({"overlap": "voc"}, "voc"), ({"train": "official"}, "voc")])
def test_whose_labels_train(tmp_path: Path, knobs: dict[str, Any], shared: str) -> None:
    data = opened("voc", prepared(tmp_path), "train", **knobs)
    for index, name in enumerate(names(data)):
        own = voc_labels() if name in VOC_TRAIN and (name not in SBD or shared == "voc") else sbd_labels(name)
        assert (data.read(index)[1].numpy() == own).all(), name


def test_official_names_and_colours() -> None:
    assert len(VOC.classes) == len(VOC.colours) == 21
    for number, colour in enumerate(VOC.colours):  # VOC spreads the bits of the number over the channels, highest first
        bits = [sum((number >> (3 * place + channel) & 1) << (7 - place) for place in range(3)) for channel in range(3)]
        assert colour == tuple(bits)
    assert (VOC.classes[0], VOC.classes[11], VOC.classes[20]) == ("background", "diningtable", "tvmonitor")


@pytest.mark.parametrize("form", ["{}", "{}  ", "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png"])
def test_lists_of_other_systems(tmp_path: Path, form: str) -> None:
    home = prepared(tmp_path)
    for file in (home / "ImageSets" / "Segmentation").glob("*.txt"):
        lines = file.read_text().split()
        file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([form.format(line, line) for line in lines] + ["", " \t"]).encode())
    assert names(opened("voc", home, "train")) == AUGMENTED
    assert names(opened("voc", home, "val")) == VOC_VAL


def test_upper_case_suffixes(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    for path in [*home.glob("JPEGImages/*"), *home.glob("Segmentation*/*.png")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    assert opened("voc", home, "train").read(0)[1].shape == opened("voc", home, "val").read(0)[1].shape


@pytest.mark.parametrize(
    ("split", "knobs", "message"),
    [
        ("train", {}, "split 'train' has 4 images, the published data set 10582"),
        ("train", {"train": "official"}, "split 'train' has 2 images, the published data set 1464"),
        ("val", {}, "split 'val' has 2 images, the published data set 1449"),
    ],
)
def test_other_numbers_than_published_are_refused(tmp_path: Path, split: str, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}; .*data.count=any"):
        opened("voc", prepared(tmp_path), split, count="official", **knobs)


def test_val_must_not_leak_into_train(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    (home / "ImageSets" / "Segmentation" / "trainaug.txt").write_text("\n".join([*AUGMENTED, *VOC_VAL]))
    with pytest.raises(ConfigError, match=f"trainaug.txt: holds 2 images of val, first {VOC_VAL[0]}"):
        opened("voc", home, "train")


def test_what_is_missing_is_told_when_the_split_is_opened(tmp_path: Path) -> None:
    home = prepared(tmp_path)
    (home / "SegmentationClassAug" / "2011_003276.png").unlink()
    with pytest.raises(ConfigError, match=r"1 of 4 listed images have no label map .* first 2011_003276\.png"):
        opened("voc", home, "train")
    (home / "JPEGImages" / "2007_000033.jpg").unlink()
    with pytest.raises(ConfigError, match=r"JPEGImages: 1 listed images are missing, first 2007_000033 \(\.jpg\)"):
        opened("voc", home, "val")
    (home / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    with pytest.raises(ConfigError, match=r"trainaug\.txt: is missing; `kd prepare voc` .* data\.train=official"):
        opened("voc", home, "train")
    (home / "ImageSets" / "Segmentation" / "val.txt").write_text(" \r\n")
    with pytest.raises(ConfigError, match=r"val\.txt: is empty"):
        opened("voc", home, "val")
    with pytest.raises(ConfigError, match="holds neither JPEGImages nor VOC2012/JPEGImages"):
        opened("voc", home / "ImageSets", "val")


def test_a_wrong_label_names_the_file(tmp_path: Path) -> None:
    path = prepared(tmp_path) / "SegmentationClass" / f"{VOC_VAL[0]}.png"
    Image.fromarray(np.where(voc_labels() == 3, 21, voc_labels()).astype(np.uint8)).save(path)
    error = told(lambda: opened("voc", tmp_path, "val").read(0))
    assert type(error) is LabelError
    assert re.match(f"{re.escape(str(path))}: \\d+ pixels hold label 21; labels must be 0..20", str(error))


def test_there_is_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="voc has no split 'test'; its splits are train, val"):
        opened("voc", prepared(tmp_path), "test")
