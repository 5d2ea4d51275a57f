"""DeepGlobe Land: colours with noise, every kind of PNG, and the folds of the published comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_official import COLOURS, NUMBERS, SIZE, deepglobe, land, opened, painted, photo, save
from PIL import Image
from test_data import told

from kd.config import ConfigError, validate
from kd.data.dataset import Dataset, LabelError
from kd.data.deepglobe import DeepGlobe
from kd.data.reading import BrokenFileError
from kd.types import IGNORE

BY_NAME = sorted(NUMBERS, key=lambda number: f"{number}_sat.jpg")


def names(data: Dataset) -> list[str]:
    return [data.identity(index) for index in range(len(data))]


def expected(name: str) -> np.ndarray:
    labels = land(NUMBERS.index(name))
    return np.where(labels == 6, IGNORE, labels)


@pytest.mark.parametrize("folder", [".", "train"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_become_labels(tmp_path: Path, split: str, folder: str) -> None:
    data = opened("deepglobe", deepglobe(tmp_path) / folder, split)
    for index, name in enumerate(names(data)):
        image, labels = data.read(index)
        assert image.shape == (3, *SIZE)
        assert (labels.numpy() == expected(name)).all()


def test_the_folds_follow_the_sorted_file_names(tmp_path: Path) -> None:
    deepglobe(tmp_path)
    assert sorted(NUMBERS) != BY_NAME
    assert sorted(NUMBERS, key=int) != BY_NAME
    seen = []
    for fold in range(5):
        val, train = (names(opened("deepglobe", tmp_path, split, fold=fold)) for split in ("val", "train"))
        assert val == BY_NAME[2 * fold : 2 * fold + 2]  # 12 // 5 images; the two left over always train
        assert train == [name for name in BY_NAME if name not in val]
        seen += val
    assert seen == BY_NAME[:10]
    with pytest.raises(ConfigError, match="fold: is 5; input should be less than 5"):
        validate(DeepGlobe.Config, {"name": "deepglobe", "fold": 5})


def test_the_published_folds_have_643_and_160_images(tmp_path: Path) -> None:
    for number in range(803):
        (tmp_path / f"{100694 + 37 * number}_sat.jpg").touch()
        (tmp_path / f"{100694 + 37 * number}_mask.png").touch()
    (tmp_path / "77_sat.png").touch()
    for fold in range(5):
        data = [opened("deepglobe", tmp_path, split, fold=fold, count="official") for split in ("train", "val")]
        assert [len(part) for part in data] == [643, 160]
    assert names(data[1])[0] == str(100694 + 37 * 640)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("noise", [0, 127])
def test_noisy_colours_of_every_kind_of_png(tmp_path: Path, mode: str, noise: int) -> None:
    """Up to 127 away from its colour, each channel still falls on the right side of 128."""
    draw = np.random.default_rng(0).integers(0, noise + 1, (*SIZE, 3))
    colours = painted(land())
    colours = np.where(colours == 255, 255 - draw, draw).astype(np.uint8)
    image = Image.fromarray(colours)
    if mode == "RGBA":
        image.putalpha(Image.fromarray((np.arange(SIZE[0] * SIZE[1]) % 256).reshape(SIZE).astype(np.uint8)))
    elif mode == "P" and noise == 0:
        image = image.quantize(16, dither=Image.Dither.NONE)
        assert image.mode == "P"
    deepglobe(tmp_path)
    save(image, tmp_path / "train" / f"{BY_NAME[0]}_mask.png")
    labels = opened("deepglobe", tmp_path, "val").read(0)[1].numpy()
    assert (labels == np.where(land() == 6, IGNORE, land())).all()


def test_the_threshold_is_128() -> None:
    from kd.data.deepglobe import decode

    colours = np.array([[[127, 128, 128], [128, 128, 127], [127, 127, 127], [128, 128, 128]]], np.uint8)
    assert decode(colours, "x").tolist() == [[0, 1, IGNORE, 5]]


def test_a_few_blended_pixels_are_ignored_many_are_refused(tmp_path: Path) -> None:
    path = deepglobe(tmp_path) / "train" / f"{BY_NAME[0]}_mask.png"
    colours = painted(land())
    colours[0, :4] = (255, 100, 100)  # between yellow and magenta
    save(Image.fromarray(colours), path)
    labels = opened("deepglobe", tmp_path, "val").read(0)[1].numpy()
    assert (labels[0, :4] == IGNORE).all()
    assert (labels[1:] == np.where(land() == 6, IGNORE, land())[1:]).all()
    colours[:2] = (255, 0, 0)
    save(Image.fromarray(colours), path)
    error = told(lambda: opened("deepglobe", tmp_path, "val").read(0))
    assert type(error) is LabelError
    assert str(error).startswith(f"{path}: 64 of 768 pixels are red, the colour of no class")


def test_numbers_instead_of_colours_are_refused(tmp_path: Path) -> None:
    path = deepglobe(tmp_path) / "train" / f"{BY_NAME[0]}_mask.png"
    save(Image.fromarray(np.ascontiguousarray(land())), path)
    with pytest.raises(LabelError, match="holds values up to 6, so class numbers, not colours"):
        opened("deepglobe", tmp_path, "val").read(0)


def test_the_index_map_is_read_where_it_is_there(tmp_path: Path) -> None:
    folder = deepglobe(tmp_path) / "train"
    save(Image.fromarray(np.full(SIZE, 4, np.uint8)), folder / f"{BY_NAME[0]}_index.png")
    data = opened("deepglobe", tmp_path, "val")
    assert data.read(0)[1].unique().tolist() == [4]
    assert (data.read(1)[1].numpy() == expected(BY_NAME[1])).all()
    save(Image.fromarray(np.full(SIZE, 6, np.uint8)), folder / f"{BY_NAME[0]}_index.png")
    with pytest.raises(LabelError, match=r"hold label 6; labels must be 0\.\.5"):
        data.read(0)


def test_upper_case_suffixes(tmp_path: Path) -> None:
    for path in [*deepglobe(tmp_path).glob("train/*")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    data = opened("deepglobe", tmp_path, "val")
    assert names(data) == BY_NAME[:2]
    assert (data.read(0)[1].numpy() == expected(BY_NAME[0])).all()


def test_what_is_missing_or_damaged(tmp_path: Path) -> None:
    folder = deepglobe(tmp_path) / "train"
    with pytest.raises(ConfigError, match=r"has 12 images, the published data set 803; .*data\.count=any"):
        opened("deepglobe", tmp_path, "val", count="official")
    save(photo("x", (10, 10)), folder / f"{BY_NAME[1]}_sat.jpg")
    with pytest.raises(BrokenFileError, match=rf"{BY_NAME[1]}_mask\.png: is 24x32, its image 10x10"):
        opened("deepglobe", tmp_path, "val").read(1)
    (folder / f"{BY_NAME[0]}_mask.png").unlink()
    with pytest.raises(ConfigError, match=f"1 of 2 images have no mask, first {BY_NAME[0]}_mask.png"):
        opened("deepglobe", tmp_path, "val")
    for path in folder.glob("*_sat.jpg"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"holds 0 images ID_sat\.jpg, 5 folds need 5 or more"):
        opened("deepglobe", tmp_path, "val")


def test_colours_are_the_official_ones() -> None:
    assert list(DeepGlobe.colours) == COLOURS[:6]
    assert DeepGlobe.classes == ("urban", "agriculture", "rangeland", "forest", "water", "barren")
