"""The qualitative sheet: fixed images with target, teacher and students as small pictures inside the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kd.files import grouped
from kd.report.sections import Part, several_teachers
from kd.report.styles import Look
from kd.results.rows import Block
from kd.results.runs import Run

WIDEST, MOST = 480, 8
"""Pixels of a picture's width, and images on a sheet."""
IGNORED = 255
GREY = (128, 128, 128)
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """``source`` and ``errors`` (laid over it, may be empty) are data URIs; sizes in pixels."""

    title: str
    source: str
    width: int
    height: int
    look: Look | None = None
    errors: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """One image's pictures."""

    name: str
    pictures: Sequence[Picture]


@dataclass
class Gallery:
    """All sheets of a block; ``legend`` holds the classes that appear on them (names, colours as CSS), ``unreadable`` a line
    for each file that could not be shown."""

    sheets: list[Sheet] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    seen: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def told(self) -> list[str]:
        """``unreadable`` by its causes."""
        return grouped(self.unreadable, "pictures")

    def read(self, path: Path) -> Image.Image | None:
        """A picture; None if it is not there, or not readable, which is noted."""
        if not path.exists():
            return None
        try:
            picture = Image.open(path)
            picture.load()
            if path.suffix == ".png" and picture.mode != "P":
                raise ValueError("no palette")
        except Exception as error:  # each damaged header breaks Pillow in its own way
            self.unreadable.append(f"{path}: cannot be shown ({error})")
            return None
        return picture


def pictures(block: Block, looks: Mapping[str, Look]) -> Part:
    """The first seed of each row on the images that the runs have kept."""
    heading = "Images"
    firsts = {row.label: row.runs[0] for row in block.rows}
    names = sorted({path.name for run in firsts.values() for path in _kept(run).glob("*") if path.is_dir()})
    gallery = Gallery()
    for name in names[:MOST]:
        shown = list(_pictures(gallery, name, firsts, looks, taught=not several_teachers(block)))
        if shown:
            gallery.sheets.append(Sheet(re.sub(r"^\d+_", "", name), shown))
    if not gallery.sheets:
        return Part("images", heading, missing="No run has kept sample predictions (`previews/final`): no pictures.")
    named = _class_names(block)
    gallery.legend = [(named.get(number, f"class {number}"), _css(gallery.seen[number])) for number in sorted(gallery.seen)]
    seeds = {run.seed for run in firsts.values()}
    which = f"seed {seeds.pop()}" if len(seeds) == 1 else "the first seed of each row"
    left = f" {len(names) - MOST} more are not shown." if len(names) > MOST else ""
    caption = (
        f"Fixed images of split {block.first.selected_on}, last checkpoint, {which}. Under each prediction: its share of wrong "
        f"pixels among the labelled ones of this image. Legend: the classes that appear here.{left}"
    )
    return Part("images", heading, "sheet.html", gallery, caption)


def _kept(run: Run) -> Path:
    return run.folder / "previews" / "final"


def _class_names(block: Block) -> dict[int, str]:
    """Scores list the classes in the order of their numbers."""
    found = (run.last[run.reported_on].get("iou") for row in block.rows for run in row.runs)
    return dict(enumerate(next((iou for iou in found if iou), ())))


def _pictures(
    gallery: Gallery, name: str, firsts: Mapping[str, Run], looks: Mapping[str, Look], taught: bool
) -> Iterator[Picture]:
    """Image, target, the teacher of all where there is one, then each row."""
    folders = {label: _kept(run) / name for label, run in firsts.items()}
    photo, target, teacher = (_first(gallery, folders.values(), file) for file in ("image.jpg", "target.png", "teacher.png"))
    truth = None if target is None else np.asarray(target)
    if photo is not None:
        yield _photo(photo)
    if target is not None:
        yield _labels(gallery, target, "target", None, None)
    if teacher is not None and taught:
        yield _labels(gallery, teacher, "teacher", None, truth)
    for label, folder in folders.items():
        student = gallery.read(folder / "student.png")
        if student is not None:
            yield _labels(gallery, student, label, looks[label], truth)


def _first(gallery: Gallery, folders: Iterable[Path], file: str) -> Image.Image | None:
    return next((found for folder in folders if (found := gallery.read(folder / file)) is not None), None)


def _photo(photo: Image.Image) -> Picture:
    small = photo.convert("RGB").resize(_size(photo), Image.Resampling.LANCZOS)
    return Picture("image", _uri(small, "jpeg", quality=82), *small.size)


def _labels(gallery: Gallery, drawn: Image.Image, title: str, look: Look | None, truth: Labels | None) -> Picture:
    """A label map in its own colours, 255 in grey, and what of it is wrong."""
    labels = np.asarray(drawn)
    colours = np.zeros((256, 3), np.uint8)
    own = np.array(drawn.getpalette() or [], np.uint8).reshape(-1, 3)
    colours[: len(own)] = own
    colours[IGNORED] = GREY
    for number in np.unique(labels):
        if number != IGNORED:
            gallery.seen.setdefault(int(number), tuple(map(int, colours[number])))  # type: ignore[arg-type]
    small = _indexed(labels, colours, _size(drawn))
    if truth is None or truth.shape != labels.shape:
        return Picture(title, _uri(small, "png"), *small.size, look)
    known = truth != IGNORED
    wrong = known & (labels != truth)
    share = f"{100 * wrong.sum() / known.sum():.1f} % wrong" if known.any() else "no labelled pixels"
    states = np.where(known, wrong, 2).astype(np.uint8)  # 0 right, 1 wrong, 2 not labelled
    veil = _indexed(states, np.array([(255, 255, 255), (0, 0, 0), GREY], np.uint8), _size(drawn))
    errors = _uri(veil, "png", transparency=bytes([225, 0, 255]))
    return Picture(title, _uri(small, "png"), *small.size, look, errors, share)


def _size(picture: Image.Image) -> tuple[int, int]:
    factor = min(1.0, WIDEST / picture.width)
    return max(1, round(picture.width * factor)), max(1, round(picture.height * factor))


def _indexed(labels: Labels, colours: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    small = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    small.putpalette(colours.tobytes())
    return small


def _uri(picture: Image.Image, form: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, form, optimize=True, **options)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def _css(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
