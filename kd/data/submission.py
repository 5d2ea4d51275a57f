"""Predictions in the form that a data set's evaluation server reads.

A data set whose test labels are secret declares ``submission``. For each test image ``write_submission(data, labels, image,
folder)``, at the end ``zip_submission(folder, file)``; the zip is what is uploaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kd.config import InputError
from kd.files import write_whole


@dataclass(frozen=True)
class Submission:
    """What a server expects of a label map.

    ``values``: the number to write for each class; ``size``: (H, W) of every test image; ``name``: from an image's path or
    the name of its prediction to the sample's own name, raising InputError for foreign ones; ``suffix``: follows the name.
    """

    values: tuple[int, ...]
    size: tuple[int, int]
    name: Callable[[str], str]
    suffix: str = ""


def submission_of(data: type[Any]) -> Submission:
    """The form that a data set's class declares.

    Raises:
        InputError: it has no evaluation server.
    """
    found = getattr(data, "submission", None)
    if not isinstance(found, Submission):
        raise InputError(f"{data.__name__} has no evaluation server to submit to; evaluate a labelled split instead")
    return found


def write_submission(data: type[Any], labels: Tensor, image: str | Path, folder: Path) -> Path:
    """Write one prediction as the server wants it, completely or not at all. Returns the file.

    Args:
        data: the data set's class, e.g. ``lookup("kd.data", "cityscapes", "Dataset")``.
        labels: class numbers ``H W`` of any integer type, at the image's full size.
        image: the image's path, or its name in the data set.
        folder: holds nothing but the submission; servers refuse two files for one image.

    Raises:
        InputError: the image is not of the data set, the size is wrong, a value is no class, or there is no server.
    """
    form = submission_of(data)
    name = form.name(str(image))
    if tuple(labels.shape) != form.size:
        height, width = form.size
        raise InputError(
            f"{image}: the prediction is {' x '.join(map(str, labels.shape))}, the server compares {height} x {width}; predict "
            "images at full size"
        )
    numbers = labels.cpu().to(torch.int64).numpy()
    wrong = numbers[(numbers < 0) | (numbers >= len(form.values))]
    if wrong.size:
        raise InputError(f"{image}: the prediction holds {wrong[0]}; it must hold class numbers 0..{len(form.values) - 1}")
    encoded = Image.fromarray(np.array(form.values, np.uint8)[numbers])
    return write_whole(folder / f"{name}{form.suffix}.png", lambda path: encoded.save(path, "PNG"))


def zip_submission(folder: Path, file: Path) -> int:
    """Pack the PNGs of a folder into one flat zip, completely or not at all. Returns how many there are.

    Raises:
        InputError: there is none.
    """
    found = sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
    if not found:
        raise InputError(f"{folder}: holds no prediction; write_submission fills it")

    def pack(target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for path in found:
                archive.write(path, path.name)

    write_whole(file, pack)
    return len(found)
