"""Predictions of images without labels: by which predictor, of which images, and packed for a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from kd.config import ConfigError, InputError, shown
from kd.content import file_mark
from kd.data import band_files
from kd.data.bands import RGB, Bands
from kd.data.dataset import Dataset
from kd.data.reading import BrokenFileError, read_labels
from kd.data.submission import submission_of, write_submission, zip_submission
from kd.evaluate.build import build_predictor
from kd.evaluate.predictor import Network, Predictor
from kd.files import grouped
from kd.lookup import lookup
from kd.plain_yaml import load_yaml
from students.examining.image_paths import Item
from students.examining.prediction_files import Writer
from students.progress import bar, say


def chosen_predictor(text: str | None, model: Path) -> Predictor:
    """The predictor that a YAML text describes (a name alone will do), else that of the run's recipe, else the whole image.

    Raises:
        ConfigError: the text or the recipe cannot be read, or describes no predictor.
    """
    recipe = model / "recipe.yaml"
    try:
        if text is not None:
            values = load_yaml(text)
        else:
            values = _evaluation(recipe) if recipe.exists() else "whole"
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        source = recipe if text is None else "--predictor"
        raise ConfigError(f"{source}: cannot be read ({error}); write --predictor '{{name: whole}}'") from None
    values = {"name": values} if isinstance(values, str) else values
    if not isinstance(values, dict):
        raise ConfigError(f"--predictor: is {shown(values)}; write a name, or a mapping such as '{{name: whole}}'")
    return build_predictor(values)


def _evaluation(recipe: Path) -> Any:
    """The predictor that a resolved recipe evaluates with; says so where the network knows another scale."""
    tree = load_yaml(recipe.read_text(encoding="utf-8"))
    if tree["data"].get("resize"):
        say(
            f"note: the run saw images resized to {tree['data']['resize']} (H, W), here they keep their size; "
            "for half of it add --predictor '{name: multi_scale, scales: [0.5], flip: false}'"
        )
    return tree["evaluation"]["predictor"]


@dataclass
class Report:
    """Names written, those of them whose image had changed, names found finished, and files that could not be read, and why."""

    changed: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@torch.inference_mode()
def predict(
    network: Network,
    predictor: Predictor,
    items: Sequence[Item],
    writer: Writer,
    device: torch.device,
    bands: Bands = RGB,
) -> Report:
    """Predict every image that is not finished, one at a time, at its own size, read as ``bands`` say. Unreadable files are
    passed over, and told by their causes at the end.

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
                image = band_files.read(item.path, bands, trained=True)
            except BrokenFileError as error:
                report.broken.append(str(error))
                continue
            with _told(item, image, device):
                writer.write(item.name, mark, bands.visible(image), predictor.read(network, image[None].to(device))[0])
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
        remedy = "tiles, --tile 512, or --device cpu"
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
