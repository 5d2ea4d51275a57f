"""What images without labels have added to a method, beside the same method on labelled images alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kd.recipe.schema import NOTHING
from kd.results.bootstrap import Delta
from kd.results.row_names import ROW
from kd.results.runs import Run

Rows = Mapping[str, Sequence[Run]]


def gains(rows: Rows, delta: Callable[[Sequence[Run], Sequence[Run]], Delta]) -> Iterator[str]:
    """A line for each row that learnt from unlabelled images and has a twin that did not, at the same steps."""
    for label, runs in rows.items():
        if runs[0].parts["unlabelled"] != NOTHING and (twin := _twin(runs[0], rows)):
            found = delta(runs, rows[twin])
            between = "" if found.low is None else f" (95 %: {found.low:+.2f} to {found.high:+.2f})"
            yield f"`{label}`: {found.value:+.2f} points over `{twin}`, the same on labelled images alone{between}"


def _twin(run: Run, rows: Rows) -> str | None:
    same = [part for part in (*ROW, "schedule") if part != "unlabelled"]
    for label, (other, *_) in rows.items():
        if other.parts["unlabelled"] == NOTHING and all(run.parts[part] == other.parts[part] for part in same):
            return label
    return None
