"""Has any method moved? ``python tests/check_regression.py RUNS TABLE.json [--update]``, which `make regression` calls.

RUNS are those of ``kd sweep regression``, TABLE.json the rows that were committed. A row has moved if the means over seeds
differ by more than chance: Welch's t of both means, with Holm's correction for all rows. On the machine of the committed runs
nothing moves by rounding; elsewhere training drifts apart, as other seeds would. ``--update`` writes the new rows, on purpose;
rows of other methods stay, as who changes one method need train it and the baseline only (``'method=[ce,dist]'``).

Exit codes: 0 none has moved, 1 one has, is missing, or there is nothing to compare with.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd.files import write_json, write_text
from kd.results.bootstrap import within
from kd.results.groups import Choices
from kd.results.holm import survivors
from kd.results.layouts import arrow, spread
from kd.results.published import load_published
from kd.results.records import records
from kd.results.rows import summarise
from kd.results.runs import load_runs

Record = Mapping[str, Any]
KEPT = (
    *("row", "baseline", "split", "images", "n", "seeds", "steps", "miou", "miou_std", "delta", "delta_low", "delta_high"),
    *("delta_sign", "delta_p", "flags"),
)
PAGE = """# Every method on procedural images

`kd sweep regression`: {pair}, {steps} steps of the student, {seeds} seeds, {images} test images. It says whether the toolkit
computes what it computed before (`make regression`), and how the methods stand on images that can be drawn anywhere; not how
they stand on photographs. Δ, its 95 % interval over images and seeds, and marks are those of `kd table`; p belongs to that
interval, before Holm's correction, which decides on ⇑ and ⇓. Every method has its published weights, none was tuned to these
images, and some are out of place: AT's value falls as maps grow, and its 10 000, meant for those of 64 x 128, is over ten
times all other terms here. Costs are not shown: the runs shared their machine with other work.

{table}"""


def rows(folder: Path) -> list[Record]:
    """What is kept of each row of a folder of runs, and the fingerprints of its recipe's parts, of which the teacher's tells
    where it lies."""
    found = load_runs([folder])
    parts = {str(run.folder): {part: mark for part, mark in run.parts.items() if part != "teacher"} for run in found.finished}
    told = records(summarise(found, Choices()), load_published())
    return [{**{key: record[key] for key in KEPT}, "parts": parts[record["folders"][0]]} for record in told]


def chance(old: Record, new: Record) -> float:
    """The two-sided p of Welch's t: that both means are of one and the same method."""
    apart = abs(new["miou"] - old["miou"])
    parts = [(one["miou_std"] or 0.0) ** 2 / one["n"] for one in (old, new)]
    if not apart or not any(parts):
        return float(not apart)
    terms = [part**2 / (one["n"] - 1) for part, one in zip(parts, (old, new), strict=True) if part]
    return 1 - within(apart / math.sqrt(sum(parts)), max(1, int(sum(parts) ** 2 / sum(terms))))


def moved(old: Sequence[Record], new: Sequence[Record]) -> list[str]:
    """A line for each row that has moved, or is on one side only."""
    before, now = ({one["row"]: one for one in some} for some in (old, new))
    chances = {name: chance(before[name], now[name]) for name in before if name in now}
    apart = survivors(chances)
    lines = [
        f"{name}: {_told(now[name])}, was {_told(before[name])}; p = {chances[name]:.2g}" for name in before if name in apart
    ]
    lines += [f"{name}: missing among the new runs" for name in before if name not in now]
    return lines + [f"{name}: new, {_told(now[name])}; --update takes it in" for name in now if name not in before]


def _told(record: Record) -> str:
    return f"{spread(record['miou'], record['miou_std'])} ({record['n']} seeds)"


def table(kept: Sequence[Record]) -> str:
    """The committed rows in Markdown; Holm's correction is over them, whenever each was trained."""
    stands = survivors({one["row"]: one["delta_p"] for one in kept if one["delta"] is not None})
    lines = ["| row | mIoU, test | n | Δ | 95 % | p | flags |", "|---|---|---|---|---|---|---|"]
    for one in kept:
        mark = arrow(one["delta_sign"] or 0, one["row"] in stands)
        bounds = "-" if one["delta_low"] is None else f"[{one['delta_low']:+.2f}, {one['delta_high']:+.2f}]"
        delta = "-" if one["delta"] is None else f"{one['delta']:+.2f}{mark}"
        p = "-" if one["delta_p"] is None else f"{one['delta_p']:.2g}"
        miou, flags = spread(one["miou"], one["miou_std"]), ", ".join(one["flags"]) or "-"
        lines.append(f"| {one['row']} | {miou} | {one['n']} | {delta} | {bounds} | {p} | {flags} |")
    return "\n".join(lines) + "\n"


def page(kept: Sequence[Record]) -> str:
    """The committed rows with what they are."""
    first = next(one for one in kept if one["row"] == one["baseline"])
    facts = {"pair": "shapes/tiny", "steps": first["steps"], "seeds": first["n"], "images": first["images"]}
    return PAGE.format(**facts, table=table(kept))


def main(folder: str, file: str, *options: str) -> int:
    """Compare, or write."""
    path, new = Path(file), rows(Path(folder))
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if "--update" in options:
        kept = list({one["row"]: one for one in [*old, *new]}.values())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept)
        write_text(path.with_suffix(".md"), page(kept))
        print(table(kept), end="")
        return 0
    if not path.exists():
        print(f"{path}: is not there; --update writes the first rows")
        return 1
    lines = moved(old, new)
    print(*lines or [f"{len(new)} rows: none has moved by more than chance"], sep="\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
