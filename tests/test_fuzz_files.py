"""Whatever lies in the files of a data set or of a run is read as it was written, or refused in a short message."""

from __future__ import annotations

import io
import json
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers_faults import FAULTS
from helpers_fuzz import Draw, Tally, edited, encoded, examples, harmed, scrambled
from helpers_results import write_run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny import tiny

from kd.data.build import open_split
from kd.data.headers import is_one_bit, kind, turn_of
from kd.data.lazy_torchvision import functional
from kd.data.reading import read_labels, read_palette, read_values
from kd.plain_yaml import load_yaml
from kd.report.page import page
from kd.results import layouts
from kd.results.groups import Choices
from kd.results.published import load_published
from kd.results.records import records
from kd.results.render import written
from kd.results.rows import summarise
from kd.results.runs import load_runs
from kd.sealed import sealed
from students.verifying import files_below, lines, verify

tifffile = pytest.importorskip("tifffile")
pytestmark = [pytest.mark.timeout(3600 if FAULTS else 240), pytest.mark.filterwarnings("ignore::UserWarning:PIL")]

SIZE = (6, 8)
LABELS = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
PHOTO = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def picture(array: NDArray[Any], mode: str = "", form: str = "PNG", **options: Any) -> bytes:
    """A picture file."""
    file, image = io.BytesIO(), Image.fromarray(array)
    if mode == "P":
        image.putpalette([1, 2, 3] * 256)
    (image.convert(mode) if mode and mode != image.mode else image).save(file, form, **options)
    return file.getvalue()


def tiff(array: NDArray[Any], **options: Any) -> bytes:
    """A TIFF of whatever channels."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    """An array's file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


BANDS = np.stack([LABELS] * 4)
FILES = {
    ".png": [
        *(picture(LABELS), picture(LABELS, "P"), picture(LABELS * 255, "1"), picture(LABELS.astype(np.uint16))),
        *(picture(LABELS, "LA"), picture(PHOTO), picture(PHOTO, "RGBA"), picture(LABELS[:3]), picture(LABELS + 250)),
        *(picture(PHOTO, form=form) for form in ("JPEG", "WEBP", "BMP", "TIFF")),
        *(picture(LABELS, form=form) for form in ("GIF", "PPM")),
        picture(LABELS, save_all=True, append_images=[Image.fromarray(LABELS)]),
        *(b"", b"\x89PNG\r\n\x1a\n", b"P5\n6 8\n255\n" + bytes(48)),
    ],
    ".tif": [
        *(tiff(LABELS.astype(kind)) for kind in ("u1", "u2", "f4", "i8")),
        *(
            tiff(BANDS, photometric="rgb", planarconfig="separate"),
            tiff(PHOTO),
            tiff(LABELS, compression="zlib"),
            tiff(BANDS[:3], photometric="minisblack"),
        ),
        *(picture(LABELS, form="TIFF", compression=codec) for codec in ("raw", "tiff_lzw", "packbits")),
    ],
    ".npy": [
        *(npy(BANDS), npy(PHOTO), npy(BANDS.transpose(1, 2, 0)), npy(LABELS.astype(float)), npy(BANDS.astype(">u2"))),
        *(npy(np.array(["a", None], object)), npy(np.zeros((0, 5))), npy(BANDS.astype("c8")), npy(np.array(5))),
    ],
}


def checked(content: bytes) -> bytes:
    """A PNG with check sums that fit what it holds, as a bad writer leaves it."""
    found, place = content[:8], 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        body = content[place + 4 : place + 8 + length]
        found += struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return found + content[place:]


@st.composite
def pictures(draw: Draw, suffix: str) -> bytes:
    """A whole file or a harmed one."""
    content = draw(st.sampled_from(FILES[suffix]))
    content = draw(harmed(content)) if draw(st.integers(0, 3)) else content
    return checked(content) if content.startswith(b"\x89PNG") and draw(st.booleans()) else content


def read_all(values: dict[str, Any]) -> None:
    """Each sample of a data set, whose labels are classes."""
    data = open_split(values, "train")
    for index in range(len(data)):
        image, labels = data.read(index)
        known = labels[labels != 255]
        assert image.shape[1:] == labels.shape
        assert not len(known) or int(known.max()) < len(data.classes)
        assert data.identity(index)


def folder(root: Path, **values: Any) -> dict[str, Any]:
    """The data set of a folder whose one split is ``train``."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return {"name": "folder", "root": str(root), "portions": {"train": 1.0}, "classes": ["a", "b", "c"], **values}


def alone(file: Path, content: bytes) -> Path:
    """The only file of its folder."""
    for other in file.parent.iterdir():
        other.unlink()
    file.write_bytes(content)
    return file


CODINGS: list[dict[str, Any]] = [
    {},
    {"classes": {0: "a", 1: "b", 255: "c"}},
    {"classes": ["a", "b"], "threshold": 128},
    {"classes": None, "colours": {"a": [0, 0, 0], "b": [1, 1, 1], "c": [2, 2, 2]}},
    {"ignore": [7, 65535], "resize": [4, 4]},
]


def test_a_label_file_is_read_or_refused(tmp_path: Path, tally: Tally) -> None:
    root, data = tmp_path, folder(tmp_path)
    (root / "images" / "a.png").write_bytes(picture(PHOTO))
    functional()  # whose decoder crashes the process where it is shown what is damaged

    @examples(200, 12_000)
    @given(st.sampled_from((".png", ".tif")), st.data(), st.sampled_from(CODINGS))
    def holds(suffix: str, drawn: st.DataObject, coding: dict[str, Any]) -> None:
        file = alone(root / "masks" / f"a{suffix}", drawn.draw(pictures(suffix)))
        tally.outcome(lambda: read_all({**data, **coding}), str(file))
        assert kind(file)[1] == turn_of(file) in range(1, 9)
        assert is_one_bit(file) in (True, False)
        assert read_palette(file) is not None

    holds()


def test_an_image_file_is_read_or_refused(tmp_path: Path, tally: Tally) -> None:
    root, data = tmp_path, folder(tmp_path)
    (root / "masks" / "a.png").write_bytes(picture(LABELS))
    functional()
    bands: tuple[dict[str, Any], ...] = (
        *({}, {"resize": [4, 5]}, {"channels": 4}),
        *({"channels": 4, "range": [0, 100]}, {"channels": 1, "range": [[0, 3]]}),
    )

    @examples(150, 12_000)
    @given(st.sampled_from(sorted(FILES)), st.data(), st.sampled_from(bands))
    def holds(suffix: str, drawn: st.DataObject, more: dict[str, Any]) -> None:
        file = alone(root / "images" / f"a{suffix}", drawn.draw(pictures(suffix)))
        tally.outcome(lambda: read_all({**data, **more}), str(file), str(root / "masks" / "a.png"))

    holds()


def test_a_label_map_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    functional()

    @examples(40, 3000)
    @given(st.integers(1, 9), st.binary(min_size=18, max_size=144), st.sampled_from(("", "P", "I;16")), st.integers(0, 9))
    def holds(width: int, content: bytes, mode: str, level: int) -> None:
        values = np.frombuffer(content[: len(content) // (2 * width) * 2 * width], "<u2" if mode == "I;16" else "u1")
        values = values.reshape(-1, width)
        file.write_bytes(picture(values, "P" if mode == "P" else "", compress_level=level))
        assert np.array_equal(read_values(file), values)
        if values.dtype == np.uint8:
            assert np.array_equal(read_labels(file).numpy(), values)

    holds()


# ----------------------------------------------------------------------------------------------------------------- lists

NAMES = ("a", "b c", "sub/d", "é")
LISTS = (
    *("a\nb c\nsub/d\né\n", "a.png a.png\nb c.png b c.png\n", "images/a.png masks/a.png\nimages/sub/d.png\tmasks/sub/d.png\n"),
    *("a a.png\na\n", "/abs/a.png\n../x.png ../y.png\nC:\\a\\a.png\n", "a\x00b\n", "~root/a.png\n~nobody/x\n", "a" * 300),
    *(
        "x/" * 3000,
        "a " * 3000,
        "\n\n \n",
        ".\n",
        "..\n",
        "/\n",
        "/etc/passwd\n",
        "/dev/zero\n",
        "*\n",
        "[a-\n",
        "masks\n",
        "e\u0301\n",
    ),
)
PLACES = {
    "camvid": ("train.txt", {}),
    "folder": ("mine.txt", {"lists": {"train": "mine.txt"}, "classes": ["a", "b", "c"]}),
    "voc": ("ImageSets/Segmentation/train.txt", {"train": "official", "count": "any"}),
}


def test_a_list_file_is_read_or_refused(tmp_path: Path, tally: Tally) -> None:
    for name in NAMES:
        for place, array in (("train", PHOTO), ("trainannot", LABELS), ("images", PHOTO), ("masks", LABELS)):
            file = tmp_path / place / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(array))
    for place, content in (("JPEGImages/a.jpg", picture(PHOTO, form="JPEG")), ("SegmentationClass/a.png", picture(LABELS))):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_bytes(content)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    texts = st.sampled_from(LISTS).flatmap(lambda text: st.just(text) | scrambled(text, 3)).flatmap(encoded)

    @examples(150, 12_000)
    @given(texts, st.sampled_from(sorted(PLACES)))
    def holds(content: bytes, name: str) -> None:
        place, values = PLACES[name]
        file = tmp_path / place
        file.write_bytes(content)
        tally.outcome(lambda: read_all({"name": name, "root": str(tmp_path), **values}), str(file), str(tmp_path))
        file.unlink()

    holds()


# ------------------------------------------------------------------------------------------------------------------ runs

PUBLISHED = load_published()
TABLES = ("markdown", "latex", "csv", "json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a baseline and a student of a sweep, which has recorded all that a run may."""
    root = tmp_path_factory.mktemp("runs")
    teacher = write_run(root / "teacher", tiny("ce", seed=7, schedule={"steps": 9}), 80.0)
    write_run(root / "ce", tiny("ce"), [60.0, 61, 59], curve=((3, 50.0), (6, 60.0)))
    kd = write_run(root / "kd", tiny("kd", teacher={"name": "run", "path": str(teacher)}), [62.0, 63, 60], best=64.0)
    result = json.loads((kd / "result.json").read_text())
    result["last"][result["reported_on"]] |= {
        "iou": {"a": 50.0, "b": None},
        "reliability": {"pixels": [1, 2], "accuracy": [50.0, None], "confidence": [40.0, 60.0]},
        "absent_but_predicted": "b",
    }
    result["agreement"] = {
        "split": "test",
        "same": 80.0,
        "classes": {"a": {"both": 1, "teacher": 2, "student": 3, "neither": 4}},
    }
    result |= {"code": {"a:B": "abc"}, "asked": "kd", "teacher": {**result["teacher"], "iou": {"a": 60.0, "b": None}}}
    point = {"choices": {"method": "kd", "seed": "0"}, "budget_steps": 6, "calibrated_seconds_per_step": 0.5}
    texts = {"kd/result.json": result, "kd/teacher.json": {"mark": "x", "mIoU": 90.0}, "sweep.json": {"points": {"kd": point}}}
    for name, values in texts.items():
        (root / name).write_text(json.dumps(values))
    return root


def values_of(file: Path) -> Any:
    """What a file of a run holds."""
    text = file.read_text()
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)


@st.composite
def changed(draw: Draw, root: Path, names: tuple[str, ...], wholes: dict[str, Any]) -> tuple[str, bytes]:
    """A file of a run, and what it may hold: other values, with a digest that fits them or without, or a text with slips."""
    name = draw(st.sampled_from((*names, "kd/counts.npz")))
    if name.endswith(".npz"):
        return name, draw(harmed((root / name).read_bytes()))
    values = draw(edited([wholes[name]], list(wholes.values())))
    if name.endswith(".jsonl") and isinstance(values, list):
        text = "\n".join(json.dumps(value, skipkeys=True) for value in values)
    elif name.endswith(".yaml"):
        text = yaml.safe_dump(values, sort_keys=False)
    else:
        texts = {key: value for key, value in values.items() if isinstance(key, str)} if isinstance(values, dict) else values
        seal = isinstance(texts, dict) and draw(st.booleans())
        text = json.dumps(sealed(json.loads(json.dumps(texts, skipkeys=True))) if seal else texts, skipkeys=True)
    return name, draw(encoded(draw(scrambled(text)) if draw(st.integers(0, 3)) == 0 else text))


def shown(root: Path) -> None:
    """All that tables and reports make of runs; no name in it is taken for HTML."""
    found = load_runs([root])
    blocks = summarise(found, Choices(), 50)
    tables = [table for layout in (layouts.long, layouts.brief) for table in layout(blocks, PUBLISHED, True, found.left_out)]
    texts = {form: written(form, tables, records(blocks, PUBLISHED)) for form in TABLES}
    assert "<b>&" not in texts["markdown"] + page(blocks, PUBLISHED, found.left_out, "", True)
    json.loads(texts["json"])


def verified(root: Path) -> None:
    """The verdict on all files, a short line for each that is damaged."""
    assert all(len(line) < 1000 for line in lines(verify(files_below([root]))))


def test_the_files_of_a_run_are_read_or_refused(runs: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd.results.runs.load_yaml", lru_cache(64)(load_yaml))  # most files stay as they are
    files = ("result.json", "result.json", "recipe.yaml", "metrics.jsonl", "run.json")
    names = (*(f"{run}/{file}" for run in ("ce", "kd") for file in files), "kd/teacher.json", "sweep.json")
    wholes = {name: values_of(runs / name) for name in names}

    @examples(30, 1500)
    @given(changed(runs, names, wholes))
    def holds(given: tuple[str, bytes]) -> None:
        file, before = runs / given[0], (runs / given[0]).read_bytes()
        file.write_bytes(given[1])
        try:
            tally.outcome(lambda: shown(runs), str(runs))
            tally.outcome(lambda: verified(runs), str(runs))
        finally:
            file.write_bytes(before)

    holds()
