"""A researcher's own folder: declared classes, partners, splits; what does not fit is told with the remedy."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import told
from tiny import execute, tiny

from kd.commands.evaluate import coverage
from kd.commands.train import report
from kd.config import ConfigError, InputError, validate
from kd.data.build import open_split
from kd.data.dataset import LabelError
from kd.data.folder import Folder
from kd.data.folder_files import Pair
from kd.data.folder_layout import OrphanError, cut
from kd.data.loader import whole_batches
from kd.data.mask_coding import palette
from kd.data.reading import BrokenFileError
from kd.recipe.loading import describe, load
from kd.recipe.schema import build, fingerprint
from kd.results.runs import load_runs
from kd.types import IGNORE

SIZE = (12, 16)
MASK = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 3).astype(np.uint8)
CLASSES = ["background", "road", "car"]
ROOT = Path(__file__).parent.parent


def put(path: Path, array: np.ndarray | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(array) if isinstance(array, np.ndarray) else array).save(path, **options)
    return path


def photo(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((*size, 3), number, np.uint8)


def pictures(root: Path, names: Sequence[str], images: str = "images", masks: str = "masks", mask: Any = MASK) -> Path:
    """Pairs; each image is filled with its number."""
    for number, name in enumerate(names):
        put(root / images / f"{name}.png", photo(number))
        put(root / masks / f"{name}.png", mask)
    return root


def config(root: Path, **knobs: Any) -> Any:
    return validate(Folder.Config, {"name": "folder", "root": str(root), "classes": CLASSES, **knobs}, "data")


def opened(root: Path, split: str = "train", **knobs: Any) -> Folder:
    return open_split(config(root, **knobs), split)  # type: ignore[return-value]


def whole(root: Path, **knobs: Any) -> Folder:
    """All files as one split."""
    return opened(root, portions={"train": 1.0}, **knobs)


def names(data: Folder) -> list[str]:
    return [data.identity(index) for index in range(len(data))]


def refused(action: Callable[[], object], kind: type[InputError] = ConfigError) -> str:
    error = told(action)
    assert isinstance(error, kind)
    return str(error)


# --- what masks hold


def read_mask(root: Path, mask: Any, name: str = "a.png", **knobs: Any) -> np.ndarray:
    put(root / "images" / "a.png", photo(1))
    put(root / "masks" / name, mask)
    return whole(root, **knobs).read(0)[1].numpy()


def test_a_list_of_names_numbers_them(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[0] = 255
    labels = read_mask(tmp_path, mask)
    assert (labels == mask).all()
    assert whole(tmp_path).classes == tuple(CLASSES)


@pytest.mark.parametrize("text", [False, True])
def test_a_mapping_names_values_and_its_order_numbers_them(tmp_path: Path, text: bool) -> None:
    values = {255: "car", 0: "background", 7: "road"}
    declared = {str(value): name for value, name in values.items()} if text else values
    mask = np.array([255, 0, 7], np.uint8)[MASK]
    labels = read_mask(tmp_path, mask, classes=declared, ignore=[])
    assert (labels == MASK).all()
    assert whole(tmp_path, classes=declared, ignore=[]).classes == ("car", "background", "road")


def smooth(path: Path, **options: Any) -> np.ndarray:
    """A bright disc with a grey rim; returns where it is above the middle."""
    down, right = np.mgrid[:64, :64]
    levels = np.clip(255 * (20.5 - np.hypot(down - 32, right - 32)) / 3, 0, 255).astype(np.uint8)
    put(path, levels, **options)
    return levels >= 128


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_grey_and_lossy_masks_are_cut_where_it_is_said_so(tmp_path: Path, name: str) -> None:
    put(tmp_path / "images" / "a.png", photo(3, (64, 64)))
    truth = smooth(tmp_path / "masks" / name)
    knobs = {"classes": ["background", "disc"], "portions": {"train": 1.0}}
    with pytest.raises(InputError, match=r"data\.threshold=128"):
        open_split(config(tmp_path, **knobs), "train").read(0)
    labels = open_split(config(tmp_path, threshold=128, **knobs), "train").read(0)[1].numpy()
    assert set(np.unique(labels)) == {0, 1}
    assert (labels != truth).sum() <= (0 if name == "a.png" else 10)


def test_only_two_classes_can_be_cut(tmp_path: Path) -> None:
    for knobs in ({}, {"classes": ["a", "b"], "ignore": 7}, {"classes": None, "colours": {"a": [0, 0, 0], "b": [1, 1, 1]}}):
        with pytest.raises(ConfigError, match="threshold cuts grey masks into two classes"):
            config(tmp_path, threshold=128, **knobs)
    assert config(tmp_path, threshold=9, classes={0: "a", 255: "b"}).ignore == ()
    put(tmp_path / "images" / "a.png", photo(3))
    put(tmp_path / "masks" / "a.png", np.full((*SIZE, 3), (200, 20, 20), np.uint8))
    with pytest.raises(BrokenFileError, match=r"has colours.*data\.colours"):
        open_split(config(tmp_path, threshold=128, classes=["a", "b"], portions={"train": 1.0}), "train").read(0)


def one_bit(path: Path, white: np.ndarray) -> None:
    """As programs that shrink files write what holds 0 and 255 only."""
    put(path, Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).convert("1"))
    with Image.open(path) as image:
        assert image.mode == "1"


def test_white_of_one_bit_is_255_as_in_other_masks(tmp_path: Path) -> None:
    """Tiles of nothing but class 0 and "no label", shrunk to 1 bit, must not turn "no label" into class 1."""
    pictures(tmp_path, ["a", "b", "c"])
    one_bit(tmp_path / "masks" / "b.png", MASK == 1)
    portions = {"train": 1.0}
    for knobs in ({"classes": {0: "background", 7: "road", 2: "car"}}, {"classes": {0: "background", 2: "car"}}):
        labels = open_split(config(tmp_path, portions=portions, **knobs), "train").read(1)[1]
        assert (labels.numpy() == np.where(MASK == 1, IGNORE, 0)).all()
    crack = config(tmp_path, portions=portions, classes={0: "background", 255: "crack"})
    assert (open_split(crack, "train").read(1)[1].numpy() == (MASK == 1)).all()


def test_one_bit_among_others_is_refused_where_1_means_something(tmp_path: Path) -> None:
    pictures(tmp_path, ["a", "b", "c"])
    one_bit(tmp_path / "masks" / "b.png", MASK == 1)
    data = open_split(config(tmp_path, portions={"train": 1.0}), "train")
    data.read(0)
    with pytest.raises(BrokenFileError, match=r"b\.png: is a mask of 1 bit.*such as .*a\.png.*data\.classes=.*with 8 bits"):
        data.read(1)


def test_masks_that_are_all_of_one_bit_hold_0_and_1(tmp_path: Path) -> None:
    pictures(tmp_path, ["a", "b", "c", "d"])
    for name in "abcd":
        one_bit(tmp_path / "masks" / f"{name}.png", MASK == 1)
    data = open_split(config(tmp_path, classes=["background", "crack"], portions={"train": 0.5, "val": 0.5}), "val")
    assert all((data.read(index)[1].numpy() == (MASK == 1)).all() for index in range(2))
    train = open_split(config(tmp_path, classes=["background", "crack"], portions={"train": 0.5, "val": 0.5}), "train")
    put(train.masks[0], (MASK == 1).astype(np.uint8))  # a mask of another split counts too
    with pytest.raises(BrokenFileError, match="is a mask of 1 bit"):
        open_split(data.config, "val").read(0)


def test_values_of_16_bits_are_mapped(tmp_path: Path) -> None:
    mask = np.array([0, 1000, 65535], np.uint16)[MASK]
    labels = read_mask(tmp_path, mask, classes={0: "background", 1000: "road"}, ignore=65535)
    assert (labels == np.array([0, 1, IGNORE])[MASK]).all()


def test_binary_masks_of_0_and_255_are_two_classes(tmp_path: Path) -> None:
    labels = read_mask(tmp_path, (MASK > 0).astype(np.uint8) * 255, classes={0: "background", 255: "crack"}, ignore=[])
    assert (labels == (MASK > 0)).all()
    assert config(tmp_path, classes={0: "background", 255: "crack"}).ignore == ()
    assert config(tmp_path, classes={0: "background", 1: "crack"}).ignore == (255,)
    message = refused(lambda: config(tmp_path, classes={0: "background", 255: "crack"}, ignore=[255]))
    assert message == "data: the mask value 255 is a class and ignored; set data.ignore=[] or to another value"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_value_that_was_not_declared_is_told_with_file_value_and_count(tmp_path: Path, dtype: Any) -> None:
    mask = MASK.astype(dtype)
    mask[0, :5], mask[1, :2] = 77, 9
    name = "a.tif" if dtype is np.int32 else "a.png"
    message = refused(lambda: read_mask(tmp_path, mask, name), LabelError)
    assert message.startswith(f"{tmp_path / 'masks' / name}: holds the value 77 (5 pixels), 9 (2 pixels), which is no class")
    assert "known: 0 background, 1 road, 2 car; ignored 255" in message
    assert "Add it to data.classes, or to data.ignore" in message


def test_values_beyond_16_bits_and_below_zero_are_no_classes(tmp_path: Path) -> None:
    mask = MASK.astype(np.int32)
    mask[0, 0], mask[0, 1] = -2, 65536 * 3
    message = refused(
        lambda: read_mask(tmp_path, mask, "a.tif", classes={**dict(enumerate(CLASSES)), 65535: "top"}), LabelError
    )
    assert "-2 (1 pixels), 196608 (1 pixels)" in message


COLOURS = {"background": [0, 0, 0], "road": [128, 64, 128], "car": [0, 0, 142]}
TABLE = np.array(list(COLOURS.values()), np.uint8)


def painted(mode: str) -> Image.Image:
    image = Image.fromarray(TABLE[MASK])
    if mode == "RGBA":
        image.putalpha(Image.fromarray(MASK * 90))
    return image.quantize(8) if mode == "P" else image


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_painted_masks_are_read_by_colour(tmp_path: Path, mode: str) -> None:
    labels = read_mask(tmp_path, painted(mode), classes=None, colours=COLOURS)
    assert (labels == MASK).all()
    data = whole(tmp_path, classes=None, colours=COLOURS)
    assert data.classes == tuple(CLASSES)
    assert data.colours == tuple(map(tuple, TABLE.tolist()))


def test_classes_order_the_colours_and_ignored_colours_are_ignored(tmp_path: Path) -> None:
    kept = {name: colour for name, colour in COLOURS.items() if name != "background"}
    labels = read_mask(tmp_path, painted("RGB"), classes=["car", "road"], colours=kept, ignore_colours=[[0, 0, 0]])
    assert (labels == np.array([IGNORE, 1, 0])[MASK]).all()


def test_masks_of_black_and_white_are_colours_too(tmp_path: Path) -> None:
    colours = {"background": [0, 0, 0], "crack": [255, 255, 255]}
    for mask in (Image.fromarray((MASK > 0).astype(np.uint8) * 255), Image.fromarray(MASK > 0)):
        assert (read_mask(tmp_path, mask, classes=None, colours=colours) == (MASK > 0)).all()


def test_a_colour_that_was_not_declared_is_told(tmp_path: Path) -> None:
    image = TABLE[MASK].copy()
    image[0, :4] = 1, 2, 3
    message = refused(lambda: read_mask(tmp_path, image, classes=None, colours=COLOURS), LabelError)
    assert message.startswith(f"{tmp_path / 'masks' / 'a.png'}: holds the colour [1, 2, 3] (4 pixels), which is no class")
    assert "data.ignore_colours" in message


def test_painted_masks_without_colours_say_how_to_declare_them(tmp_path: Path) -> None:
    assert "data.colours={road: [128, 64, 128], ...}" in refused(lambda: read_mask(tmp_path, painted("RGBA")), BrokenFileError)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"classes": ["a", "a"]}, "data.classes: has the class 'a' twice"),
        ({"classes": {0: "a", 1: "a"}}, "data.classes: has the class 'a' twice"),
        ({"classes": []}, "data.classes: holds 0 classes"),
        ({"classes": [f"c{number}" for number in range(255)]}, "data.classes: holds 255 classes; 1 to 254"),
        ({"classes": {"x": "a"}}, "data.classes: has the mask value 'x'"),
        ({"classes": {-1: "a"}}, "data.classes: has the mask value -1"),
        ({"classes": {True: "a"}}, "data.classes: has the mask value True"),
        ({"classes": [False, "a"]}, "data.classes: has the class name False; .* Quote"),
        ({"classes": "road"}, "data.classes: is 'road'; write a list of names"),
        ({"colours": {"a": [1, 2]}}, r"data.colours: has the colour \[1, 2\]"),
        ({"colours": {"a": [1, 2, 256]}}, r"data.colours: has the colour \[1, 2, 256\]"),
        ({"colours": {"a": [1, 2, 3], "b": [1, 2, 3]}}, "data.colours: has the colour .* twice"),
        ({"classes": ["a"], "colours": {"b": [1, 2, 3]}}, r"classes and colours name different classes \(a, b\)"),
        ({"classes": None, "colours": {"b": [1, 2, 3]}, "ignore_colours": [[1, 2, 3]]}, "the colour of b is ignored too"),
        ({"ignore": "void"}, "data.ignore: has the mask value 'void'"),
        ({"portions": {"train": 0.5, "val": 0.2}}, "portions add up to 0.7; they must add up to 1"),
        ({"portions": {"train": 1, "val": 0}}, "data.portions.val: is 0; input should be greater than 0"),
        ({"portions": {"train": 1}, "lists": {"train": "a.txt"}}, "lists and portions are both set"),
        ({"images": "{split}/rgb"}, "both must hold {split}, or neither"),
        ({"resize": [0, 8]}, "data.resize.0: is 0; input should be greater than 0"),
        ({"orphans": "keep"}, "data.orphans: is 'keep'"),
    ],
)
def test_wrong_declarations_are_refused_before_any_file_is_read(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **knobs)


def test_classes_must_be_declared(tmp_path: Path) -> None:
    pictures(tmp_path, ["a"])
    assert refused(lambda: whole(tmp_path, classes=None)).startswith("data.classes: is not set; name the classes in the order")


def test_the_order_of_a_mapping_survives_the_saved_recipe_and_tells_runs_apart(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    (tmp_path / "_parts").symlink_to(ROOT / "recipes" / "_parts")
    recipe.write_text("extends: [_parts/data/folder, _parts/student/dl3_r18, _parts/loss/ce]\ndata: {ignore: []}\n")
    first, origins = load(recipe, ["data.classes={255: crack, 0: background}"])
    second, _ = load(recipe, ["data.classes={0: background, 255: crack}"])
    assert fingerprint(first) != fingerprint(second)
    text = describe(first, origins)
    assert next(line for line in text.splitlines() if " classes:" in line).endswith("# command line")
    (tmp_path / "again.yaml").write_text(text)
    assert load(tmp_path / "again.yaml")[0] == first


def test_default_colours_are_distinct() -> None:
    assert len(set(palette(254))) == 254
    some = np.array(palette(20), int)
    distance = np.abs(some[:, None] - some[None]).sum(-1) + 999 * np.eye(20, dtype=int)
    assert distance.min() > 60


# --- partners


def test_partners_have_one_stem_whatever_suffix_case_and_folder(tmp_path: Path) -> None:
    for number, name in enumerate(["b.JPG", "street/a.JPEG", "street/deep/c.v2.Png", "d.bmp"]):
        put(tmp_path / "images" / name, photo(number * 50))
        put(tmp_path / "masks" / f"{Path(name).with_suffix('')}.PNG", np.full(SIZE, number % 3, np.uint8))
    data = whole(tmp_path)
    assert names(data) == ["b", "d", "street__a", "street__deep__c.v2"]
    assert [int(data.read(index)[1][0, 0]) for index in range(4)] == [0, 0, 1, 2]
    assert [round(float(data.read(index)[0].float().mean()) / 50) for index in range(4)] == [0, 3, 1, 2]


def test_other_files_are_no_pictures(tmp_path: Path) -> None:
    pictures(tmp_path, ["a", "b"])
    for name in ("Thumbs.db", ".DS_Store", "._a.png", "notes.txt", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png"):
        for folder in ("images", "masks"):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"no picture")
    assert names(whole(tmp_path)) == ["a", "b"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    pictures(tmp_path / "disk", ["a"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "x").symlink_to(tmp_path / "disk" / "masks")
    assert names(whole(tmp_path)) == ["x__a"]


@pytest.mark.parametrize("together", [False, True])
def test_masks_may_carry_a_suffix_and_share_the_folder(tmp_path: Path, together: bool) -> None:
    folder = "images" if together else "masks"
    for number, name in enumerate(["a", "a_2"]):
        put(tmp_path / "images" / f"{name}.png", photo(number))
        put(tmp_path / folder / f"{name}_mask.png", np.full(SIZE, number, np.uint8))
    data = whole(tmp_path, mask_suffix="_mask", masks=folder)
    assert names(data) == ["a", "a_2"]
    assert [int(data.read(index)[1][0, 0]) for index in range(2)] == [0, 1]
    if together:
        assert "set data.mask_suffix" in refused(lambda: whole(tmp_path, masks="images"))
    else:
        message = refused(lambda: whole(tmp_path))
        assert "2 images without a mask, first a.png, a_2.png; 2 masks without an image" in message
        assert "set data.mask_suffix=_mask" in message


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_two_pictures_of_one_stem_are_ambiguous(tmp_path: Path, folder: str) -> None:
    pictures(tmp_path, ["a"])
    put(tmp_path / folder / "a.bmp", MASK)
    assert "holds a.bmp and a.png, two pictures of one stem" in refused(lambda: whole(tmp_path))


def test_orphans_are_refused_or_skipped(tmp_path: Path) -> None:
    pictures(tmp_path, [f"p{number}" for number in range(6)])
    for number in range(4):
        (tmp_path / "masks" / f"p{number}.png").unlink()
    put(tmp_path / "masks" / "q.png", MASK)
    message = refused(lambda: whole(tmp_path), OrphanError)
    assert "4 images without a mask, first p0.png, p1.png, p2.png; 1 masks without an image, first q.png" in message
    assert "data.orphans=skip" in message
    assert names(whole(tmp_path, orphans="skip")) == ["p4", "p5"]
    shutil.rmtree(tmp_path / "masks")
    put(tmp_path / "masks" / "other.png", MASK)
    assert "none of 6 images has a mask, so 'train' is empty" in refused(lambda: whole(tmp_path, orphans="skip"))


def test_accents_match_however_they_are_encoded(tmp_path: Path) -> None:
    put(tmp_path / "images" / "caf\u00e9.png", photo(1))
    put(tmp_path / "masks" / "cafe\u0301.png", MASK)
    assert names(whole(tmp_path)) == ["caf\u00e9"]


def test_names_that_would_collide_as_file_names_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, ["a/b", "a__b"])
    assert "two images of a split would be called a__b" in refused(lambda: whole(tmp_path))


def test_a_photo_turned_by_its_camera_fits_its_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "images" / "a.JPG", np.ascontiguousarray(photo(9)[:, :10].swapaxes(0, 1)), exif=exif)
    put(tmp_path / "masks" / "a.png", MASK[:, :10])
    image, labels = whole(tmp_path).read(0)
    assert image.shape[1:] == labels.shape == (12, 10)


def test_masks_saved_as_jpeg_are_refused_as_such(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", photo(1))
    put(tmp_path / "masks" / "a.jpg", MASK)
    assert "a.jpg: is a JPEG; its lossy compression invents labels" in refused(lambda: whole(tmp_path).read(0), BrokenFileError)


def test_missing_folders_name_those_that_are_there(tmp_path: Path) -> None:
    pictures(tmp_path, ["a"], "Images", "annotations")
    message = refused(lambda: whole(tmp_path))
    assert message.startswith(f"data.images: {tmp_path / 'images'} is no directory; {tmp_path} holds the folders Images, annot")
    assert refused(lambda: whole(tmp_path, images="Images")).startswith("data.masks: ")
    assert len(whole(tmp_path, images="Images", masks="annotations")) == 1


# --- splits


@pytest.mark.parametrize("form", ["images/{}", "{}/images"])
def test_folders_make_the_splits(tmp_path: Path, form: str) -> None:
    for split, stems in (("train", ["x/a", "b"]), ("val", ["a"]), ("dev", ["c"])):
        pictures(tmp_path, stems, form.format(split), form.format(split).replace("images", "masks"))
    put(tmp_path / form.format("unlabelled") / "z.png", photo(0))  # no masks: no split
    assert Folder.offers(config(tmp_path)) == ("train", "val", "dev")
    assert names(opened(tmp_path)) == ["b", "x__a"]
    assert names(opened(tmp_path, "val")) == ["a"]
    assert "no split 'test'; its splits are train, val, dev" in refused(lambda: opened(tmp_path, "test"))


def test_a_pattern_makes_the_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pictures(tmp_path, [f"{split}1"], split, f"{split}annot")
    knobs = {"images": "{split}", "masks": "{split}annot"}
    assert Folder.offers(config(tmp_path, **knobs)) == ("train", "val")
    assert names(opened(tmp_path, "val", **knobs)) == ["val1"]
    message = refused(lambda: opened(tmp_path, images="{split}/rgb", masks="{split}/gt"))
    assert "no split has {split}/rgb and {split}/gt; " in message


LINES = {
    "stems": "b\na\n",
    "CRLF, BOM, blanks": "\ufeffb  \r\n\r\n \t \r\n  a\r\n",
    "suffixes, and twice": "b.png\na.JPG\nb.png\n",
    "paths": "images/b.png\n/images/a.png\n",
    "pairs": "b.png b.png\nimages/a.png   masks/a.png\n",
    "tabs": "b.png\tb.png\na\tmasks/a.png\n",
    "backslashes": "images\\b.png masks\\b.png\na",
}


@pytest.mark.parametrize("kind", LINES)
def test_list_files_make_the_splits(tmp_path: Path, kind: str) -> None:
    pictures(tmp_path, ["a", "b", "c"])
    (tmp_path / "train.txt").write_bytes(LINES[kind].encode())
    (tmp_path / "val.txt").write_text("c")
    assert Folder.offers(config(tmp_path)) == ("train", "val")
    data = opened(tmp_path)
    assert names(data) == ["b", "a"]
    assert [int(data.read(index)[0][0, 0, 0]) for index in range(2)] == [1, 0]


@pytest.mark.parametrize(
    "line", ["my road 1", "my road 1.png", "my road 1.png my road 1.png", "my road 1\tmasks/my road 1.png"]
)
def test_names_may_hold_blanks(tmp_path: Path, line: str) -> None:
    pictures(tmp_path, ["my road 1", "my"])
    (tmp_path / "own.txt").write_text(f"my\n{line}\n")
    data = opened(tmp_path, "dev", lists={"dev": "own.txt"})
    assert names(data) == ["my", "my road 1"]
    assert [int(data.read(index)[0][0, 0, 0]) for index in range(2)] == [1, 0]


def test_a_list_pairs_files_of_other_names_and_places(tmp_path: Path) -> None:
    put(tmp_path / "rgb" / "7.png", photo(7))
    put(tmp_path / "elsewhere" / "seven.png", MASK)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "t.txt").write_text(f"rgb/7.png {tmp_path / 'elsewhere' / 'seven.png'}\n")
    data = opened(tmp_path, lists={"train": "lists/t.txt"})
    assert names(data) == ["rgb__7"]
    assert (data.read(0)[1].numpy() == MASK).all()


def test_wrong_lists_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, ["a", "b"])
    knobs = {"lists": {"train": "t.txt"}}
    assert "t.txt: cannot be read (No such file" in refused(lambda: opened(tmp_path, **knobs))
    (tmp_path / "t.txt").write_text(" \n\r\n")
    assert "t.txt: is empty" in refused(lambda: opened(tmp_path, **knobs))
    (tmp_path / "t.txt").write_bytes("a\n".encode("utf-16"))
    assert "t.txt: is no UTF-8 text" in refused(lambda: opened(tmp_path, **knobs))
    (tmp_path / "t.txt").write_text("a\ngone\nb.png gone.png\n")
    assert "2 of 3 lines name no image (or an image and no mask beside it), first 'gone'" in refused(
        lambda: opened(tmp_path, **knobs)
    )
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "t.txt").write_text("a\nb\n")
    assert "1 images without a mask, first a.png" in refused(lambda: opened(tmp_path, **knobs))
    assert names(opened(tmp_path, orphans="skip", **knobs)) == ["b"]


@pytest.mark.parametrize("line", ["a" * 300, "a " * 20_000, "x/" * 3000])
def test_lines_that_are_no_paths_are_told_of_the_list_at_once(tmp_path: Path, line: str) -> None:
    pictures(tmp_path, ["a"])
    (tmp_path / "t.txt").write_text(line)
    begun = time.process_time()
    message = refused(lambda: opened(tmp_path, lists={"train": "t.txt"}))
    assert message.startswith(f"{tmp_path / 't.txt'}: 1 of 1 lines name no image")
    assert time.process_time() - begun < 5


def test_folders_and_lists_together_are_ambiguous(tmp_path: Path) -> None:
    pictures(tmp_path, ["train/a", "val/b"])
    (tmp_path / "train.txt").write_text("train/a")
    assert "say which make the splits" in refused(lambda: opened(tmp_path))
    assert names(opened(tmp_path, lists={"train": "train.txt"})) == ["train__a"]
    assert names(opened(tmp_path, images="images/{split}", masks="masks/{split}")) == ["a"]


def test_a_flat_folder_is_cut_by_a_hash_with_exact_counts(tmp_path: Path) -> None:
    stems = [f"frame{number:03d}" for number in range(20)]
    pictures(tmp_path, stems)
    assert Folder.offers(config(tmp_path)) == ("train", "val", "test")
    parts = {split: names(opened(tmp_path, split)) for split in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == [14, 3, 3]
    assert sorted(chain(*parts.values())) == stems
    assert parts["val"] == ["frame002", "frame005", "frame009"]  # a change would move test images into somebody's training
    assert parts["train"] != stems[:14]


@pytest.mark.parametrize("count", [1, 3, 7, 10, 33, 100])
def test_portions_cut_every_file_once_in_whatever_order_they_are_written(count: int) -> None:
    pairs = [Pair(f"n{number}", Path("i"), Path("m")) for number in range(count)]
    for portions in ({"train": 0.7, "val": 0.15, "test": 0.15}, {"test": 0.1, "dev": 0.3, "train": 0.6}, {"train": 1.0}):
        parts = {split: cut(pairs, portions, split) for split in portions}
        assert sorted(chain(*parts.values())) == sorted(pairs)
        assert all(abs(len(part) - count * portions[split]) <= 1 for split, part in parts.items())
        swapped = dict(reversed(portions.items()))
        assert parts == {split: cut(pairs[::-1], swapped, split) for split in portions}


def test_an_empty_split_says_what_to_do(tmp_path: Path) -> None:
    pictures(tmp_path, ["a", "b"])
    message = refused(lambda: opened(tmp_path, "test", portions={"train": 0.9, "test": 0.1}))
    assert message == "data.portions: 2 images leave none for 'test'; raise its portion, or add images"
    for folder in ("images", "masks"):
        shutil.rmtree(tmp_path / folder)
        (tmp_path / folder).mkdir()
    assert "holds no image, so 'train' is empty; pictures end in .png, .jpg" in refused(lambda: opened(tmp_path))


# --- in use


def test_mixed_sizes_train_by_crops_and_are_evaluated_one_by_one(tmp_path: Path) -> None:
    for number in range(8):
        size = (20 + 9 * number, 70 - 6 * number)
        put(tmp_path / "images" / f"{number}.png", photo(30 * number, size))
        put(tmp_path / "masks" / f"{number}.png", np.full(size, number % 3, np.uint8))
    data = config(tmp_path, portions={"train": 0.5, "val": 0.25, "test": 0.25}).model_dump(mode="json")
    recipe = tiny(data=data, evaluation={"batch": 1}, run={"absent_classes": "allow"})
    result = execute(recipe, tmp_path / "run")
    assert result["steps"] == 6
    assert set(result["last"]["test"]["iou"]) == set(CLASSES)
    assert build(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(ConfigError, match=r"images differ in size .* set evaluation\.batch=1"):
        list(whole_batches(opened(tmp_path), batch=4))


def test_resize_and_workers_that_start_anew(tmp_path: Path) -> None:
    data = whole(pictures(tmp_path, ["a", "b"]), resize=[6, 8])
    copy = pickle.loads(pickle.dumps(data))  # what spawned workers get
    image, labels = copy.read(1)
    assert (image.shape, labels.shape) == ((3, 6, 8), (6, 8))
    assert torch.equal(image, data.read(1)[0])
    painted_data = read_mask(tmp_path / "painted", painted("RGB"), classes=None, colours=COLOURS)
    assert painted_data.dtype == np.uint8


def test_a_mask_that_fits_the_unturned_photo_is_told_why_it_does_not_fit(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path / "images" / "a.jpg", photo(9, (30, 40)), exif=exif)
    put(tmp_path / "masks" / "a.png", np.zeros((30, 40), np.uint8))
    message = r"is 30x40, its image 40x30 as its EXIF orientation 6 turns it; .* Turn the labels"
    with pytest.raises(BrokenFileError, match=message):
        whole(tmp_path).read(0)


def test_a_split_that_is_not_there_comes_with_the_key_to_report_another(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put(tmp_path / "images" / split / "a.png", photo(1, (30, 40)))
        put(tmp_path / "masks" / split / "a.png", np.zeros((30, 40), np.uint8))
    with pytest.raises(ConfigError, match=r"has no split 'test'; its splits are train, val\. Say evaluation\.report=val"):
        opened(tmp_path, "test")


# ----------------------------------------------------------------------------------------------- classes without a pixel


def cracks(root: Path, crack: int) -> dict[str, Any]:
    """Six pairs whose masks hold 0 and another value; the last one holds 0 alone."""
    for number in range(6):
        put(root / "images" / f"{number}.png", photo(number, (40, 40)))
        mask = np.zeros((40, 40), np.uint8)
        mask[10:20, 10:20] = crack if number < 5 else 0
        put(root / "masks" / f"{number}.png", mask)
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "val.txt").write_text("4\n")
    (root / "test.txt").write_text("5\n")
    return {"name": "folder", "root": str(root)}


def test_a_class_without_a_pixel_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Masks of 0 and 255 ended with 'mIoU 100.00' of the background alone, because 255 is ignored by default."""
    data = {**cracks(tmp_path, 255), "classes": ["background", "crack"]}
    with pytest.raises(ConfigError) as failure:
        execute(tiny(data=data), tmp_path / "run")
    message = str(failure.value)
    assert message.startswith("data: no pixel of the 4 training images is crack, which therefore cannot be learned; ")
    assert "where 255 means crack, say 'data.classes={0: background, 255: crack}'" in message
    assert message.endswith("run.absent_classes=allow")
    assert not (tmp_path / "run").exists()
    result = execute(tiny(data=data, run={"absent_classes": "allow"}), tmp_path / "allowed")
    assert result["last"]["test"]["absent_classes"] == 1


def test_a_score_over_fewer_classes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {**cracks(tmp_path, 255), "classes": {0: "background", 255: "crack"}}
    result = execute(tiny(data=data), tmp_path / "run")
    assert coverage(result["last"]["val"]) == ""
    scores = result["last"]["test"]  # an image without a crack
    missed = {**scores, "iou": {"background": 100.0, "crack": None}, "absent_but_predicted": "", "mIoU": 100.0}
    invented = {**scores, "iou": {"background": 90.0, "crack": 0.0}, "absent_but_predicted": "crack", "mIoU_labelled": 90.0}
    assert scores["absent_classes"] == 1
    for found, line in (
        (missed, "mIoU 100.00 (test, last checkpoint, mIoU over 1 of 2 classes)"),
        (
            invented,
            "no label of the split contains crack, predicted all the same: 0 in mIoU; over the other classes it is 90.00",
        ),
    ):
        report({**result, "last": {**result["last"], "test": found}}, tmp_path / "run", "finished")
        assert line in capsys.readouterr().out


def test_a_split_without_labels_is_told_before_and_is_not_called_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {**cracks(tmp_path, 1), "classes": ["background", "crack"]}
    put(tmp_path / "masks" / "5.png", np.full((40, 40), 255, np.uint8))
    result = execute(tiny(data=data, evaluation={"every": 0}), tmp_path / "runs" / "a")
    told = capsys.readouterr().err
    assert "note: no pixel of test has a label, so nothing can be measured on it: its mIoU will be undefined" in told
    assert told.index("note: no pixel of test") < told.index("training")
    assert result["last"]["test"]["mIoU"] is None
    (line,) = load_runs([tmp_path / "runs"]).left_out
    assert "finished, but mIoU on test is undefined, since no pixel there has a label; `kd evaluate" in line
    assert "damaged" not in line
