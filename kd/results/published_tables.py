"""Published numbers beside ours, and the benchmark table made of them alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kd.results.names import DATASETS, METHODS, dataset_label, is_plain, student_label
from kd.results.published import Number, Published
from kd.results.render import Table
from kd.results.runs import Run


@dataclass(frozen=True)
class Quote:
    """A published number, and the baseline published under the same protocol (None: there is none)."""

    number: Number
    baseline: Number | None

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
    return Quote(ours[0], _baseline(published, ours[0])) if ours else None


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
    return text


def benchmark(published: Published) -> Table:
    """The benchmark table: the best of each row in bold, a dash where nothing is published."""
    pairs = dict.fromkeys((number.dataset, number.student) for number in published.numbers if number.table)
    header = ("data set", "model", *(METHODS.get(method, method) for method in published.methods))
    rows = tuple(_line(published, *pair) for pair in pairs)
    cells = [number for number in published.numbers if number.table]
    notes = ["Published mIoU on val, percent; the best of each row in bold. The columns follow different protocols:"]
    for protocol in dict.fromkeys(number.protocol for number in cells):
        methods = dict.fromkeys(METHODS.get(str(n.method), str(n.method)) for n in cells if n.protocol == protocol)
        how = published.protocols[protocol]
        rules = f"checkpoint: {how.checkpoint}; inference: {how.inference}; training: {how.training}"
        notes.append(f"{', '.join(methods)}: {rules}")
    for source in dict.fromkeys(number.source for number in cells):
        methods = dict.fromkeys(METHODS.get(str(n.method), str(n.method)) for n in cells if n.source == source)
        notes.append(f"{', '.join(methods)} from {published.sources[source].title}, {published.sources[source].where}")
    return Table("", header, rows, tuple(notes))


def _line(published: Published, dataset: str, student: str) -> tuple[str, ...]:
    found = [published.cell(dataset, student, method) for method in published.methods]
    best = max(number.miou for number in found if number)
    texts = ["-" if n is None else f"**{n.miou:.2f}**" if n.miou == best else f"{n.miou:.2f}" for n in found]
    return (DATASETS.get(dataset, dataset), student, *texts)


def benchmark_records(published: Published) -> list[dict[str, Any]]:
    """The table's numbers one by one, for CSV and JSON."""
    return [
        {**number.model_dump(exclude={"table"}), "where": published.sources[number.source].where}
        for number in published.numbers
        if number.table
    ]
