"""CamVid on files as they come: formats, lists and damage; every error is one line that names the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import told

from kd.config import ConfigError, InputError, validate
from kd.data.augment import Augmentation
from kd.data.build import open_split
from kd.data.camvid import CamVid
from kd.data.dataset import LabelError
from kd.data.loader import training_batches, whole_batches
from kd.data.reading import BrokenFileError
from kd.types import IGNORE

STEMS = ("0001TP_01", "0016E5_02", "Seq05VD_03")
SIZE = (24, 32)


def picture(stem: str) -> np.ndarray:
    """A smooth image, so that JPEG keeps it nearly."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows * 5, columns * 5, rows + columns + STEMS.index(stem) * 20], -1).astype(np.uint8)


def annotation(stem: str) -> np.ndarray:
    """All labels, void included."""
    return ((np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) // 5 + STEMS.index(stem)) % 12).astype(np.uint8)


def build(root: Path, suffix: str = ".png", mode: str = "L", lines: str | None = None) -> Path:
    """The layout with one split, ``val``."""
    for folder in ("val", "valannot"):
        (root / folder).mkdir(parents=True)
    for stem in STEMS:
        Image.fromarray(picture(stem)).save(root / "val" / f"{stem}{suffix}", quality=95)
        labels = Image.fromarray(annotation(stem))
        if mode == "P":
            labels = labels.convert("P")
            labels.putdata(annotation(stem).flatten().tolist())
            labels.putpalette([200 - 3 * value for value in range(12) for _ in range(3)])
        labels.save(root / "valannot" / f"{stem}.png")
    (root / "val.txt").write_bytes(("\n".join(STEMS) + "\n" if lines is None else lines).encode())
    return root


def opened(root: Path | None, **knobs: Any) -> CamVid:
    values = {"name": "camvid", "root": None if root is None else str(root), **knobs}
    return open_split(CamVid.Config.model_validate(values), "val")  # type: ignore[return-value]


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 12), (".JPEG", 12)])
def test_images_and_labels_are_read_as_they_are(tmp_path: Path, suffix: str, tolerance: int, mode: str) -> None:
    data = opened(build(tmp_path, suffix, mode))
    assert Image.open(tmp_path / "valannot" / f"{STEMS[0]}.png").mode == mode
    assert [data.identity(index) for index in range(len(data))] == list(STEMS)
    for index, stem in enumerate(STEMS):
        image, labels = data.read(index)
        assert image.dtype == labels.dtype == torch.uint8
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - picture(stem)).max() <= tolerance
        expected = np.where(annotation(stem) == 11, IGNORE, annotation(stem))
        assert (labels.numpy() == expected).all()


@pytest.mark.parametrize("form", ["{}", "{}.png", "/SegNet/CamVid/val/{}.png /SegNet/CamVid/valannot/{}.png", "  val/{}.jpg  "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\r\n \t\r\n"])
def test_lists_with_paths_blank_lines_and_foreign_line_ends(tmp_path: Path, form: str, end: str) -> None:
    data = opened(build(tmp_path, lines=end.join(form.format(stem, stem) for stem in reversed(STEMS)) + end))
    assert [data.identity(index) for index in range(len(data))] == list(reversed(STEMS))
    assert data.read(0)[0][2, 0, 0] == 40  # the third picture


@pytest.mark.parametrize("size", [[0, 16], [12, -1]])
def test_resize_needs_a_size(tmp_path: Path, size: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"resize\.[01]: is (0|-1); input should be greater than 0"):
        validate(CamVid.Config, {"name": "camvid", "resize": size})


@pytest.mark.parametrize("size", [(12, 16), (7, 50)])
def test_resize_gives_the_size_and_mixes_no_labels(tmp_path: Path, size: tuple[int, int]) -> None:
    build(tmp_path)
    image, labels = opened(tmp_path, resize=size).read(0)
    assert image.shape == (3, *size)
    assert labels.shape == size
    assert set(labels.unique().tolist()) <= {*range(11), IGNORE}
    same = opened(tmp_path, resize=SIZE).read(0)
    assert torch.equal(same[0], opened(tmp_path).read(0)[0])


def test_the_root_comes_from_the_recipe_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KD_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"data.root: is not set; .*\$KD_DATA/camvid"):
        opened(None)
    monkeypatch.setenv("KD_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'camvid'} (from $KD_DATA) is no directory")):
        opened(None)
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / 'gone'} (from data.root) is no directory")):
        opened(tmp_path / "gone")
    build(tmp_path / "camvid")
    assert len(opened(None)) == 3
    build(tmp_path / "home" / "own")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert opened(Path("~/own")).root == tmp_path / "home" / "own"  # the recipe wins


# --- what is missing


def unlist(root: Path) -> None:
    (root / "val.txt").rename(root / "dev.txt")


def empty(root: Path) -> None:
    (root / "val.txt").write_text("\n  \r\n")


def lose_images(root: Path) -> None:
    for stem in STEMS[1:]:
        (root / "val" / f"{stem}.png").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (unlist, "{root}/val.txt: is missing; CamVid lists its splits in such files (found: dev)"),
        (empty, "{root}/val.txt: is empty; it must hold one image name a line"),
        (lose_images, "{root}/val: 2 listed images are missing, first 0016E5_02 (.png or .jpg); is the copy complete?"),
    ],
)
def test_a_missing_list_or_image_is_told_when_the_split_is_opened(tmp_path: Path, harm: Callable, message: str) -> None:
    harm(build(tmp_path))
    with pytest.raises(ConfigError) as failure:
        opened(tmp_path)
    assert str(failure.value) == message.format(root=tmp_path)


# --- what is damaged: found when read, in this process or in a worker of the loader


def save(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(array).save(path)


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * share)])


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def patch(before: bytes, offset: int, new: bytes) -> Callable[[Path], None]:
    """Overwrite bytes at an offset behind the first occurrence of others."""

    def harm(path: Path) -> None:
        content = bytearray(path.read_bytes())
        start = content.index(before) + offset
        content[start : start + len(new)] = new
        path.write_bytes(bytes(content))

    return harm


LABELS, PNG, JPEG = "valannot/{}.png", "val/{}.png", "val/{}.jpg"
COLOURS, DEEP = np.zeros((*SIZE, 3), np.uint8), np.full(SIZE, 300, np.uint16)
DAMAGE = {
    "label missing": (LABELS, Path.unlink, BrokenFileError, "does not exist"),
    "label 12": (
        LABELS,
        save(np.full(SIZE, 12, np.uint8)),
        LabelError,
        "768 pixels hold label 12; labels must be 0..10",
    ),
    "labels in colour": (LABELS, save(COLOURS), BrokenFileError, "is a RGB image; a label map has one channel"),
    "labels of 16 bits": (LABELS, save(DEEP), BrokenFileError, "768 pixels hold values beyond 0..255, first 300"),
    "label cut": (LABELS, cut(0.6), BrokenFileError, "cannot be decoded"),
    "PNG cut": (PNG, cut(0.5), BrokenFileError, "cannot be decoded"),
    "JPEG cut": (JPEG, cut(0.9), BrokenFileError, "cannot be decoded .*image file is truncated"),
    "empty": (PNG, write(b""), BrokenFileError, "cannot be decoded"),
    "no image": (JPEG, write(b"<html>not found</html>"), BrokenFileError, "cannot be decoded"),
    "PNG with a broken checksum": (PNG, patch(b"IDAT", 8, b"\0\0\0\0"), BrokenFileError, "cannot be decoded"),
    "PNG with a short header": (PNG, patch(b"IHDR", -4, b"\0\0\0\5"), BrokenFileError, "cannot be decoded"),
    "JPEG of 4 gigapixels": (
        JPEG,
        patch(b"\xff\xc0", 5, b"\xff\xff\xff\xff"),
        BrokenFileError,
        "has 65535 x 65535 pixels, more than the",
    ),
}


def check(error: InputError, kind: str, path: Path) -> None:
    _, _, expected, message = DAMAGE[kind]
    text = str(error)
    assert type(error) is expected
    assert text.startswith(f"{path}: ")
    assert re.search(message, text)
    assert "\n" not in text
    assert "Traceback" not in text


def harmed(root: Path, kind: str) -> Path:
    """The data set with its second sample damaged; returns the file."""
    place, harm, *_ = DAMAGE[kind]
    build(root, ".jpg" if place == JPEG else ".png")
    path = root / place.format(STEMS[1])
    harm(path)
    return path


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_told_in_one_line_that_names_the_file(tmp_path: Path, kind: str) -> None:
    path = harmed(tmp_path, kind)
    check(told(lambda: opened(tmp_path).read(1)), kind, path)


@pytest.mark.parametrize("kind", ["label missing", "label 12", "labels in colour", "PNG cut", "JPEG cut"])
def test_the_line_is_as_clean_from_a_worker_of_the_loader(tmp_path: Path, kind: str) -> None:
    path, crop = harmed(tmp_path, kind), Augmentation(crop=(16, 16))
    data = opened(tmp_path)
    check(told(lambda: list(whole_batches(data, workers=1))), kind, path)
    check(told(lambda: list(training_batches(data, crop, seed=0, batch=3, first=0, last=1, workers=1))), kind, path)


def test_a_label_map_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    save(np.zeros((SIZE[0], SIZE[1] + 8), np.uint8))(tmp_path / LABELS.format(STEMS[1]))
    with pytest.raises(InputError, match=STEMS[1]):
        opened(tmp_path).read(1)


@pytest.mark.parametrize("batch", [1, 2])
def test_images_of_mixed_size_are_evaluated_one_by_one(tmp_path: Path, batch: int) -> None:
    build(tmp_path)
    save(np.zeros((30, 20, 3), np.uint8))(tmp_path / PNG.format(STEMS[1]))
    save(np.zeros((30, 20), np.uint8))(tmp_path / LABELS.format(STEMS[1]))
    loader = whole_batches(opened(tmp_path), batch=batch)
    if batch == 1:
        assert [tuple(part.target.shape) for part in loader] == [(1, *SIZE), (1, 30, 20), (1, *SIZE)]
        return
    with pytest.raises(ConfigError, match=r"images differ in size \(24x32, 30x20\); set evaluation.batch=1"):
        list(loader)
