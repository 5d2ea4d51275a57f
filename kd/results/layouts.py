"""Blocks as tables: the long layout, a row for each method, and the brief one, a row for each pair."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from kd.results.bootstrap import RESAMPLES, Delta
from kd.results.footnotes import about, definitions, flag_notes, title
from kd.results.names import METHODS, rank
from kd.results.published import Published
from kd.results.published_tables import Quote, quote, told
from kd.results.render import Table
from kd.results.rows import Block, Row, statistics
from kd.results.runs import Run

TERMS = {"ce_jml": "CE+JML", "ce": "CE", "jaccard": "JML", "kl": "KL"}
Column = tuple[str, Callable[[Row], str]]


def long(blocks: Sequence[Block], published: Published, best: bool = False, left_out: Sequence[str] = ()) -> list[Table]:
    """A table for each block, then what the columns mean and which runs are in no row."""
    tables = [_long(block, published, best) for block in blocks]
    return [*tables, Table("", (), (), tuple(definitions(blocks, best, RESAMPLES))), *_rest(left_out)]


def _rest(left_out: Sequence[str]) -> list[Table]:
    return [Table("Runs in no row", (), (), tuple(left_out))] if left_out else []


def _long(block: Block, published: Published, best: bool) -> Table:
    quotes = {row.label: quote(published, row.runs[0]) for row in block.rows}
    columns = [*_scores(block, best), *_costs(block), *_quoted(quotes)]
    if any(row.flags for row in block.rows):
        columns.append(("flags", lambda row: ", ".join(row.flags)))
    shown = [*([block.teacher] if block.teacher else []), *block.rows]
    rows = tuple(tuple(text(row) for _, text in columns) for row in shown)
    teacher = [block.no_teacher] if block.no_teacher else []
    notes = (*about(block), *teacher, *flag_notes(block), *_sources(published, quotes))
    return Table(title(block), tuple(name for name, _ in columns), rows, notes)


def _scores(block: Block, best: bool) -> list[Column]:
    first = block.first
    columns: list[Column] = [
        ("row", lambda row: f"{row.label} (baseline)" if row.label == block.group.baseline else row.label),
        (f"mIoU, {first.reported_on}", lambda row: spread(row.mean, row.std)),
        *_foreground(first),
        ("n", lambda row: str(len(row.runs))),
    ]
    if block.group.baseline:
        columns += [("Δ", _signed), ("95 %", lambda row: _interval(row.delta))]
    if best:
        columns.append((f"mIoU, {first.reported_on}, best on {first.selected_on}", lambda row: spread(row.best, row.best_std)))
    return columns


def _foreground(first: Run) -> list[Column]:
    """Of two classes the second has a column of its own: beside a large background mIoU hardly tells."""
    names = list(first.last[first.reported_on].get("iou") or ())
    if len(names) != 2:
        return []

    def text(row: Row) -> str:
        found = [(run.last[run.reported_on].get("iou") or {}).get(names[1]) for run in row.runs]
        return spread(*statistics(found))

    return [(f"IoU, {names[1]}", text)]


def _costs(block: Block) -> list[Column]:
    columns: list[Column] = [("s/step", lambda row: f"{row.seconds_per_step:.3g}")]
    if block.group.baseline:
        columns.append(("× baseline", lambda row: _or_dash(row.ratio)))
    columns += [
        ("memory, MB", lambda row: f"{row.memory_mb:.0f}"),
        ("accelerator-h", lambda row: f"{row.hours:.2g}"),
    ]
    if len({row.steps for row in block.rows}) > 1:
        columns.append(("steps", lambda row: str(row.steps)))
    return columns


def _quoted(quotes: Mapping[str, Quote | None]) -> list[Column]:
    if not any(quotes.values()):
        return []

    def number(row: Row) -> str:
        found = quotes.get(row.label)
        return f"{found.number.miou:.2f}" if found else "-"

    def delta(row: Row) -> str:
        found = quotes.get(row.label)
        return f"{found.delta:+.2f}" if found and found.delta is not None else "-"

    return [("published", number), ("published Δ", delta)]


def _sources(published: Published, quotes: Mapping[str, Quote | None]) -> Iterable[str]:
    for label, found in quotes.items():
        if found:
            yield f"Published, `{label}`: {told(published, found)}"


def brief(blocks: Sequence[Block], published: Published, best: bool = False, left_out: Sequence[str] = ()) -> list[Table]:
    """One table: data set, pair × methods; published numbers in a line of their own below ours."""
    labels = _ordered(blocks)
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for block in blocks:
        head, _, pair = title(block).partition(", ")
        ours = _columns(block)
        rows.append((head, pair, *(_cell(ours.get(label)) for label in labels)))
        if best:
            line = [ours.get(label) for label in labels]
            rows.append((head, f"{pair}, best on {block.first.selected_on}", *(_best(row) for row in line)))
        quotes = {label: quote(published, row.runs[0]) for label, row in ours.items()}
        if any(quotes.values()):
            texts = [f"{found.number.miou:.2f}" if (found := quotes.get(label)) else "-" for label in labels]
            rows.append((head, f"{pair}, published", *texts))
        below = [*about(block), *flag_notes(block, by_row=True), *_sources(published, quotes)]
        notes += [f"{head}, {pair}: {'. '.join(below)}"] if len(blocks) > 1 else below
    header = ("data set", "model", *(display(label) for label in labels))
    return [Table("", header, tuple(rows), (*notes, *definitions(blocks, best, RESAMPLES, costs=False))), *_rest(left_out)]


def _ordered(blocks: Sequence[Block]) -> list[str]:
    """Baselines, other losses, then methods as the benchmark table has them."""
    rows = {label: row for block in blocks for label, row in _columns(block).items()}
    baselines = {label for block in blocks for label, row in _columns(block).items() if row.label == block.group.baseline}
    return sorted(rows, key=lambda label: (label not in baselines, rank(rows[label].runs[0].recipe)))


def _columns(block: Block) -> dict[str, Row]:
    """Rows by the method alone where that is clear: ``cirkd@citys`` and ``cirkd@voc`` of two data sets share a column."""
    plain = [re.sub(r"@[^+ ]+", "", row.label) for row in block.rows]
    return {short if plain.count(short) == 1 else row.label: row for short, row in zip(plain, block.rows, strict=True)}


def display(label: str) -> str:
    """``ce+jaccard`` as ``CE+JML``, ``jml_kd`` as ``JML-KD``, ``cwd@cirkd`` as ``CWD@cirkd``."""
    name, space, rest = label.partition(" ")
    comma = "," if name.endswith(",") else ""
    parts = name.removesuffix(",").split("+")
    names = [(METHODS.get(part, TERMS.get(part, part)), at, preset) for part, at, preset in (p.partition("@") for p in parts)]
    return "+".join(map("".join, names)) + comma + space + rest


def spread(mean: float | None, std: float | None) -> str:
    """``71.20 ± 0.31``; without the deviation for one seed."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return spread(row.mean, row.std) + _arrow(row)


def _best(row: Row | None) -> str:
    return spread(row.best, row.best_std) if row else "-"


def arrow(sign: int, stands: bool) -> str:
    """The mark behind a difference: above, below (-1), or none (0), and whether it stands after Holm's correction."""
    return ("", " ⇑" if stands else " ↑", " ⇓" if stands else " ↓")[sign]


def _arrow(row: Row) -> str:
    return arrow(row.delta.sign if row.delta else 0, row.stands)


def _signed(row: Row) -> str:
    return f"{row.delta.value:+.2f}{_arrow(row)}" if row.delta else "-"


def _interval(delta: Delta | None) -> str:
    if delta is None or delta.low is None or delta.high is None:
        return "-"
    return f"[{delta.low:+.2f}, {delta.high:+.2f}]{'' if delta.over_seeds else ' images only'}"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
