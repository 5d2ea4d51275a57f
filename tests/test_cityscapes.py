"""Cityscapes: layout, label ids, the secret test split, incomplete copies; and what its server is sent."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_official import FRAMES, SIZE, cityscapes, label_ids, opened, save
from PIL import Image
from test_data import told

from kd.config import ConfigError, InputError
from kd.data.cityscapes import LABEL_IDS, TRAIN_IDS, Cityscapes, frame
from kd.data.dataset import LabelError
from kd.data.loader import whole_batches
from kd.data.reading import BrokenFileError
from kd.data.submission import write_submission, zip_submission
from kd.data.voc import VOC
from kd.types import IGNORE

EVALUATED = {7: "road", 8: "sidewalk", 11: "building", 17: "pole", 26: "car", 28: "bus", 31: "train", 33: "bicycle"}


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_and_labels_are_read_by_city(tmp_path: Path, split: str) -> None:
    data = opened("cityscapes", cityscapes(tmp_path), split)
    assert [data.identity(index) for index in range(len(data))] == FRAMES[split]
    for index in range(len(data)):
        image, labels = data.read(index)
        assert image.shape == (3, *SIZE)
        assert labels.dtype == torch.uint8
        assert (labels.numpy() == TRAIN_IDS[label_ids(index)]).all()
        assert set(labels.unique().tolist()) == {*range(19), IGNORE}


def test_the_table_maps_official_ids_to_train_ids() -> None:
    assert len(Cityscapes.classes) == len(Cityscapes.colours) == len(LABEL_IDS) == 19
    for number, name in EVALUATED.items():
        assert Cityscapes.classes[TRAIN_IDS[number]] == name
    ignored = [*range(7), 9, 10, 14, 15, 16, 18, 29, 30, 255]
    assert (TRAIN_IDS[ignored] == IGNORE).all()
    assert Cityscapes.colours[Cityscapes.classes.index("car")] == (0, 0, 142)


def test_ids_of_16_bits_are_read_where_they_fit(tmp_path: Path) -> None:
    city = cityscapes(tmp_path) / "gtFine/val/frankfurt/frankfurt_000000_000294_gtFine_labelIds.png"
    Image.fromarray(label_ids().astype(np.uint16)).save(city)
    assert (opened("cityscapes", tmp_path, "val").read(0)[1].numpy() == TRAIN_IDS[label_ids()]).all()


def test_an_unofficial_id_is_told_with_file_and_value(tmp_path: Path) -> None:
    path = cityscapes(tmp_path) / "gtFine/val/munster/munster_000173_000019_gtFine_labelIds.png"
    wrong = label_ids()
    wrong[0, :3] = 34
    save(Image.fromarray(wrong), path)
    error = told(lambda: opened("cityscapes", tmp_path, "val").read(1))
    assert type(error) is LabelError
    assert str(error).startswith(f"{path}: 3 pixels hold label id 34; official ids are 0..33, or 255")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (np.zeros((SIZE[0], SIZE[1] + 2), np.uint8), "is 24x34, its image 24x32"),
        (np.zeros((*SIZE, 3), np.uint8), "is a RGB image; a label map has one channel"),
    ],
)
def test_other_sizes_and_painted_labels_are_refused(tmp_path: Path, spoil: np.ndarray, message: str) -> None:
    path = cityscapes(tmp_path) / "gtFine/val/munster/munster_000173_000019_gtFine_labelIds.png"
    save(Image.fromarray(spoil), path)
    error = told(lambda: list(whole_batches(opened("cityscapes", tmp_path, "val"), workers=1)))
    assert type(error) is BrokenFileError
    assert str(error).startswith(f"{path}: {message}")


def test_upper_case_suffixes_and_foreign_files(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    for path in [*tmp_path.glob("leftImg8bit/val/*/*.png"), *tmp_path.glob("gtFine/val/*/*labelIds.png")]:
        path.rename(path.with_suffix(".PNG"))
    munster = tmp_path / "leftImg8bit/val/munster"
    (munster / "Thumbs.db").touch()
    (munster / "._munster_000173_000019_leftImg8bit.png").touch()
    (munster / "munster_000173_000019_rightImg8bit.png").touch()
    data = opened("cityscapes", tmp_path, "val")
    assert [data.identity(index) for index in range(len(data))] == FRAMES["val"]


def test_test_can_be_predicted_but_not_scored(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    message = r"split 'test' has no labels, or secret ones, .* evaluate train or val\. .* unlabelled.splits=\[test\]"
    with pytest.raises(ConfigError, match=message):
        opened("cityscapes", tmp_path, "test")
    config = Cityscapes.Config(name="cityscapes", root=str(tmp_path), count="any")
    for path in tmp_path.glob("gtFine/test/*/*"):
        path.unlink()  # not even needed
    data = Cityscapes(config, "test")
    assert [data.identity(index) for index in range(len(data))] == FRAMES["test"]
    image, labels = data.read(0)
    assert image.shape == (3, *SIZE)
    assert labels.unique().tolist() == [IGNORE]
    assert "test" not in Cityscapes.offers(config)


def test_an_incomplete_copy_is_refused_unless_wanted(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    with pytest.raises(ConfigError, match=r"split 'val' has 2 images, the published data set 500; .* data\.count=any"):
        opened("cityscapes", tmp_path, "val", count="official")
    assert opened("cityscapes", tmp_path, "val", resize=(12, 16)).read(0)[0].shape == (3, 12, 16)


def test_missing_partners_and_empty_splits(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    (tmp_path / "gtFine/val/munster/munster_000173_000019_gtFine_labelIds.png").unlink()
    place = re.escape(str(tmp_path / "gtFine/val"))
    with pytest.raises(
        ConfigError, match=f"{place}: 1 of 2 images have no label map, first munster_000173_000019_gtFine_labelIds"
    ):
        opened("cityscapes", tmp_path, "val")
    for path in tmp_path.glob("leftImg8bit/train/*/*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"leftImg8bit/train: holds no CITY.*`kd prepare cityscapes`"):
        opened("cityscapes", tmp_path, "train")


# --- submission


def test_a_submission_holds_label_ids_at_full_size_in_a_flat_zip(tmp_path: Path) -> None:
    labels = torch.arange(1024 * 2048).reshape(1024, 2048) % 19
    names = ["leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png", "bonn_000001_000019"]
    files = [write_submission(Cityscapes, labels, name, tmp_path / "out") for name in names]
    assert [file.name for file in files] == ["berlin_000000_000019_labelIds.png", "bonn_000001_000019_labelIds.png"]
    stored = np.array(Image.open(files[0]))
    assert stored.dtype == np.uint8
    assert (np.array(TRAIN_IDS)[stored] == labels.numpy()).all()
    assert set(np.unique(stored)) == set(LABEL_IDS)
    assert zip_submission(tmp_path / "out", tmp_path / "cityscapes.zip") == 2
    with zipfile.ZipFile(tmp_path / "cityscapes.zip") as archive:
        assert archive.namelist() == [file.name for file in files]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "cityscapes.zip"}


def test_what_the_server_would_refuse_is_refused_here(tmp_path: Path) -> None:
    fit = torch.zeros(1024, 2048, dtype=torch.uint8)
    name = "berlin_000000_000019_leftImg8bit.png"
    with pytest.raises(InputError, match=r"the prediction is 512 x 1024, the server compares 1024 x 2048"):
        write_submission(Cityscapes, fit[::2, ::2], name, tmp_path)
    with pytest.raises(InputError, match=r"the prediction holds 255; it must hold class numbers 0\.\.18"):
        write_submission(Cityscapes, fit.fill_(IGNORE), name, tmp_path)
    with pytest.raises(InputError, match=r"holiday\.png: is no name of a Cityscapes image"):
        write_submission(Cityscapes, fit, "holiday.png", tmp_path)
    with pytest.raises(InputError, match="VOC has no evaluation server"):
        write_submission(VOC, fit, name, tmp_path)
    with pytest.raises(InputError, match="holds no prediction"):
        zip_submission(tmp_path, tmp_path / "empty.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["berlin", "berlin_0_x", "a_b_c_d", "berlin_000000_000019_gtFine_color.png"])
def test_foreign_names(name: str) -> None:
    with pytest.raises(InputError, match="is no name of a Cityscapes image"):
        frame(name)
