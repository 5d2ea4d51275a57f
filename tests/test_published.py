"""The published numbers: the benchmark table cell by cell, and no number without source and protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd.config import ConfigError
from kd.results.published import load_published

FILE = Path(__file__).parent.parent / "recipes" / "published.yaml"
TABLE = """
cityscapes DL3-R18 75.42 75.59 75.55 76.38 77.00 77.10 78.14
cityscapes DL3-MB2 73.82 73.50 74.66 75.42 75.26 -     77.78
cityscapes PSP-R18 73.29 73.71 74.36 74.73 75.34 76.31 77.75
voc        DL3-R18 73.51 73.85 74.02 74.50 -     -     76.25
voc        PSP-R18 74.07 73.54 73.99 74.78 -     -     75.36
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_the_benchmark_table(line: str) -> None:
    published = load_published(FILE)
    dataset, student, *values = line.split()
    for method, value in zip(published.methods, values, strict=True):
        cell = published.cell(dataset, student, method)
        assert (f"{cell.miou:.2f}" if cell else "-") == value
    assert sum(n.table for n in published.numbers) == 30


def test_the_number_of_a_method_is_the_tables_or_a_papers() -> None:
    published = load_published(FILE)
    found = {
        place: published.best_known(*place)
        for place in (
            ("cityscapes", "PSP-R18", "cwd", "val"),  # 75.54 stands in mmrazor's README
            ("cityscapes", "DL3-MB2", "afdcd", "val"),  # 76.43 in the README
            ("cityscapes", "DL3-R18", "maskd", "test"),  # 73.74 without ImageNet weights
            ("cityscapes", "DL3-R18", "kd", "val"),  # 76.61, a user's
        )
    }
    assert [number and number.miou for number in found.values()] == [74.36, 76.38, 75.59, None]


def test_newer_methods_have_a_baseline_of_their_protocol_but_for_an_abstract() -> None:
    published = load_published(FILE)
    for number in (n for n in published.numbers if n.method in published.newer):
        place = (number.dataset, number.student, number.split, number.protocol)
        own = [n for n in published.numbers if n.method is None and (n.dataset, n.student, n.split, n.protocol) == place]
        lacks = number.method == "feature KD" or number.protocol == "afdcd_camvid"
        assert lacks != bool(own), number


def test_no_cell_is_there_twice() -> None:
    cells = [(n.dataset, n.student, n.method) for n in load_published(FILE).numbers if n.table]
    assert len(set(cells)) == len(cells)


def test_every_source_and_protocol_is_used() -> None:
    published = load_published(FILE)
    assert {n.source for n in published.numbers} == set(published.sources)
    assert {n.protocol for n in published.numbers} == set(published.protocols)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read .*; give a file like"),
        ("[1, 2]", "holds no mapping; it needs methods"),
        ("a: [", "is no YAML"),
        (FILE.read_text().replace("source: dist_8,", "source: dist_9,"), "names the source 'dist_9', which is not listed"),
        (FILE.read_text().replace("miou: 78.14", "miou: 178.14"), r"numbers\.6\.miou: is 178.14; .*less than 100"),
    ],
)
def test_damage_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "published.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_published(path)
