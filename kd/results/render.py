"""Tables as Markdown and LaTeX, records as CSV and JSON, and a table put between the markers of a file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.config import InputError
from kd.visible import visible


@dataclass(frozen=True)
class Table:
    """Texts in rows. ``**bold**`` and `` `code` `` are understood by both formats. Notes stand below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def markdown(tables: Sequence[Table]) -> str:
    """Pipe tables, each with its notes as a list."""
    return visible("\n".join(_pipes(table) for table in tables))


def _pipes(table: Table) -> str:
    lines = [f"**{_plain(table.title)}**\n"] if table.title else []
    if table.header:
        lines += [_pipe(table.header), "|" + "---|" * len(table.header), *map(_pipe, table.rows)]
    if table.notes:
        lines += ["" if table.header else None, *(f"- {_plain(note)}" for note in table.notes)]  # type: ignore[list-item]
    return "\n".join(line for line in lines if line is not None) + "\n"


def _pipe(cells: Sequence[str]) -> str:
    return f"| {' | '.join(BAR.sub(_escaped_bar, _plain(cell)) for cell in cells)} |"


BAR = re.compile(r"(\\*)\|")


def _escaped_bar(found: re.Match[str]) -> str:
    """A bar that ends no cell, whatever stands before it."""
    return f"{found[1] * 2}\\|"


def _plain(text: str) -> str:
    """In one line, without the beginning of an HTML tag, a link or a picture: names may be anybody's."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", " ".join(text.splitlines())).replace("](", "]\\(")


def latex(tables: Sequence[Table]) -> str:
    """Tabulars of the package booktabs, each with its notes in small type."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_tabular(table) for table in tables)


def _tabular(table: Table) -> str:
    lines = [f"\\noindent\\textbf{{{_escape(table.title)}}}\\\\[2pt]"] if table.title else []
    if table.header:
        columns = "".join("l" if _is_text(table, column) else "r" for column in range(len(table.header)))
        lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", _ampersands(table.header), "\\midrule"]
        lines += [*map(_ampersands, table.rows), "\\bottomrule", "\\end{tabular}"]
    if table.notes:
        lines += ["", "{\\footnotesize", *(f"\\noindent {_escape(note)}\\par" for note in table.notes), "}"]
    return "\n".join(lines) + "\n"


def _is_text(table: Table, column: int) -> bool:
    return any(row[column][:1].isalpha() for row in table.rows)


def _ampersands(cells: Sequence[str]) -> str:
    opening = "{}" if cells[0][:1] in ("[", "*") else ""  # else it would belong to the end of the line before
    return f"{opening}{' & '.join(map(_escape, cells))} \\\\"


SIGNS = {
    "\\": "\\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "×": "$\\times$",
    "Δ": "$\\Delta$",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
    "⇑": "$\\Uparrow$",
    "⇓": "$\\Downarrow$",
    "<": "$<$",
    ">": "$>$",
}


def _escape(text: str) -> str:
    escaped = "".join(SIGNS.get(sign, sign) for sign in visible(" ".join(text.splitlines())))
    minus = re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)
    return re.sub(r"`(.+?)`", r"\\texttt{\1}", re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", minus))


def written(form: str, tables: Sequence[Table], records: Sequence[Mapping[str, Any]]) -> str:
    """Tables as ``markdown`` or ``latex``, or their records as ``csv`` or ``json``."""
    if form in ("csv", "json"):
        return as_csv(records) if form == "csv" else as_json(records)
    return markdown(tables) if form == "markdown" else latex(tables)


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """One line a record; lists are joined by spaces or semicolons, None is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: _joined(value) for key, value in record.items()})
    return visible(file.getvalue())


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes a spreadsheet compute a text."""


def _joined(value: Any) -> Any:
    if isinstance(value, list):
        value = ("; " if any(isinstance(part, str) for part in value) else " ").join(map(str, value))
    value = json.dumps(value) if isinstance(value, Mapping) else value
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def as_json(values: Any) -> str:
    """Indented JSON."""
    return visible(json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"


def update(path: Path, name: str, text: str) -> bool:
    """Replace what stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``; whether that changed the file.

    The file is written aside, then renamed. A second call changes nothing.

    Raises:
        InputError: the file cannot be read, or the markers are not there exactly once.
    """
    first, last = f"<!-- table:{name} -->", "<!-- /table -->"
    try:
        old = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a text file with the markers {first} and {last}") from None
    found = re.findall(rf"{re.escape(first)}.*?{re.escape(last)}", old, re.DOTALL)
    if len(found) != 1 or old.count(first) != 1 or "<!-- table:" in found[0][len(first) :]:
        raise InputError(f"{path}: needs the lines {first} and {last} once, in this order; put them where the table belongs")
    new = old.replace(found[0], f"{first}\n{text.strip()}\n{last}")
    if new != old:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(new, encoding="utf-8")
        partial.chmod(path.stat().st_mode)
        partial.replace(path)
    return new != old
