"""Published numbers beside ours, and the benchmark table made of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kd.recipe.library import library, method_files
from kd.recipe.loading import load
from kd.recipe.schema import plain
from kd.results.differences import covers, differing
from kd.results.names import DATASETS, METHODS, dataset_label, is_plain, student_label
from kd.results.published import Number, Published
from kd.results.render import Table
from kd.results.runs import Run

MARK = "†"
"""Of published numbers on other labels."""
SETTING = ("data", "augmentation", "student", "labels", "loss", "method", "weights", "schedule", "evaluation")
FREE = (
    "student.pretrained",  # where the file lies
    "schedule.precision",
    "schedule.accumulate",
    "evaluation.every",
    "evaluation.limit",
    "evaluation.batch",
    "evaluation.calibration",
    "evaluation.quick",
)
"""What may be other than in the recipe of a published protocol without being told; precision is in PROTOCOLS.md."""
TOLD = 4
"""How many differing keys a footnote names."""


@dataclass(frozen=True)
class Quote:
    """A published number, and the baseline published under the same protocol (None: there is none).

    ``differs`` tells the keys in which the run that it stands beside is not our recipe of that protocol.
    """

    number: Number
    baseline: Number | None
    differs: tuple[str, ...] = ()

    @property
    def delta(self) -> float | None:
        """Points over the published baseline; None for the baseline itself."""
        return self.number.miou - self.baseline.miou if self.baseline and self.number.method else None


def quote(published: Published, run: Run) -> Quote | None:
    """The number of a run's data set, student and method; None without one, and for stacks and other losses than CE.

    A student that starts from scratch is not compared with one that starts from ImageNet weights. Among several numbers the
    reported split comes first, then the benchmark table's, then those of papers and READMEs before users' reports.
    """
    method = run.recipe.get("method")
    if method is None and not is_plain(run.recipe):
        return None
    name = method["name"] if method else None
    ours = [
        number
        for number in published.numbers
        if (number.dataset, number.student, number.method) == (dataset_label(run.recipe), student_label(run.recipe), name)
        and number.pretrained == bool(run.recipe["student"].get("pretrained", True))
    ]
    ours.sort(key=lambda n: (n.split != run.reported_on, not n.table, published.sources[n.source].kind == "issue"))
    return Quote(ours[0], _baseline(published, ours[0]), _differs(published, ours[0], run)) if ours else None


def _differs(published: Published, number: Number, run: Run) -> tuple[str, ...]:
    """Where a run does not follow the recipe of the published protocol, e.g. ``schedule.batch 8 (16)``; () without a recipe."""
    folder = published.protocols[number.protocol].recipes.get(number.dataset)
    if folder is None:
        return ()
    file = library() / folder / f"{number.student.lower().replace('-', '_')}.yaml"
    theirs = plain(load(file, [_preset(number), *(f"{key}={value}" for key, value in number.keys.items())])[0])
    found = differing(run.recipe, theirs, SETTING)
    return tuple(f"{key} {ours} ({value})" for key, (ours, value) in found.items() if not covers(FREE, key))


def _preset(number: Number) -> str:
    """The word of the published method: the preset of the benchmark table, or that of its data set."""
    word, known = number.method or "ce", method_files()
    return word if word in known else f"{word}@{'citys' if number.dataset == 'cityscapes' else number.dataset}"


def _baseline(published: Published, number: Number) -> Number | None:
    """Same data, student, split, start and protocol; of the same source if it has one."""
    keys = ("dataset", "student", "split", "pretrained", "protocol")
    found = [n for n in published.numbers if n.method is None and all(getattr(n, k) == getattr(number, k) for k in keys)]
    return min(found, key=lambda n: n.source != number.source, default=None)


def told(published: Published, one: Quote) -> str:
    """Where a quoted number comes from and how it was measured."""
    protocol, source = published.protocols[one.number.protocol], published.sources[one.number.source]
    how = f"{one.number.split}; {protocol.checkpoint}; {protocol.inference}"
    text = f"{one.number.miou:.2f} ({how}): {source.title}, {source.where}"
    if one.delta is not None and one.baseline:
        theirs = published.sources[one.baseline.source]
        text += f". Its baseline: {one.baseline.miou:.2f}, {theirs.title}, {theirs.where}"
    if one.number.note:
        text += f". Note: {one.number.note}"
    if one.differs:
        more = f", and {len(one.differs) - TOLD} more" if len(one.differs) > TOLD else ""
        text += f". This row is not of the published setting: {', '.join(one.differs[:TOLD])}{more}"
    return text


def benchmark(published: Published) -> Table:
    """The benchmark table: the best of each row in bold, a dash where nothing is published."""
    pairs = dict.fromkeys((number.dataset, number.student) for number in published.numbers if number.table)
    rows = [(dataset, student, [published.cell(dataset, student, m) for m in published.methods]) for dataset, student in pairs]
    first = "Published mIoU on val, percent; the best of each row in bold. The columns follow different protocols:"
    return _table(published, published.methods, rows, first)


def all_methods(published: Published) -> Table:
    """The same with the newer methods, further networks and test images; a row for each split."""
    methods = (*published.methods, *published.newer)
    places = dict.fromkeys((n.dataset, n.student, n.split) for n in published.numbers if n.method in methods)
    rows = []
    for dataset, student, split in sorted(places, key=lambda place: (list(DATASETS).index(place[0]), place[2] == "test")):
        found = [published.best_known(dataset, student, method, split) for method in methods]
        if any(found):
            rows.append((dataset, f"{student}, test" if split == "test" else student, found))
    first = (
        "Published mIoU, percent, on val where nothing else is said; the best of each row in bold. Rows hold numbers of "
        "several protocols, whose differences are none of methods:"
    )
    table = _table(published, methods, rows, first)
    return replace(table, notes=(*table.notes, *_baselines(published, rows)))


Row = tuple[str, str, list[Number | None]]
"""Data set, model, and a number for each column."""


def _table(published: Published, methods: Sequence[str], rows: Sequence[Row], first: str) -> Table:
    header = ("data set", "model", *(_name(method) for method in methods))
    cells = [number for number in published.numbers if any(number is cell for *_, found in rows for cell in found)]
    notes = [first]
    for protocol in dict.fromkeys(number.protocol for number in cells):
        how = published.protocols[protocol]
        rules = f"checkpoint: {how.checkpoint}; inference: {how.inference}; training: {how.training}"
        notes.append(f"{_whose([n for n in cells if n.protocol == protocol], cells)}: {rules}")
    for source in dict.fromkeys(number.source for number in cells):
        told = published.sources[source]
        notes.append(f"{_whose([n for n in cells if n.source == source], cells)} from {told.title}, {told.where}")
    for note in dict.fromkeys(number.note for number in cells if number.note):
        noted = [number for number in cells if number.note == note]
        notes.append(f"{MARK * any(_on_other_labels(n) for n in noted)}{_whose(noted, cells)}: {note}")
    return Table("", header, tuple(_line(*row) for row in rows), tuple(notes))


def _name(method: str | None) -> str:
    return METHODS.get(str(method), str(method))


def _whose(numbers: Sequence[Number], cells: Sequence[Number]) -> str:
    """The methods of some cells, and their rows where others of these methods' cells are not among them."""
    alike: dict[str, list[str]] = {}
    for method in dict.fromkeys(number.method for number in numbers):
        own = [number for number in numbers if number.method == method]
        whole = not any(cell.method == method and cell not in own for cell in cells)
        alike.setdefault("" if whole else _rows(own), []).append(_name(method))
    return ", ".join(f"{', '.join(names)}{rows and f' ({rows})'}" for rows, names in alike.items())


def _rows(numbers: Sequence[Number]) -> str:
    rows: dict[str, dict[str, None]] = {}
    for one in numbers:
        rows.setdefault(_place(one), {})[one.student] = None
    return "; ".join(f"{dataset} {', '.join(models)}" for dataset, models in rows.items())


def _place(number: Number) -> str:
    return DATASETS.get(number.dataset, number.dataset) + " test" * (number.split == "test")


def _line(dataset: str, student: str, found: Sequence[Number | None]) -> tuple[str, ...]:
    values = [number.miou for number in found if number]
    best = max(values) if len(values) > 1 else None
    texts = ["-" if n is None else f"**{_cell(n)}**" if n.miou == best else _cell(n) for n in found]
    return (DATASETS.get(dataset, dataset), student, *texts)


def _baselines(published: Published, rows: Sequence[Row]) -> list[str]:
    """A note for each protocol of the cells: what its students reach without distillation."""
    used = dict.fromkeys(cell.protocol for *_, found in rows for cell in found if cell)
    notes = []
    for protocol in used:
        own = [n for n in published.numbers if n.protocol == protocol and n.method is None and n.pretrained]
        own = [n for n in own if published.sources[n.source].kind != "issue"]
        told = [f"{_place(n)} {n.student} {n.miou:.2f}" for n in own]
        whose = ", ".join(dict.fromkeys(_name(c.method) for *_, found in rows for c in found if c and c.protocol == protocol))
        notes += [f"Without distillation, as published with {whose}: {', '.join(told)}"] if told else []
    return notes


def _cell(number: Number) -> str:
    return f"{number.miou:.2f}{MARK * _on_other_labels(number)}"


def _on_other_labels(number: Number) -> bool:
    """Whether a number was measured on other data than ours are by default."""
    return any(key.startswith("data.") for key in number.keys)


def benchmark_records(published: Published, whole: bool = False) -> list[dict[str, Any]]:
    """The table's numbers one by one, for CSV and JSON; ``whole``: all numbers that are known."""
    return [
        {**number.model_dump(exclude={"table"}), "where": published.sources[number.source].where}
        for number in published.numbers
        if number.table or whole
    ]
