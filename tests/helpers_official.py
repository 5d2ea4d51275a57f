"""Tiny copies of the official data sets, with the layout, names and encodings of the real archives."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from tiny import tiny

from kd.data.build import open_split
from kd.data.dataset import Dataset
from kd.data.voc import VOC
from kd.lookup import lookup
from kd.recipe.schema import build, plain
from students.run import train

SIZE = (24, 32)
FRAMES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "hamburg_000000_042505"],
    "val": ["frankfurt_000000_000294", "munster_000173_000019"],
    "test": ["berlin_000000_000019"],
}
VOC_TRAIN, VOC_VAL = ["2007_000032", "2007_000039"], ["2007_000033", "2008_000002"]
SBD = ["2007_000032", "2008_000002", "2008_000008", "2011_003276"]
"""SBD shares an image with VOC's train and, the trap, one with VOC's val."""
COLOURS = [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)]
NUMBERS = ["10", "101", "1014", "2", "30", "300", "4", "5", "6", "7", "8", "9"]
"""So that the order of file names, of numbers and of bare names are three different ones."""


def photo(seed: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth picture that depends on its name."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    shift = sum(seed.encode()) % 100
    return Image.fromarray(np.stack([rows * 4 + shift, columns * 4, rows + columns + shift], -1).astype(np.uint8))


def save(image: Image.Image, path: Path, **how: Any) -> None:
    """Save, with folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)


def label_ids(shift: int = 0) -> np.ndarray:
    """Every official id, and 255 for the licence plates' -1."""
    values = np.array([*range(34), 255], np.uint8)
    return values[(np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) + shift) % len(values)]


def cityscapes(root: Path) -> Path:
    """leftImg8bit and gtFine, with the kinds of files that nobody reads."""
    for split, frames in FRAMES.items():
        for number, frame in enumerate(frames):
            city = frame.split("_")[0]
            save(photo(frame), root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png")
            ground = root / "gtFine" / split / city
            ids = label_ids(number) if split != "test" else np.zeros(SIZE, np.uint8)
            save(Image.fromarray(ids), ground / f"{frame}_gtFine_labelIds.png")
            save(Image.fromarray(ids.astype(np.uint16) * 100), ground / f"{frame}_gtFine_instanceIds.png")
            save(photo(frame).convert("RGBA"), ground / f"{frame}_gtFine_color.png")
            (ground / f"{frame}_gtFine_polygons.json").write_text("{}")
    return root


def voc_labels(shift: int = 0) -> np.ndarray:
    """All 21 classes within white lines."""
    labels = ((np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) + shift) % 21).astype(np.uint8)
    labels[::6] = 255
    return labels


def voc(root: Path) -> Path:
    """VOCdevkit/VOC2012 as in the archive: palette PNGs, more images than are segmented. Returns VOCdevkit's parent."""
    home = root / "VOCdevkit" / "VOC2012"
    for name in {*VOC_TRAIN, *VOC_VAL, *SBD, "2012_004331"}:
        save(photo(name), home / "JPEGImages" / f"{name}.jpg", quality=95)
        (home / "Annotations").mkdir(exist_ok=True)
        (home / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    for name in (*VOC_TRAIN, *VOC_VAL):
        image = Image.fromarray(voc_labels())
        image.putpalette([*(part for colour in VOC.colours for part in colour), *[0] * (3 * 234), 224, 224, 192])
        save(image, home / "SegmentationClass" / f"{name}.png")
        save(image, home / "SegmentationObject" / f"{name}.png")
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, names in {"train": VOC_TRAIN, "val": VOC_VAL, "trainval": VOC_TRAIN + VOC_VAL}.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def sbd_labels(name: str) -> np.ndarray:
    """Other labels than VOC's, without lines."""
    return ((np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) + 7 + SBD.index(name)) % 21).astype(np.uint8)


def sbd(root: Path) -> Path:
    """benchmark_RELEASE/dataset as in benchmark.tgz."""
    home = root / "benchmark_RELEASE" / "dataset"
    for folder in ("cls", "inst", "img"):
        (home / folder).mkdir(parents=True)
    kind = [("Boundaries", "O"), ("Segmentation", "O"), ("CategoriesPresent", "O")]
    for name in SBD:
        struct = np.zeros((1, 1), kind)
        struct[0, 0] = (np.zeros((20, 1), np.uint8), sbd_labels(name), np.array([[1], [15]], np.uint8))
        savemat(home / "cls" / f"{name}.mat", {"GTcls": struct}, do_compression=True)
        savemat(home / "inst" / f"{name}.mat", {"GTinst": struct}, do_compression=True)
        save(photo(name), home / "img" / f"{name}.jpg")
    (home / "train.txt").write_text("".join(f"{name}\n" for name in SBD[:3]))
    (home / "val.txt").write_text("".join(f"{name}\n" for name in SBD[3:]))
    return root


def land(shift: int = 0) -> np.ndarray:
    """Labels of all classes, 6 where unknown, as columns."""
    return np.broadcast_to((np.arange(SIZE[1]) // 4 + shift) % 7, SIZE).astype(np.uint8)


def painted(labels: np.ndarray) -> np.ndarray:
    """As the colours of a mask, ``H W 3``."""
    return np.array(COLOURS, np.uint8)[labels]


def deepglobe(root: Path) -> Path:
    """Images and masks of the training set, and unlabelled images beside it."""
    for number, name in enumerate(NUMBERS):
        save(photo(name), root / "train" / f"{name}_sat.jpg", quality=95)
        save(Image.fromarray(painted(land(number))), root / "train" / f"{name}_mask.png")
    save(photo("valid"), root / "valid" / "77_sat.jpg")
    (root / "class_dict.csv").write_text("name,r,g,b\n")
    return root


def camvid(root: Path) -> Path:
    """As in the SegNet tutorial: absolute paths of another machine in the lists, and a picture that no list names."""
    for split, names in {"train": ["0001TP_006690", "0016E5_08"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]}.items():
        for name in [*names, "stray"]:
            save(photo(name), root / split / f"{name}.png")
            labels = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 12).astype(np.uint8)
            save(Image.fromarray(labels), root / f"{split}annot" / f"{name}.png")
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def zipped(folder: Path, file: Path, only: str = "") -> Path:
    """A zip of a folder's content, or of its paths that begin with ``only``."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if name.startswith(only):
                archive.write(path, name)
    return file


def tarred(folder: Path, file: Path) -> Path:
    """A tar of a folder's content, compressed if it is called so."""
    with tarfile.open(file, "w:gz" if file.suffix in (".gz", ".tgz") else "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return file


def opened(name: str, root: Path | None, split: str, **knobs: Any) -> Dataset:
    """A split by its configuration, of any number of images unless told otherwise."""
    values = {"name": name, "root": None if root is None else str(root), "count": "any", **knobs}
    if name == "camvid":
        del values["count"]
    return open_split(lookup("kd.data", name, "Dataset").Config.model_validate(values), split)


def trained(name: str, root: Path, folder: Path, **knobs: Any) -> dict[str, Any]:
    """The result of one training step and an evaluation on val."""
    tree = plain(tiny(schedule={"steps": 1, "batch": 2}, evaluation={"every": 0, "report": "val"}))
    tree["data"] = {"name": name, "root": str(root), **knobs}
    recipe = build(tree)
    return train(recipe, {}, folder, None, open_split(recipe.data, "train"), torch.device("cpu"))
