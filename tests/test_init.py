"""``kd init`` declares what a folder holds: pixels are read as they were meant, what cannot be told is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_tools import call
from PIL import Image
from test_folder import one_bit, put, smooth

from kd.config import InputError
from kd.data.audit.scan import audit
from kd.data.build import open_split
from kd.data.camvid import CamVid
from kd.data.survey.recipe_text import pair, teacher
from kd.data.survey.survey import Survey, survey
from kd.recipe.loading import load
from kd.types import IGNORE

SIZE = (48, 64)
COLOURS = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
NAMES = ["background", "class_1", "class_2"]


def truth(number: int) -> np.ndarray:
    """Class numbers 0, 1, 2 in blocks, in another order for each image."""
    down, right = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((down // 12 + right // 16 + number) % 3).astype(np.uint8)


def painted(path: Path, labels: np.ndarray, order: tuple[int, ...] = (0, 1, 2)) -> None:
    """A palette mask that shows the classes' colours; ``order`` says which number has which."""
    image = Image.fromarray(np.argsort(order)[labels].astype(np.uint8))
    image.putpalette(COLOURS[list(order)].flatten().tolist())
    put(path, image)


def folder(root: Path, write: Callable[[Path, np.ndarray, int], None], names: Callable[[int], tuple[str, str]]) -> Path:
    """Sixteen images and masks; ``names`` gives the files of each."""
    noise = np.random.default_rng(0)
    for number in range(16):
        image, mask = names(number)
        put(root / image, noise.integers(0, 256, (*SIZE, 3), np.uint8))
        write(root / mask, truth(number), number)
    return root


def usual(number: int) -> tuple[str, str]:
    return f"images/{number}.png", f"masks/{number}.png"


def seen(root: Path, **given: Any) -> Survey:
    return survey(root, given, lambda items, _: items)


def declared(root: Path, where: Path, **given: Any) -> Any:
    """The data part of the recipe that is written, as it is loaded."""
    (where / "recipes" / "mine").mkdir(parents=True)
    (where / "recipes" / "mine" / "r18.yaml").write_text(pair(seen(root, **given), "mine"))
    (where / "recipes" / "mine" / "r34_teacher.yaml").write_text(teacher("mine"))
    recipe = load("mine/r18", ["ce"])[0]
    assert load("mine/r34_teacher")[0].data == recipe.data
    assert load("mine/r18", ["jml_kd"])[0].teacher.path == "runs/mine/r34_teacher/seed0"
    return recipe


def number(text: str) -> int:
    return int("".join(letter for letter in text if letter.isdigit()))


def means(config: Any) -> list[int]:
    """The true class of each declared one."""
    if config.colours:
        return [COLOURS.tolist().index(list(colour)) for _, colour in config.colours]
    return [{255: 1, 1000: 1, 2000: 2}.get(value, value) for value, _ in config.classes]


MASKS: dict[str, tuple[Callable[[Path, np.ndarray, int], None], dict[int, int]]] = {
    "numbers": (lambda path, labels, _: put(path, labels), {}),
    "ignored": (lambda path, labels, _: put(path, np.where(labels == 2, 255, labels).astype(np.uint8)), {2: IGNORE}),
    "0 and 255": (lambda path, labels, _: put(path, np.where(labels == 1, 255, 0).astype(np.uint8)), {2: 0}),
    "1 bit": (lambda path, labels, _: one_bit(path, labels == 1), {2: 0}),
    "16 bits": (lambda path, labels, _: put(path, labels.astype(np.uint16) * 1000), {}),
    "palette": (lambda path, labels, _: painted(path, labels), {}),
    "palettes": (lambda path, labels, which: painted(path, labels, (0, 2, 1) if which % 3 else (0, 1, 2)), {}),
    "painted": (lambda path, labels, _: put(path, COLOURS[labels]), {}),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind_are_read_as_they_are_meant(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, becomes = MASKS[kind]
    if kind == "ignored":
        first = folder(tmp_path / "mine", write, usual)
        put(first / "masks" / "0.png", np.where(truth(0) == 2, 2, 255).astype(np.uint8))
    recipe = declared(folder(tmp_path / "mine", write, usual), tmp_path)
    for split in ("train", "val", "test"):
        data = open_split(recipe.data, split)
        for index in range(len(data)):
            wanted = truth(number(data.identity(index)))
            for label, other in becomes.items():
                wanted = np.where(truth(number(data.identity(index))) == label, other, wanted)
            order = means(recipe.data)
            found = data.read(index)[1].numpy()
            assert (np.where(found == IGNORE, IGNORE, np.take(order, found, mode="clip")) == wanted).all()


def split(n: int, train: str, other: str) -> str:
    return train if n < 9 else other


CUT = ("train", "val", "test")
LAYOUTS: dict[str, tuple[Callable[[int], tuple[str, str]], str, str, tuple[str, ...]]] = {
    "sub-folders": (lambda n: (f"images/s/{n}.png", f"masks/s/{n}.png"), "images", "masks", CUT),
    "split inside": (
        lambda n: (f"images/{split(n, 'train', 'val')}/{n}.png", f"masks/{split(n, 'train', 'val')}/{n}.png"),
        "images/{split}",
        "masks/{split}",
        ("train", "val"),
    ),
    "split outside": (
        lambda n: (f"{split(n, 'train', 'valid')}/rgb/{n}.png", f"{split(n, 'train', 'valid')}/gt/{n}.png"),
        "{split}/rgb",
        "{split}/gt",
        ("train", "valid"),
    ),
    "split in the name": (
        lambda n: (f"{split(n, 'Training', 'Test')}/{n}.png", f"{split(n, 'Training', 'Test')}_masks/{n}.png"),
        "{split}",
        "{split}_masks",
        ("train", "Test"),
    ),
    "splits by other names": (
        lambda n: (
            (f"01_Train_Set/rgb/{n}.png", f"01_Train_Set/gt/{n}.png") if n < 9 else (f"Valid/rgb/{n}.png", f"Valid/gt/{n}.png")
        ),
        "{split}/rgb",
        "{split}/gt",
        ("train", "Valid"),
    ),
    "one folder": (lambda n: (f"{n}.png", f"{n}_mask.png"), ".", ".", CUT),
    "a suffix": (lambda n: (f"photos/{n}.png", f"labels/{n}_gt.png"), "photos", "labels", CUT),
    "no known name": (lambda n: (f"mine/{n}.png", f"hand made/{n}.png"), "mine", "hand made", CUT),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_found(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names, images, masks, splits = LAYOUTS[layout]
    root = folder(tmp_path / "data", lambda path, labels, _: put(path, labels), names)
    recipe = declared(root, tmp_path)
    assert (recipe.data.images, recipe.data.masks) == (images, masks)
    found = audit(recipe.data)
    assert found.offences == []
    assert set(found.samples) == set(splits)
    assert sum(map(len, found.samples.values())) == 16
    assert recipe.evaluation.report in splits
    assert recipe.evaluation.select in splits


def test_smoothed_and_lossy_masks_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = folder(tmp_path / "data", lambda path, *_: smooth(path.with_suffix(".jpg"), quality=90), usual)
    for path in (root / "images").iterdir():
        put(path, np.full((64, 64, 3), 7, np.uint8))
    recipe = declared(root, tmp_path)
    assert recipe.data.threshold == 128
    assert [name for _, name in recipe.data.classes] == ["background", "foreground"]


def test_names_are_taken_from_where_they_are_written_down(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", lambda path, labels, _: put(path, labels), usual)
    (root / "classes.txt").write_text("sky\nroad\ncar\nbicycle\n")
    assert [(one.number, one.name) for one in seen(root).coding.classes] == [
        (0, "sky"),
        (1, "road"),
        (2, "car"),
        (3, "bicycle"),
    ]
    root = folder(tmp_path / "b", MASKS["painted"][0], usual)
    (root / "classes.txt").write_text("sky\nroad\ncar\n")  # in which order do colours stand?
    assert {one.name for one in seen(root).coding.classes} == set(NAMES)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\nsky:0,0,0::\n")
    assert {one.name: one.colour for one in seen(root).coding.classes}["car"] == (0, 0, 142)
    of_camvid = np.array(CamVid.colours, np.uint8)
    root = folder(tmp_path / "c", lambda path, labels, _: put(path, of_camvid[labels + 3]), usual)
    assert {one.name for one in seen(root).coding.classes} == set(CamVid.classes[3:6])
    put(root / "masks" / "0.png", np.where(truth(0)[..., None] == 1, 0, of_camvid[truth(0) + 3]).astype(np.uint8))
    assert len(seen(root).coding.classes) == 3
    assert seen(root).coding.ignore_colours == [(0, 0, 0)]  # CamVid paints no class black
    assert "ignore_colours: [[0, 0, 0]]" in pair(seen(root), "c")


def test_no_checkpoint_is_chosen_on_test_where_there_is_val(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spellings = (("Train", "Valid", "Test"), ("trn", "dev", "holdout"), ("training_set", "test_set", "val_set"))
    for number, names in enumerate(spellings):
        (tmp_path / f"w{number}").mkdir()
        monkeypatch.chdir(tmp_path / f"w{number}")
        root = folder(
            tmp_path / str(number),
            lambda path, labels, _: put(path, labels),
            lambda n, names=names: (f"{names[n % 3]}/images/{n}.png", f"{names[n % 3]}/masks/{n}.png"),
        )
        recipe = declared(root, tmp_path / f"w{number}")
        told = recipe.evaluation.select.lower(), recipe.evaluation.report.lower()
        assert told in (("valid", "test"), ("dev", "holdout"), ("val_set", "test_set"))
        assert sum(seen(root).splits.values()) == 16


def test_folders_that_are_left_out_are_told(tmp_path: Path) -> None:
    folder(tmp_path / "data", MASKS["numbers"][0], usual)
    folder(tmp_path / "data", MASKS["numbers"][0], lambda n: (f"more/images/{n}.png", f"more/masks/{n}.png"))
    folder(tmp_path / "data", MASKS["numbers"][0], lambda n: (f"images/{n}x.png", f"masks/{n}x.png"))
    done = call("init", "data", folder=tmp_path)
    assert "note: not taken: more/images, more/masks (16)" in done.stdout
    assert (
        "splits cut by a hash of the names: train 22, val 5, test 5; the best is chosen on val, test is reported" in done.stdout
    )
    assert "note: val and test: fewer than 10 images" in done.stdout


def test_two_meanings_of_white_are_refused(tmp_path: Path) -> None:
    mixed = folder(tmp_path / "a", lambda path, m, n: put(path, ((m == 1) * (255 if n % 2 else 1)).astype(np.uint8)), usual)
    with pytest.raises(InputError, match="8 masks hold the value 1 and 8 the value 255, none both"):
        seen(mixed)
    for stray in (254, 1):
        root = folder(tmp_path / str(stray), MASKS["0 and 255"][0], usual)
        mask = np.where(truth(0) == 1, 255, 0).astype(np.uint8)
        mask[0, 0] = stray
        put(root / "masks" / "0.png", mask)
        with pytest.raises(InputError, match=f"in 1 pixels {stray}, too few to be a class beside so many of 255: stray"):
            seen(root)


def test_more_white_than_the_class_beside_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unsure = np.array([0, 255, 255], np.uint8)
    root = folder(tmp_path / "data", lambda path, labels, _: put(path, unsure[labels]), usual)
    for path in (root / "masks").iterdir():
        mask = np.array(Image.open(path))
        mask[:6] = 128
        put(path, mask)
    with pytest.raises(InputError, match=r"hold 0, 128 and 255, and more pixels of 255.*--ignore 128, or --ignore 255"):
        seen(root)
    assert call("init", "data", "--ignore", "128", folder=tmp_path).returncode == 0
    data = load("data/r18", ["ce"])[0].data
    assert (data.classes, data.ignore) == (((0, "background"), (255, "foreground")), (128,))


def test_colours_called_void_are_no_label(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", MASKS["painted"][0], usual)
    (root / "labelmap.txt").write_text("road:128,64,128::\nVoid:0,0,0::\ncar:0,0,142::\n")
    coding = seen(root).coding
    assert [one.name for one in coding.classes] == ["road", "car"]
    assert coding.ignore_colours == [(0, 0, 0)]


def test_list_files_are_found_where_voc_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = folder(tmp_path / "data", MASKS["numbers"][0], lambda n: (f"JPEGImages/{n}.png", f"SegmentationClass/{n}.png"))
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for part, numbers in (("train", range(9)), ("val", range(9, 13)), ("trainval", range(13))):
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(map(str, numbers)))
    recipe = declared(root, tmp_path)
    assert {split: len(open_split(recipe.data, split)) for split in ("train", "val")} == {"train": 9, "val": 4}


def test_classes_of_a_recipe_are_replaced_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    declared(folder(tmp_path / "data", MASKS["numbers"][0], usual), tmp_path)
    changed = load("mine/r18", ["ce", "data.classes={2: car, 0: background}", "data.ignore=1"])[0].data
    assert changed.classes == ((2, "car"), (0, "background"))


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for name, write, told in (
        (
            "depth",
            lambda path, *_: put(path, noise.integers(0, 256, SIZE, np.uint8)),
            r"masks: masks hold 25\d",
        ),
        ("blurred", lambda path, *_: put(path, noise.integers(0, 256, (*SIZE, 3), np.uint8)), "more than 64 colours"),
        ("lossy", lambda path, *_: put(path.with_suffix(".jpg"), noise.integers(0, 256, SIZE, np.uint8)), "masks are lossy"),
    ):
        with pytest.raises(InputError, match=told):
            seen(folder(tmp_path / name, write, usual))
    put(tmp_path / "alone" / "images" / "a.png", COLOURS[truth(0)])
    with pytest.raises(InputError, match=r"no images and masks that pair up by name.*images: 1.*--images DIR --masks DIR"):
        seen(tmp_path / "alone")
    with pytest.raises(InputError, match="is no directory"):
        seen(tmp_path / "nowhere")


def test_the_command_writes_checks_and_says_what_comes_next(tmp_path: Path) -> None:
    folder(tmp_path / "my data", MASKS["0 and 255"][0], usual)
    done = call("init", "my data", "--name", "cracks", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "background 66.8%, foreground 33.2%" in done.stdout
    assert "train: 11 readable images" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: kd train cracks/r18 ce"
    assert call("train", "cracks/r18", "jml_kd", "--smoke", folder=tmp_path).returncode == 0
    again = call("init", "my data", "--name", "cracks", folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("error: recipes/cracks/r18.yaml: is there already")


def test_what_is_to_mend_is_told_and_the_recipe_stays(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", MASKS["numbers"][0], usual)
    (root / "masks" / "3.png").write_bytes(b"<html>")
    done = call("init", "data", folder=tmp_path)
    assert done.returncode == 2
    assert "masks/3.png: cannot be decoded" in done.stdout
    assert done.stderr.endswith("say more in recipes/data/r18.yaml; then: kd check-data data/r18\n")
    assert (tmp_path / "recipes" / "data" / "r18.yaml").is_file()


def test_a_folder_may_have_any_name_that_has_letters(tmp_path: Path) -> None:
    root = folder(tmp_path / "日本 Übung", MASKS["numbers"][0], usual)
    done = call("init", root, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "next: kd train 日本_Übung/r18 ce" in done.stdout
    assert load(tmp_path / "recipes" / "日本_Übung" / "r18.yaml", default="ce")[0].data.root == str(root)
    done = call("init", root, "--name", "...", folder=tmp_path)
    assert "has no letter that a recipe could be called by; give --name" in done.stderr
