"""The page itself: blocks with their parts, put into the templates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from kd.report.behaviour import calibration, disagreement
from kd.report.classes import classes
from kd.report.costs import costs
from kd.report.pictures import pictures
from kd.report.provenance import environment, recipes, runs
from kd.report.sections import Part
from kd.report.styles import Look, looks
from kd.report.summary import summary
from kd.report.training import training
from kd.results.layouts import long
from kd.results.published import Published
from kd.results.render import Table
from kd.results.rows import Block
from kd.visible import visible

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A block of the page: one data set and pair. ``keys`` are the rows' keys by the table's first cell."""

    slug: str
    title: str
    summary: str
    looks: Sequence[Look]
    keys: Mapping[str, Markup]
    baseline: str
    table: Table
    parts: Sequence[Part]


def page(blocks: Sequence[Block], published: Published, left_out: Sequence[str], title: str = "", best: bool = False) -> str:
    """The whole HTML file.

    The tables are those of ``kd.results.layouts.long``; ``best`` and ``left_out`` mean there what they mean here.
    """
    tables = long(blocks, published, best)
    sections = [section(block, table, number) for number, (block, table) in enumerate(zip(blocks, tables, strict=False), 1)]
    titled = title or "; ".join(dict.fromkeys(one.title.partition(",")[0] for one in sections)) + ": students compared"
    found = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    found.lstrip_blocks = True
    found.filters["rich"] = rich
    css = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    facts = {"title": titled, "sections": sections, "definitions": tables[len(blocks)].notes, "left_out": left_out, "css": css}
    return visible(found.get_template("page.html").render(facts))


def section(block: Block, table: Table, number: int) -> Section:
    """A block with all its parts, in the order of the page."""
    drawn = looks(block)
    parts = [
        *training(block, drawn),
        costs(block, drawn),
        classes(block, drawn),
        disagreement(block, drawn),
        calibration(block, drawn),
        pictures(block, drawn),
        recipes(block, drawn),
        runs(block, drawn),
        environment(block),
    ]
    baseline = f"{block.group.baseline} (baseline)"
    keys = {baseline if label == block.group.baseline else label: look.key for label, look in drawn.items()}
    return Section(f"b{number}", table.title, summary(block), list(drawn.values()), keys, baseline, table, parts)


def rich(text: str) -> Markup:
    """Text with `` `code` `` and ``**bold**``, everything else escaped."""
    safe = re.sub(r"`(.+?)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe))
