"""Predictions of images without labels: what is written for each, and by which predictor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from kd.config import ConfigError, InputError
from kd.content import file_mark
from kd.data.dataset import Colour, Dataset
from kd.data.mask_coding import palette as fallback
from kd.data.reading import BrokenFileError, read_image, read_labels
from kd.data.submission import submission_of, write_submission, zip_submission
from kd.evaluate.build import build_predictor
from kd.evaluate.predictor import Network, Predictor, labels
from kd.files import grouped, write_whole
from kd.lookup import lookup
from students.examining.image_paths import Item
from students.examining.previews import indexed, legend, overlay
from students.progress import bar, say

CARD, INPUTS = "predictions.yaml", "inputs.jsonl"
IDENTITY = ("weights", "predictor", "classes")
"""What predictions in one directory must share."""


def chosen_predictor(text: str | None, model: Path) -> Predictor:
    """The predictor that a YAML text describes (a name alone will do), else that of the run's recipe, else the whole image.

    Raises:
        ConfigError: the text or the recipe cannot be read, or describes no predictor.
    """
    recipe = model / "recipe.yaml"
    try:
        if text is not None:
            values = yaml.safe_load(text)
        else:
            values = _evaluation(recipe) if recipe.exists() else "whole"
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        source = recipe if text is None else "--predictor"
        raise ConfigError(f"{source}: cannot be read ({error}); write --predictor '{{name: whole}}'") from None
    values = {"name": values} if isinstance(values, str) else values
    if not isinstance(values, dict):
        raise ConfigError(f"--predictor: is {values!r}; write a name, or a mapping such as '{{name: whole}}'")
    return build_predictor(values)


def _evaluation(recipe: Path) -> Any:
    """The predictor that a resolved recipe evaluates with; says so where the network knows another scale."""
    tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    if tree["data"].get("resize"):
        say(
            f"note: the run saw images resized to {tree['data']['resize']} (H, W), here they keep their size; "
            "for half of it add --predictor '{name: multi_scale, scales: [0.5], flip: false}'"
        )
    return tree["evaluation"]["predictor"]


class Writer:
    """Writes below a directory, each file completely or not at all.

    ``labels/NAME.png`` holds class numbers, coloured by a palette; ``overlay/NAME.jpg`` the image under the classes' colours,
    with ``legend.png`` once; ``probabilities/NAME.npz`` the array ``probabilities``, float16 ``K H W``. All are upright, as
    the image's EXIF says. ``predictions.yaml`` says which network and predictor made them, ``inputs.jsonl`` of which images.

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
        self.inputs = _inputs(folder / INPUTS)
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

    def write(self, name: str, mark: str, image: Tensor, logits: Tensor) -> None:
        """All files of one image: uint8 ``3 H W`` and its logits ``K H W``; ``mark`` stands for the content of its file.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        found = labels(logits).cpu()
        for kind in self.kinds:
            save = getattr(self, f"_{kind}")(image, found, logits)
            write_whole(self.file(kind, name), save)
        self.inputs[name] = mark
        with (self.folder / INPUTS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"name": name, "image": mark}) + "\n")

    def _labels(self, image: Tensor, found: Tensor, logits: Tensor) -> Callable[[Path], object]:  # noqa: ARG002
        picture = indexed(found.numpy(), self.colours)
        return lambda path: picture.save(path, "PNG")

    def _overlay(self, image: Tensor, found: Tensor, logits: Tensor) -> Callable[[Path], object]:  # noqa: ARG002
        drawn = overlay(image, found, self.colours)
        return lambda path: drawn.save(path, "JPEG", quality=92)

    def _probabilities(self, image: Tensor, found: Tensor, logits: Tensor) -> Callable[[Path], object]:  # noqa: ARG002
        shares = logits.softmax(0).half().cpu().numpy()

        def save(path: Path) -> None:
            with path.open("wb") as stream:
                np.savez_compressed(stream, probabilities=shares)

        return save


ENDINGS = {"labels": ".png", "overlay": ".jpg", "probabilities": ".npz"}


def _inputs(file: Path) -> dict[str, str]:
    """The marks of the images that predictions were made of, by name; a line that was cut off counts for nothing."""
    found: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
            found[record["name"]] = record["image"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _check_same(file: Path, card: Mapping[str, Any]) -> None:
    if not file.exists():
        return
    try:
        old = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed = [key for key in IDENTITY if old.get(key) != card.get(key)]
    except (yaml.YAMLError, ValueError, AttributeError):
        changed = [f"{CARD} cannot be read"]
    if changed:
        raise InputError(
            f"{file.parent}: holds predictions of another network or predictor (different: {', '.join(changed)}); choose "
            "another --output, or --overwrite to replace them"
        )


@dataclass
class Report:
    """Names written, those of them whose image had changed, names found finished, and files that could not be read, and why."""

    changed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@torch.inference_mode()
def predict(network: Network, predictor: Predictor, items: Sequence[Item], writer: Writer, device: torch.device) -> Report:
    """Predict every image that is not finished, one at a time, at its own size. Unreadable files are passed over, and told by
    their causes at the end.

    Raises:
        InputError: an image does not fit into the device's memory, or the network answers with NaN.
    """
    report = Report()
    try:
        for item in bar(items, "predicting"):
            mark = file_mark(item.path)
            if writer.finished(item.name, mark):
                report.finished.append(item.name)
                continue
            if writer.inputs.get(item.name, mark) != mark:
                report.changed.append(item.name)
            try:
                image = read_image(item.path)
            except BrokenFileError as error:
                report.broken.append(str(error))
                continue
            with _told(item, image, device):
                writer.write(item.name, mark, image, predictor(network, image[None].to(device))[0])
            report.written.append(item.name)
    finally:
        for line in grouped(report.broken, "images"):
            say(f"skipped: {line}")
    return report


@contextmanager
def _told(item: Item, image: Tensor, device: torch.device) -> Iterator[None]:
    """What can go wrong with one image, said of its file."""
    try:
        yield
    except torch.OutOfMemoryError:
        remedy = "a smaller window, --predictor '{name: sliding, window: [512, 512]}', or --device cpu"
        raise InputError(f"{item.path}: {tuple(image.shape[1:])} does not fit into {device}'s memory; use {remedy}") from None
    except FloatingPointError as error:
        raise InputError(f"{item.path}: {error}") from None


def server(name: str, classes: Sequence[str], items: Sequence[Item]) -> type[Dataset]:
    """The data set whose evaluation server is meant, once it is clear that it will take predictions of these images.

    Raises:
        InputError: the data set is unknown, has no server or other classes, or an image is not its own.
    """
    data = lookup("kd.data", name, "Dataset")
    form = submission_of(data)
    if tuple(classes) != tuple(data.classes):
        raise InputError(f"--submission: the network's classes are not those of {name}; a server compares numbers only")
    for item in items:
        form.name(str(item.path))
    return data


def submit(data: type[Dataset], items: Sequence[Item], writer: Writer) -> Path:
    """Pack finished predictions as ``submission.zip`` for the server of a data set; ``submission/`` is written anew.

    Raises:
        InputError: a prediction has not the size that the server compares.
    """
    folder, file = writer.folder / "submission", writer.folder / "submission.zip"
    shutil.rmtree(folder, ignore_errors=True)
    for item in bar(items, "packing"):
        write_submission(data, read_labels(writer.file("labels", item.name)), item.path, folder)
    zip_submission(folder, file)
    return file
