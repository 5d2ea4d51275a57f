"""The report: one file that says what the table says, shows what runs have kept, and names what they have not."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_browser import off_screen
from helpers_results import begin, load, write_run
from helpers_tools import call
from PIL import Image
from tiny import tiny

from kd.report.behaviour import _bins
from kd.report.charts import Bar, Curve, Dot, curves, scatter, stacked
from kd.report.page import page
from kd.report.styles import Look
from kd.report.svg import ticks, told
from kd.results.groups import Choices
from kd.results.layouts import long
from kd.results.published import load_published
from kd.results.rows import summarise

ROOT = Path(__file__).parent.parent
NUMBERS = load_published(ROOT / "recipes" / "published.yaml")
CLASSES = ("sky", "<script>alert(1)</script>", "never labelled")
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects texts and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attributes)
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def enrich(folder: Path, classes: Sequence[str] = CLASSES, seed: int = 0, teacher: bool = False, pictures: bool = True) -> None:
    """Give a run what the helpers' runs lack: IoU of classes, bins of confidence, agreement, logged losses, pictures."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    generator = np.random.default_rng(seed)
    iou = {name: float(value) for name, value in zip(classes, generator.uniform(20, 80, len(classes)), strict=True)}
    bins = {"pixels": [0] * 8 + [30, 70], "accuracy": [None] * 8 + [60.0, 90.0], "confidence": [None] * 8 + [85.0, 95.0]}
    for scores in result["last"].values():
        scores |= {"iou": {**iou, classes[-1]: None}, "reliability": bins, "ECE": 11.0}
    if teacher:
        cases = {name: {"both": 50, "teacher": 30, "student": 5, "neither": 15} for name in classes}
        cases[classes[-1]] = dict.fromkeys(cases[classes[0]], 0)
        result["agreement"] = {"split": result["reported_on"], "same": 70.0, "classes": cases}
        result["teacher"]["iou"] = iou
    path.write_text(json.dumps(result))
    terms = {"ce": 1.0, "kl": 0.5} if teacher else {"ce": 1.2}
    lines = [
        {"step": step, "train": {"loss": 2 / step}, "terms": {k: v / step for k, v in terms.items()}} for step in (2, 4, 6)
    ]
    with (folder / "metrics.jsonl").open("r+") as file:
        old = [line for line in file.read().splitlines() if line.endswith("}")]
        file.seek(0)
        file.write("\n".join([*old, *map(json.dumps, lines)]) + "\n")
    if pictures:
        draw(folder / "previews" / "final", teacher)


def draw(folder: Path, teacher: bool) -> None:
    """Two images of 8 x 10 pixels, labels 0 left and 1 right, 255 in the last row; the student is wrong in one column."""
    labels = np.repeat([[0] * 5 + [1] * 5], 8, 0).astype(np.uint8)
    labels[-1] = 255
    student = labels.copy()
    student[:, 4] = 1
    student[-1] = 0
    for name in ("00_a&b", "01_town"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (10, 8), (10, 200, 30)).save(folder / name / "image.jpg")
        for title, numbers in {"target": labels, "student": student, **({"teacher": labels} if teacher else {})}.items():
            picture = Image.fromarray(numbers)
            picture.putpalette([200, 0, 0, 0, 0, 200] + [0] * 762)
            picture.save(folder / name / f"{title}.png")


def compared(folder: Path, seeds: int = 3) -> None:
    """CE and KD."""
    for seed in range(seeds):
        write_run(folder / f"ce{seed}", tiny("ce", seed=seed), 50.0 + seed)
        write_run(folder / f"kd{seed}", tiny("kd", seed=seed), 55.0 + seed)
        enrich(folder / f"ce{seed}", seed=seed)
        enrich(folder / f"kd{seed}", seed=seed + 10, teacher=True)


def written(folder: Path, **choices: Any) -> tuple[str, Reader]:
    found = load(folder)
    text = page(summarise(found, Choices(**choices), resamples=200), NUMBERS, found.left_out)
    return text, Reader(text)


def test_it_says_what_the_table_says(tmp_path: Path) -> None:
    compared(tmp_path)
    text, read = written(tmp_path)
    (table, meaning) = long(summarise(load(tmp_path), Choices(), resamples=200), NUMBERS)
    for cell in (*table.header, *(cell for row in table.rows for cell in row)):
        assert cell in read.words
    plain = read.text.replace(" ", "")
    for note in (*table.notes, *meaning.notes):
        assert note.replace("`", "").replace(" ", "") in plain
    assert "Above it by more than chance (95 % interval of the difference excludes 0): kd (+5.00)." in read.text
    assert "kd (+5.00)" in read.text
    for heading in ("mIoU over steps, val", "Losses", "mIoU against cost", "Where teacher and student disagree", "Reliability"):
        assert heading in read.words
    assert "the interval contains 0" not in text


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    compared(tmp_path)
    text, read = written(tmp_path)
    assert all(link.startswith(("data:", "#")) for link in read.links)
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", re.sub(r"<li>.*?</li>", "", text))
    assert "script" not in read.tags
    assert "&lt;script&gt;alert(1)" in text
    assert '<meta name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "a&amp;b" in text


def test_pictures_show_each_row_and_its_errors(tmp_path: Path) -> None:
    compared(tmp_path)
    text, read = written(tmp_path)
    assert read.tags.count("img") == 2 * (5 + 3)  # image, target, teacher, ce, kd; errors of the last three
    assert read.words.count("10.0 % wrong") == 4  # one column of ten, without the unlabelled row
    assert read.words.count("0.0 % wrong") == 2
    assert "cannot be shown" not in text
    (tmp_path / "kd0/previews/final/00_a&b/student.png").write_bytes(b"torn")
    text, read = written(tmp_path)
    assert "cannot be shown" in text
    assert read.words.count("10.0 % wrong") == 3


def test_classes_are_compared_seed_by_seed(tmp_path: Path) -> None:
    compared(tmp_path)
    _, read = written(tmp_path)
    means = {}
    for label in ("ce", "kd"):
        tables = [json.loads((tmp_path / f"{label}{seed}/result.json").read_text())["last"]["test"]["iou"] for seed in range(3)]
        means[label] = np.mean([table["sky"] for table in tables])
    assert f"{means['ce']:.1f}" in read.words
    assert f"{means['kd'] - means['ce']:+.1f}".replace("-", "−") in read.words
    assert "–" in read.words  # the class that no label contains


MISSING = {
    "No run was evaluated while it trained": ("metrics.jsonl", None),
    "No losses were logged": ("metrics.jsonl", None),
    "holds no IoU of classes": ("result.json", "iou"),
    "No run holds the bins": ("result.json", "reliability"),
    "No run tells where it agrees": ("result.json", "agreement"),
}


@pytest.mark.parametrize("sentence", MISSING)
def test_what_runs_have_not_kept_is_said(tmp_path: Path, sentence: str) -> None:
    compared(tmp_path, seeds=1)
    file, key = MISSING[sentence]
    assert sentence not in written(tmp_path)[0]
    for path in tmp_path.glob(f"*/{file}"):
        if key is None:
            path.unlink()
            continue
        result = json.loads(path.read_text())
        result.pop(key, None)
        for scores in result["last"].values():
            scores.pop(key, None)
        path.write_text(json.dumps(result))
    assert sentence in written(tmp_path)[1].text


def without_baseline(folder: Path) -> None:
    write_run(folder / "kd", tiny("kd"), 55.0)
    enrich(folder / "kd", teacher=True)


def one_bare_run(folder: Path) -> None:
    write_run(folder / "ce", tiny("ce"), 55.0)


def many_rows_and_classes(folder: Path) -> None:
    names = [f"{number} {'a very long name of a class ' * 3}" for number in range(150)]
    for number in range(13):
        recipe = tiny("kd", weights={"ce": 1.0, "ce_aux": 0.4, "kl": float(number)}) if number else tiny("ce")
        write_run(folder / str(number), recipe, 50.0 + number)
        enrich(folder / str(number), names, seed=number, teacher=number > 0)


def incomplete_and_unlogged(folder: Path) -> None:
    write_run(folder / "ce", tiny("ce"), 55.0, curve=())
    begin(folder / "kd", tiny("kd"))


@pytest.mark.parametrize("build", [without_baseline, one_bare_run, many_rows_and_classes, incomplete_and_unlogged])
def test_odd_collections_make_a_page(tmp_path: Path, build: Callable[[Path], None]) -> None:
    build(tmp_path)
    _, read = written(tmp_path)
    assert read.tags.count("section") >= 10
    expected = {
        without_baseline: "There is no baseline among them",
        one_bare_run: "There is no other row to compare it with",
        many_rows_and_classes: "149 a very long name",
        incomplete_and_unlogged: "Runs in no row",
    }
    assert expected[build] in read.text


@pytest.mark.parametrize("build", [compared, many_rows_and_classes])
def test_nothing_is_off_a_narrow_screen(tmp_path: Path, build: Callable[[Path], None]) -> None:
    """Tables become cards there, keys of recipes too."""
    build(tmp_path / "runs")
    for seed in range(2):
        recipe = tiny("kd", seed=seed, method={"name": "cwd", "adversary": {"penalty": 10.0}})
        enrich(write_run(tmp_path / "runs" / f"cwd{seed}", recipe, 55.0), seed=seed, teacher=True)
    page, _ = written(tmp_path / "runs")
    assert off_screen(page, 420, tmp_path) == []


def numbers(pattern: str, text: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found)) for found in re.findall(pattern, text)]


LOOK = Look("ce", 0, 0, None)


def test_curves_and_bands_lie_where_the_numbers_say() -> None:
    """Steps 0, 50, 100; means 10, 20, 40 between ticks 0 and 40 (the band reaches 5 to 40)."""
    chart = str(curves([Curve(LOOK, [0, 50, 100], [10, 20, 40], [5, 15, 40], [15, 25, 40], seeds=3)], "t", "step", "mIoU"))
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'polyline points="([^"]+)"', chart)[1].split()]  # type: ignore[index]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert (y0 - y1) * 2 == pytest.approx(y1 - y2, abs=0.21)
    band = [tuple(map(float, pair.split(","))) for pair in re.search(r'polygon points="([^"]+)"', chart)[1].split()]  # type: ignore[index]
    assert [x for x, _ in band] == [x0, x1, x2, x2, x1, x0]
    per_point = (y0 - y2) / 30
    assert band[0][1] == pytest.approx(y0 + 5 * per_point, abs=0.2)
    assert "20 (15 to 25, n = 3)" in chart
    single = str(curves([Curve(LOOK, [0, 1, 2], [1, 2, 2], [1, 2, 2], [1, 2, 2])], "t", "step", "mIoU"))
    assert "polyline" in single
    assert "polygon" not in single


def test_curves_of_a_point_or_two_are_numbers(tmp_path: Path) -> None:
    two = [
        Curve(LOOK, [50, 100], [20, 40.125], [15, 39], [25, 41], seeds=3),
        Curve(Look("kd", 1, 1, None), [50], [7], [7], [7]),
    ]
    told = re.sub(r"<svg.*?</svg>", "", str(curves(two, "t", "step", "mIoU", ("teacher", 60.0))))
    assert re.findall(r"<li>(.*?)</li>", told) == ["ce: 40.12 (39 to 41) at step 100", "kd: 7 at step 50", "teacher: 60"]
    for seed in range(2):
        write_run(tmp_path / f"ce{seed}", tiny(seed=seed), 50.0, curve=[(3, 60.0), (6, 61.0 + seed)])
        write_run(tmp_path / f"kd{seed}", tiny("kd", seed=seed), 50.0, curve=[(3, 60.0), (6, 64.0 + seed)])
    text, read = written(tmp_path)
    assert "polyline" not in text[text.index('<section id="b1-miou">') : text.index('<section id="b1-loss">')]
    assert read.words.count("kd: 64.5 (64 to 65) at step 6") == 1
    assert "teacher: 90" in read.words


def test_scatter_and_bars() -> None:
    chart = str(scatter([Dot(LOOK, 1.0, 50.0, 2.0), Dot(LOOK, 2.0, 52.0, None)], "t", "hours", "mIoU"))
    assert chart.count('class="bar"') == 3
    shown = str(stacked([Bar("sky", {"both": 1, "neither": 3}), Bar("none", {"both": 0})], "t", {"both": "b", "neither": "n"}))
    assert "scroll" not in shown
    assert "scroll" in str(stacked([Bar(str(number), {"both": 1}) for number in range(150)], "t", {"both": "b"}))
    (left, right) = numbers(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', shown)
    assert right[1] == pytest.approx(3 * left[1], abs=0.2)
    assert right[0] == pytest.approx(left[0] + left[1], abs=0.11)
    assert "no pixels" in shown


def test_bins_of_seeds_are_pooled_by_pixels() -> None:
    one = {"pixels": [10, 0], "accuracy": [50.0, None], "confidence": [40.0, None]}
    other = {"pixels": [30, 0], "accuracy": [90.0, None], "confidence": [80.0, None]}
    first, second = _bins([one, other])
    assert (first.pixels, first.accuracy, first.confidence) == (40, 80.0, 70.0)
    assert (second.pixels, second.accuracy, second.confidence) == (0, None, None)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (31.2, 33.9), (-3.1, 14), (0, 0.0071), (5, 5), (0, 0), (0, 40_000)])
def test_ticks_hold_the_range_and_are_told_apart(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert 3 <= len(found) <= 9
    step = found[1] - found[0]
    assert len({told(value, step) for value in found}) == len(found)


def test_values_that_differ_by_rounding_only_have_an_axis() -> None:
    for value in np.random.default_rng(0).uniform(0, 100, 200):
        scatter([Dot(LOOK, 1.0, float(value), float(np.std([value] * 3, ddof=1)))], "t", "x", "y")
        mean = float(np.mean([value] * 3))
        curves([Curve(LOOK, [0, 1, 2], [float(value), mean, mean], [mean] * 3, [mean] * 3, seeds=3)], "t", "x", "y")


def test_the_teacher_is_a_line_only_beside_curves_of_the_same_images(tmp_path: Path) -> None:
    for limit in (0, 2):
        curve = [(step, 50.0 + step) for step in (2, 4, 6)]
        write_run(tmp_path / str(limit) / "kd", tiny("kd", evaluation={"limit": limit}), 50.0, curve=curve)
        text, read = written(tmp_path / str(limit))
        assert ('class="level"' in text) == (limit == 0)
        assert ("2 images of it, evenly spread" in read.text) == (limit == 2)


def test_panels_of_one_score_share_their_axes(tmp_path: Path) -> None:
    for number, (label, curve) in enumerate({"ce": (10.0, 20.0, 30.0), "kd": (25.0, 50.0, 71.0)}.items()):
        for seed in range(2):
            shifted = [(2 * (step + 1), value + 24 * seed) for step, value in enumerate(curve)]
            write_run(tmp_path / f"{label}{seed}", tiny(label, seed=seed), 50.0 + number, curve=shifted)
    text, _ = written(tmp_path)
    part = text[text.index('<section id="b1-miou">') : text.index('<section id="b1-loss">')]
    axes = [re.findall(r"<text[^>]*>([^<]+)</text>", chart) for chart in part.split("<figure>")[1:]]
    assert len(axes) == 2
    assert axes[0] == axes[1]
    assert "n = 2" in part


def test_a_row_that_diverged_sets_no_axis_but_its_own(tmp_path: Path) -> None:
    def lowest(text: str) -> list[float]:
        """Of the y axis of each panel: all rows, kd, jml_kd."""
        part = text[text.index('<section id="b1-miou">') : text.index('<section id="b1-loss">')]
        charts = part.split("<figure>")[1:]
        return [min(map(float, re.findall(r'text-anchor="end"[^>]*>([\d.]+)<', chart))) for chart in charts]

    for number, label in enumerate(("ce", "kd", "jml_kd")):
        losses = [1.0, 0.5, 0.25]
        curve = [0.0, 5.0, 2.0] if label == "jml_kd" else [50.0, 60.0, 70.0 + number]
        folder = write_run(tmp_path / label, tiny(label), curve[-1])
        records = [
            {"step": step, "val": {"mIoU": miou}, "train": {"loss": loss}}
            for step, miou, loss in zip((2, 4, 6), curve, losses, strict=True)
        ]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    text, read = written(tmp_path)
    assert lowest(text) == [0, 0, 0]
    assert "training diverged" not in read.text
    path = tmp_path / "jml_kd" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"loss": 0.5', '"loss": 10.5'))
    text, read = written(tmp_path)
    assert lowest(text) == [50, 50, 0]
    assert read.text.count("Rows whose training diverged ( jml_kd ) are only in panels of their own") == 2
    assert "Left out, as their training diverged: jml_kd" in read.text
    assert text.count("jml_kd: 2 at the end") == 1


def test_the_name_of_a_point_keeps_off_the_bars_of_others() -> None:
    """The second bar stands where the first name would, so the name goes to the left."""
    near = scatter([Dot(LOOK, 1.0, 50.0, None), Dot(LOOK, 1.06, 53.0, 4.0), Dot(LOOK, 2.0, 55.0, None)], "t", "x", "y")
    assert re.findall(r'text-anchor="(\w+)" class="tag', str(near))[0] == "end"
    alone = scatter([Dot(LOOK, 1.0, 50.0, None), Dot(LOOK, 2.0, 55.0, None)], "t", "x", "y")
    assert re.findall(r'text-anchor="(\w+)" class="tag', str(alone))[0] == "start"


def test_several_teachers_are_nobody_s_teacher(tmp_path: Path) -> None:
    for name in ("one", "other"):
        label = {"teacher": {"name": "run", "path": name}, "weights": {"ce": 1.0, "ce_aux": 0.4, "kl": float(len(name))}}
        write_run(tmp_path / name, tiny("kd", **label), 50.0)
        enrich(tmp_path / name, teacher=True)
    result = json.loads((tmp_path / "other" / "result.json").read_text())
    result["teacher"]["mark"] = "m2"
    (tmp_path / "other" / "result.json").write_text(json.dumps(result))
    _, read = written(tmp_path, allow=("teacher.path",))
    assert not [word for word in read.words if word.startswith("teacher, on") or word == "teacher"]


def report(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return call("report", *words)


def test_as_a_program(tmp_path: Path) -> None:
    compared(tmp_path / "runs")
    done = report(tmp_path / "runs", "--output", tmp_path / "new" / "page.html", "--title", "Mine & yours")
    assert done.returncode == 0, done.stderr
    assert "page.html" in done.stdout
    assert "<title>Mine &amp; yours</title>" in (tmp_path / "new" / "page.html").read_text()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["page.html"]
    write_run(tmp_path / "runs" / "other", tiny("kd", seed=9, schedule={"steps": 7}), 50.0)
    refused = report(tmp_path / "runs", "--output", tmp_path / "none.html")
    assert refused.returncode == 2
    assert "schedule.steps: 6 and 7" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "none.html").exists()
    assert "is a directory" in report(tmp_path / "runs", "--output", tmp_path).stderr


def test_it_is_put_beside_the_runs_and_the_last_line_says_where(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a" / "seed0", tiny(), 50.0)
    write_run(tmp_path / "runs" / "b" / "seed0", tiny("kd"), 51.0)
    for words, place in (
        (["runs"], "runs/report.html"),
        (["runs/a/seed0"], "runs/a/seed0/report.html"),
        (["runs/a", "runs/b"], "runs/report.html"),
        ([tmp_path / "runs" / "a", tmp_path / "runs" / "b" / "seed0"], "runs/report.html"),
    ):
        done = call("report", *words, folder=tmp_path)
        assert done.stdout.splitlines()[-1].startswith(f"{place}: "), done.stderr
        (tmp_path / place).unlink()
    assert not (tmp_path / "report.html").exists()
