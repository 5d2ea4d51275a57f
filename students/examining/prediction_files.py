"""The files of predictions: what is written for each image, and how it is known what is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from kd.config import InputError
from kd.data.dataset import Colour
from kd.data.mask_coding import palette as fallback
from kd.evaluate.logits import Logits, labels
from kd.files import parsed, write_whole
from kd.metrics.foreground import foreground
from kd.plain_yaml import load_yaml
from students.examining.previews import indexed, legend, overlay

CARD, INPUTS = "predictions.yaml", "inputs.jsonl"
IDENTITY = ("weights", "predictor", "classes", "threshold")
"""What predictions in one directory must share."""


class Writer:
    """Writes below a directory, each file completely or not at all.

    ``labels/NAME.png`` holds class numbers, coloured by a palette; ``masks/NAME.png``, of two classes, 0 and 255;
    ``overlay/NAME.jpg`` the image under the classes' colours, with ``legend.png`` once; ``probabilities/NAME.npz`` the array
    ``probabilities``, float16 ``K H W``. All are upright, as the image's EXIF says. ``predictions.yaml`` says which network,
    predictor and threshold made them, ``inputs.jsonl`` of which images.

    Raises:
        InputError: the directory holds predictions of another network or predictor, and ``replace`` is false.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], kinds: Sequence[str], replace: bool = False) -> None:
        self.folder, self.kinds, self.replace = folder, kinds, replace
        self.colours: list[Colour] = [tuple(colour) for colour in facts.get("colours") or fallback(len(facts["classes"]))]
        card = {**facts, "colours": [list(colour) for colour in self.colours]}
        if not replace:
            _check_same(folder / CARD, card)
        text = yaml.safe_dump(card, sort_keys=False)
        write_whole(folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))
        self.inputs, self.threshold = _inputs(folder / INPUTS), facts.get("threshold")
        if "overlay" in kinds:
            key = legend(facts["classes"], self.colours, ignored=False)
            write_whole(folder / "legend.png", lambda path: key.save(path, "PNG"))

    def finished(self, name: str, mark: str) -> bool:
        """Whether all files of a name are there, of an image of this content, and need not be replaced."""
        there = all(self.file(kind, name).exists() for kind in self.kinds)
        return there and not self.replace and self.inputs.get(name) == mark

    def file(self, kind: str, name: str) -> Path:
        """Where a kind of prediction goes: ``labels``, ``overlay`` or ``probabilities``."""
        return self.folder / kind / f"{name}{ENDINGS[kind]}"

    def write(self, name: str, mark: str, image: Tensor, logits: Logits) -> None:
        """All files of one image: uint8 ``3 H W`` and its logits; ``mark`` stands for the content of its file.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        least = self.threshold
        found = (logits.labels() if least is None else torch.cat([above(part, least) for _, part in logits.blocks()])).cpu()
        for kind in self.kinds:
            save = getattr(self, f"_{kind}")(image, found, logits)
            write_whole(self.file(kind, name), save)
        self.inputs[name] = mark
        with (self.folder / INPUTS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"name": name, "image": mark}) + "\n")

    def _labels(self, image: Tensor, found: Tensor, logits: Logits) -> Callable[[Path], object]:  # noqa: ARG002
        picture = indexed(found.numpy(), self.colours)
        return lambda path: picture.save(path, "PNG")

    def _masks(self, image: Tensor, found: Tensor, logits: Logits) -> Callable[[Path], object]:  # noqa: ARG002
        picture = Image.fromarray(found.numpy() * np.uint8(255))
        return lambda path: picture.save(path, "PNG")

    def _overlay(self, image: Tensor, found: Tensor, logits: Logits) -> Callable[[Path], object]:  # noqa: ARG002
        drawn = overlay(image, found, self.colours)
        return lambda path: drawn.save(path, "JPEG", quality=92)

    def _probabilities(self, image: Tensor, found: Tensor, logits: Logits) -> Callable[[Path], object]:  # noqa: ARG002
        shares = logits.whole().softmax(0).half().cpu().numpy()

        def save(path: Path) -> None:
            with path.open("wb") as stream:
                np.savez_compressed(stream, probabilities=shares)

        return save


ENDINGS = {"labels": ".png", "masks": ".png", "overlay": ".jpg", "probabilities": ".npz"}


def above(logits: Tensor, threshold: float) -> Tensor:
    """1 where the second of two classes has at least this probability, else 0: uint8 ``H W`` of ``2 H W``.

    Raises:
        FloatingPointError: the logits are not finite.
    """
    labels(logits)  # complains
    return (foreground(logits) >= threshold).to(torch.uint8)


def _inputs(file: Path) -> dict[str, str]:
    """The marks of the images that predictions were made of, by name; a line that was cut off counts for nothing."""
    found: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            record = parsed(line)
            found[record["name"]] = record["image"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _check_same(file: Path, card: Mapping[str, Any]) -> None:
    if not file.exists():
        return
    try:
        old = load_yaml(file.read_text(encoding="utf-8"))
        changed = [key for key in IDENTITY if old.get(key) != card.get(key)]
    except (yaml.YAMLError, ValueError, AttributeError):
        changed = [f"{CARD} cannot be read"]
    if changed:
        raise InputError(
            f"{file.parent}: holds predictions of another network or predictor (different: {', '.join(changed)}); choose "
            "another --output, or --overwrite to replace them"
        )
