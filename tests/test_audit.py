"""The scan of a data set finds every offence, names it, goes on, and counts well; the tool tells it in its exit code."""

from __future__ import annotations

import json
import math
import re
import string
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers_tools import call
from PIL import Image
from test_folder import CLASSES, MASK, SIZE, config, photo, put, smooth

from kd.config import ConfigError
from kd.data.audit.report import inverse_log, lines, median_frequency, plain, weights
from kd.data.audit.scan import Audit, Offence, audit
from kd.data.build import open_split
from kd.data.camvid import CamVid
from kd.data.shapes import Shapes

ROOT = Path(__file__).parent.parent


def clean(root: Path, train: int = 6, val: int = 2) -> Path:
    """Two splits without a flaw; no two images are equal."""
    for number in range(train + val):
        split = "train" if number < train else "val"
        put(root / "images" / split / f"{number}.png", photo(10 * number % 251))
        put(root / "masks" / split / f"{number}.png", MASK)
    return root


def examined(root: Path, **knobs: Any) -> Audit:
    return audit(config(root), **knobs)


def told(found: Audit) -> list[tuple[str, str]]:
    return [(offence.split, offence.name) for offence in found.offences]


def test_a_clean_data_set_has_no_offence(tmp_path: Path) -> None:
    found = examined(clean(tmp_path), crop=(8, 8))
    assert found.offences == []
    assert found.notes == []
    facts = plain(found)["splits"]["train"]
    assert facts["images"] == 6
    assert facts["sizes"] == {"12x16": 6}
    assert facts["pixels"] == dict.fromkeys(CLASSES, 6 * 64)
    assert facts["images_with"] == dict.fromkeys(CLASSES, 6)
    assert facts["ignored_share"] == 0


def spoil(root: Path) -> None:
    """One of each kind of harm."""
    clean(root, train=10)
    train, masks = root / "images" / "train", root / "masks" / "train"
    (train / "0.png").write_bytes(b"<html>")
    wrong = MASK.copy()
    wrong[:2] = 9
    put(masks / "1.png", wrong)
    put(masks / "2.png", MASK[:4])
    (masks / "3.png").unlink()
    put(masks / "alone.png", MASK)
    (masks / "4.png").unlink()
    put(masks / "4.jpg", MASK)
    put(root / "images" / "val" / "10.png", photo(50))  # the image of train/5


def test_the_scan_goes_on_and_tells_every_offence(tmp_path: Path) -> None:
    spoil(tmp_path)
    found = examined(tmp_path)
    assert told(found) == [
        ("train", "3.png"),
        ("train", "alone.png"),
        ("train", "0"),
        ("train", "1"),
        ("train", "2"),
        ("train", "4"),
        ("val", "10"),
    ]
    messages = [offence.message for offence in found.offences]
    for message, part in zip(
        messages,
        [
            "images/train/3.png: is an image without a mask",
            "masks/train/alone.png: is a mask without an image",
            "images/train/0.png: cannot be decoded",
            "masks/train/1.png: holds the value 9 (32 pixels)",
            "masks/train/2.png: is 4x16, its image 12x16",
            "masks/train/4.jpg: is a JPEG",
            "10: is the same image as 5 of train; leave it in one split",
        ],
        strict=True,
    ):
        assert part in message
    assert plain(found)["splits"]["train"]["images"] == 5
    text = "\n".join(lines(found))
    assert "To mend (7):" in text
    assert all(message in text for message in messages)


def test_orphans_of_a_folder_that_is_cut_are_told_once_with_the_remedy(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / "images" / f"{number}.png", photo(10 * number))
        put(tmp_path / "masks" / f"{number}_label.png", MASK)
    with pytest.raises(ConfigError, match=r"^[^\n]*20 images without a mask[^\n]*set data.mask_suffix=_label[^\n]*$"):
        examined(tmp_path)
    (tmp_path / "masks" / "7_label.png").unlink()
    found = audit(config(tmp_path, mask_suffix="_label"))
    assert told(found) == [("train", "7.png")]
    assert len(found.notes) == 1
    assert "1 images without a mask, first 7.png. Complete them" in found.notes[0]
    assert sum(len(samples) for samples in found.samples.values()) == 19


def test_processes_change_nothing(tmp_path: Path) -> None:
    spoil(tmp_path)
    serial, parallel = (plain(examined(tmp_path, workers=workers)) for workers in (0, 2))
    assert serial == parallel
    assert json.loads(json.dumps(serial, allow_nan=False)) == serial


def test_offences_of_one_cause_are_one_line(tmp_path: Path) -> None:
    clean(tmp_path, train=30)
    for number in range(25):
        put(tmp_path / "masks" / "train" / f"{number}.png", np.full(SIZE, 9, np.uint8))
    found = examined(tmp_path)
    text = lines(found)
    assert len(plain(found)["offences"]) == 25
    assert sum("holds the value 9" in line for line in text) == 1
    assert "To mend (25):" in text
    assert text[-1].startswith(f"  [train] {tmp_path}/masks/train/0.png: holds the value 9 (192 pixels)")
    assert text[-1].endswith(" (24 more like it: 1, 10, 11, 12, ...)")


def test_only_the_first_causes_are_shown() -> None:
    found = Audit(offences=[Offence("train", letter, f"{letter}: is {letter}") for letter in string.ascii_lowercase])
    text = lines(found)
    assert sum(line.startswith("  [train]") for line in text) == 20
    assert text[-1] == "  ... and 6 more (--json FILE holds all)"


def test_what_the_files_are_is_counted(tmp_path: Path) -> None:
    clean(tmp_path, train=4)
    folder = tmp_path / "images" / "train"
    exif = Image.Exif()
    exif[0x0112] = 3
    put(folder / "0.jpg", photo(7), exif=exif)
    (folder / "0.png").unlink()
    put(folder / "1.png", Image.fromarray(np.zeros(SIZE, np.uint16)))
    painted(tmp_path / "masks" / "train" / "2.png", [0, 1, 2])
    found = examined(tmp_path, splits=["train"])
    facts = plain(found)
    assert facts["files"]["images"] == {"PNG RGB": 2, "JPEG RGB": 1, "PNG grey, 16 bits": 1}
    assert facts["files"]["masks"] == {"PNG grey": 3, "PNG palette": 1}
    assert facts["turned_by_exif"] == {"3": 1}
    text = lines(found)
    assert "images: 2 PNG RGB; 1 JPEG RGB; 1 PNG grey, 16 bits" in text
    assert "EXIF turns 1 images; they are read upright, as viewers show them, and masks must fit them so" in text


def test_splits_that_cannot_be_opened_are_offences_and_others_are_scanned(tmp_path: Path) -> None:
    clean(tmp_path)
    for path in (tmp_path / "images" / "val").iterdir():
        path.unlink()
    for path in (tmp_path / "masks" / "val").iterdir():
        path.unlink()
    found = examined(tmp_path)
    assert told(found) == [("val", "val")]
    assert "holds no image" in found.offences[0].message
    assert list(found.samples) == ["train"]
    with pytest.raises(ConfigError, match="there is no split 'dev'; the splits of folder are train, val"):
        examined(tmp_path, splits=["dev"])
    assert list(examined(tmp_path, splits=["train"]).samples) == ["train"]


def test_binary_masks_whose_255_is_ignored_by_mistake_are_noticed(tmp_path: Path) -> None:
    clean(tmp_path)
    for path in (tmp_path / "masks" / "train").iterdir():
        put(path, np.where(MASK == 0, 255, 0).astype(np.uint8))
    found = audit(config(tmp_path, classes=["background", "crack"]), splits=["train"])
    assert told(found) == [("train", "crack")]
    assert "no pixel of train has this class" in found.offences[0].message
    assert "(33% of all pixels are ignored)" in found.offences[0].message
    assert found.offences[0].message.endswith("where 255 means crack, say 'data.classes={0: background, 255: crack}'")


def painted(path: Path, order: list[int]) -> None:
    """A palette mask whose numbers are those of ``order``, so that its colours show ``MASK``."""
    colours = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    numbers = np.argsort(order)[MASK].astype(np.uint8)
    image = Image.fromarray(numbers)
    image.putpalette(colours[order].flatten().tolist())
    put(path, image)


def test_palettes_that_differ_from_file_to_file_are_noticed(tmp_path: Path) -> None:
    """Read by number, such masks permute the classes in silence; read by colour they are right."""
    clean(tmp_path, train=4)
    for number in range(4):
        painted(tmp_path / "masks" / "train" / f"{number}.png", [0, 2, 1] if number == 2 else [0, 1, 2])
    found = audit(config(tmp_path), splits=["train"])
    assert told(found) == [("train", "2")]
    assert "paints the value 1 [0, 0, 142], most masks paint it [128, 64, 128]" in found.offences[0].message
    (note,) = [note for note in found.notes if "palette" in note]
    colours = "{background: [0, 0, 0], road: [128, 64, 128], car: [0, 0, 142]}"
    assert note == f"1 masks have another palette than most; to read them by colour: 'data.colours={colours}' data.classes=null"
    by_colour = config(tmp_path, classes=None, colours=yaml.safe_load(colours))
    assert audit(by_colour, splits=["train"]).offences == []
    assert (open_split(by_colour, "train").read(2)[1].numpy() == MASK).all()


def test_masks_that_are_cut_are_told_as_such(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", photo(3, (64, 64)))
    smooth(tmp_path / "masks" / "a.jpg")
    found = audit(config(tmp_path, classes=["background", "disc"], threshold=128, portions={"train": 1.0}))
    assert found.offences == []
    (note,) = found.notes
    assert re.fullmatch(r"train: masks are cut at a grey level; [5-9]\.\d\d% of their pixels are neither dark nor .*", note)
    assert "masks: 1 JPEG grey" in lines(found)


def test_what_is_worth_knowing_is_noted(tmp_path: Path) -> None:
    clean(tmp_path, train=4, val=3)
    put(tmp_path / "images" / "train" / "0.png", photo(99, (30, 9)))
    put(tmp_path / "masks" / "train" / "0.png", np.full((30, 9), 255, np.uint8))
    put(tmp_path / "images" / "train" / "3.png", photo(20))  # the image of train/2
    for number in (4, 5, 6):
        put(tmp_path / "masks" / "val" / f"{number}.png", MASK.clip(max=1))
    found = examined(tmp_path, crop=(12, 12))
    assert found.offences == []
    assert found.notes == [
        "train: 3 is the same image as 2",
        "train: 1 images are smaller than the crop 12x12 and get padded, first 0 (30x9)",
        "train: 1 images hold nothing but ignored pixels, first 0",
        "train: images differ in size; keep evaluation.batch=1",
        "val: never holds car; their IoU will be undefined or zero there",
    ]
    facts = plain(found)["splits"]["train"]
    assert facts["sizes"] == {"12x16": 3, "30x9": 1}
    assert facts["only_ignored"] == ["0"]
    assert facts["ignored_share"] == pytest.approx(270 / (270 + 3 * 192))


def test_a_split_that_is_made_of_others_leaks_nothing(tmp_path: Path) -> None:
    clean(tmp_path)
    lists = {"train": "train/0\ntrain/1", "trainval": "train/0\ntrain/1\nval/6", "val": "val/6", "test": "val/6"}
    for split, text in lists.items():
        (tmp_path / f"{split}.list").write_text(text)
    found = audit(config(tmp_path, lists={split: f"{split}.list" for split in lists}))
    assert told(found) == [("test", "val__6"), ("trainval", "val__6")]
    assert [offence.message.split(";")[0] for offence in found.offences] == [
        "val__6: is the same image as val__6 of val",
        "val__6: is the same image as val__6 of test",
    ]


def test_every_data_set_can_be_scanned(tmp_path: Path) -> None:
    found = audit(Shapes.Config(name="shapes", size=(64, 96), train=24, val=3, test=3), workers=1)
    assert found.offences == []
    assert found.classes == Shapes.classes
    (tmp_path / "val").mkdir()
    (tmp_path / "val.txt").write_text("a\n")
    put(tmp_path / "val" / "a.png", photo(3))
    put(tmp_path / "valannot" / "a.png", np.full(SIZE, 12, np.uint8))
    found = audit(CamVid.Config(name="camvid", root=str(tmp_path)), splits=["train", "val"])
    assert told(found) == [("train", "train"), ("val", "a")]
    assert "holds" not in found.notes
    assert "768 pixels" not in found.offences[1].message
    assert "192 pixels hold label 12; labels must be 0..10" in found.offences[1].message


# --- class weights


def test_class_weights_by_hand() -> None:
    pixels = np.zeros((2, 256), np.int64)
    pixels[0, :3], pixels[0, 255] = (60, 20, 20), 1000
    pixels[1, :2] = 90, 10
    # frequencies: 150 of 200, 30 of 200, 20 of 100; class 3 never occurs
    assert median_frequency(pixels, 4) == pytest.approx([0.2 / 0.75, 0.2 / 0.15, 1.0, 1.0], rel=1e-3)
    shares = [150 / 200, 30 / 200, 20 / 200, 0]
    assert inverse_log(pixels, 4) == pytest.approx([1 / math.log(1.02 + share) for share in shares], rel=1e-3)


def test_weights_come_from_train_or_not_at_all(tmp_path: Path) -> None:
    clean(tmp_path)
    found = examined(tmp_path)
    assert weights(found)["median frequency"] == [1, 1, 1]
    assert any(line.startswith("  class_weights: [1, 1, 1]  # median") for line in lines(found))
    assert weights(examined(tmp_path, splits=["val"])) == {}


# --- the tool


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return call("check-data", "folder/r18", *words, folder=cwd)


def test_the_tool_is_content_with_clean_data_and_draws_them(tmp_path: Path) -> None:
    clean(tmp_path / "mine")
    done = command("data.root=mine", "data.classes=[background, road, car]", "--workers", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 6 readable images" in done.stdout
    picture = tmp_path / "runs" / "check" / "mine" / "samples.png"
    assert f"samples: {picture.relative_to(tmp_path)}" in done.stdout
    with Image.open(picture) as image:
        assert min(image.size) > 200
        found = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}  # type: ignore[union-attr]
    assert {(72, 76, 84), (242, 48, 48), (128, 165, 255)} <= found


def test_the_tool_tells_offences_and_exits_with_2(tmp_path: Path) -> None:
    spoil(tmp_path / "mine")
    words = ["data.root=mine", "data.classes=[background, road, car]", "--workers", "0", "--json", "out/all.json"]
    done = command(*words, "--picture", "out/few.png", "--samples", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: folder: to mend: 7, see above\n"
    assert "1.png: holds the value 9 (32 pixels)" in done.stdout
    assert (tmp_path / "out" / "few.png").exists()
    assert len(json.loads((tmp_path / "out" / "all.json").read_text())["offences"]) == 7


def test_the_tool_tells_what_was_not_declared(tmp_path: Path) -> None:
    clean(tmp_path / "mine")
    done = command("data.root=mine", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.classes: is not set; name the classes")
    assert done.stderr.count("is not set") == 1
    gone = command("data.root=gone", cwd=tmp_path)
    assert gone.returncode == 2
    assert gone.stderr.startswith("error: data.root: gone (from data.root) is no directory")
