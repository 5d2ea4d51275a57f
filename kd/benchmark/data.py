"""What training samples cost, on one thread: from the files of a frame and its labels to crops, the usual way and ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from kd.benchmark.comparison import Comparison, Ways
from kd.benchmark.setting import Setting, random_target
from kd.data.augment import Augmentation, draw
from kd.data.build import open_split
from kd.data.lazy_torchvision import functional
from kd.data.loader import Crops, Draw
from kd.data.store.writing import store
from kd.lookup import configured
from kd.seeds import generator
from kd.types import IGNORE, Geometry

DRAWS, SEED = 8, 0
"""Crops of one pass, all of one frame, each at another scale and place."""
MEAN, DEVIATION = np.array([124, 116, 104], np.float32), np.array([58, 57, 57], np.float32)
Way = Callable[[int], tuple[Tensor, Tensor]]
Resize = Callable[[Path, Path, Geometry], tuple[np.ndarray, np.ndarray]]


def with_opencv(image_file: Path, label_file: Path, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Image as floats ``H W 3`` and labels ``H W``: read, then resized as a whole, as the published training code does."""
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    how = {"fx": geometry.scale, "fy": geometry.scale}
    image = cv2.cvtColor(cv2.imread(str(image_file)), cv2.COLOR_BGR2RGB).astype(np.float32)
    labels = cv2.imread(str(label_file), cv2.IMREAD_UNCHANGED)
    nearest = cv2.resize(labels, None, **how, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, None, **how, interpolation=cv2.INTER_LINEAR), nearest


def with_torch(image_file: Path, label_file: Path, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The same by Pillow and torch, where there is no OpenCV."""
    with Image.open(image_file) as image, Image.open(label_file) as labels:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None]
        marks = torch.from_numpy(np.array(labels))[None, None]
    size, scales = [geometry.height, geometry.width], (geometry.scale, geometry.scale)
    resized = torch.ops.aten.upsample_bilinear2d(pixels, size, False, *scales)
    nearest = torch.ops.aten.upsample_nearest2d(marks, size, *scales)
    return resized[0].permute(1, 2, 0).numpy(), nearest[0, 0].numpy()


def usual(
    image_file: Path, label_file: Path, geometry: Geometry, config: Augmentation, resize: Resize
) -> tuple[Tensor, Tensor]:
    """Read, make floats, resize the whole, pad, crop, flip, normalise: image float32 ``3 h w``, labels int64 ``h w``."""
    image, labels = (_cut(values, geometry, config.crop) for values in resize(image_file, label_file, geometry))
    if geometry.flipped:
        image, labels = image[:, ::-1], labels[:, ::-1]
    image = (image - MEAN) / DEVIATION
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(labels.astype(np.int64))


def _cut(values: np.ndarray, geometry: Geometry, crop: tuple[int, int]) -> np.ndarray:
    top, left = geometry.top, geometry.left
    part = values[max(top, 0) : max(top, 0) + crop[0], max(left, 0) : max(left, 0) + crop[1]]
    if part.shape[:2] == crop:
        return part
    field = np.empty((*crop, *part.shape[2:]), part.dtype)
    field[...] = MEAN if part.ndim == 3 else IGNORE
    field[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]] = part
    return field


def frame(root: Path, size: tuple[int, int], classes: int, suffix: str) -> Path:
    """A data set of one smooth picture with some noise, as photos have it, and labels in blocks. Returns the picture's file."""
    source = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(1, 3, *(side // 32 + 1 for side in size), generator=source)
    smooth = F.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0)
    noisy = smooth + torch.randn(smooth.shape, generator=source)
    labels = random_target(Setting(size, 1, classes))[0]
    files = root / "images" / f"frame{suffix}", root / "masks" / "frame.png"
    for file, values in zip(files, (noisy, labels), strict=True):
        file.parent.mkdir(parents=True)
        Image.fromarray(values.clamp(0, 255).byte().numpy()).save(file, quality=95, subsampling=0)
    return files[0]


def ways(setting: Setting, resize: str) -> tuple[dict[str, Way], TemporaryDirectory[str]]:
    """What makes the crop of a number in each way; and the folder of the files, which goes with the last reference to it."""
    functional()  # loads what decodes, as training does
    folder, size = TemporaryDirectory(), (2 * setting.crop[0], 2 * setting.crop[1])
    config = Augmentation.model_validate({"crop": setting.crop, "resize": resize, "fill": MEAN.astype(int).tolist()})
    geometries = [draw(config, size, generator(SEED, "augment", number, 0)) for number in range(DRAWS)]
    name, look = ("OpenCV", with_opencv) if find_spec("cv2") else ("torch; no OpenCV here", with_torch)
    before, after = {}, {}
    for suffix in (".png", ".jpg"):
        root, kind = Path(folder.name, suffix[1:]), suffix[1:].upper()
        file = frame(root, size, setting.classes, suffix)
        data = {
            "name": "folder",
            "root": str(root),
            "classes": [f"{n}" for n in range(setting.classes)],
            "portions": {"train": 1},
        }
        given = configured(data, "kd.data", "Dataset", "data")
        masks = root / "masks" / "frame.png"
        before[f"usual, {kind} ({name})"] = partial(_usual, file, masks, geometries, config, look)
        after[kind] = partial(_ours, Crops(open_split(given, "train"), config, SEED))
        if suffix == ".png":
            store(given, Path(folder.name, "store"))
            stored = open_split(given.model_copy(update={"store": f"{folder.name}/store"}), "train")
            kept = {"store": partial(_ours, Crops(stored, config, SEED))}
    return {**before, **after, **kept}, folder


def _usual(
    image: Path, labels: Path, geometries: list[Geometry], config: Augmentation, resize: Resize, number: int
) -> tuple[Tensor, Tensor]:
    return usual(image, labels, geometries[number], config, resize)


def _ours(crops: Crops, number: int) -> tuple[Tensor, Tensor]:
    image, labels, _, _ = crops[Draw(number, 0)]
    return image, labels


def _compared(setting: Setting, resize: str) -> Ways:
    found, folder = ways(setting, resize)

    def one_pass(way: Way, _: TemporaryDirectory[str]) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for number in range(DRAWS):
            way(number)
        torch.set_num_threads(threads)

    return {name: partial(one_pass, way, folder) for name, way in found.items()}


COMPARISONS = {
    f"{DRAWS} samples, one thread, resized as OpenCV does": Comparison(partial(_compared, resize="opencv")),
    f"{DRAWS} samples, one thread, antialiased": Comparison(partial(_compared, resize="antialiased")),
}
