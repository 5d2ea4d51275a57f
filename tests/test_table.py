"""``kd table``: the tables it prints against hand-written ones, every format, and what it writes into files."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers_results import begin, write_run
from helpers_tools import ROOT, call, inside
from tiny import merged
from tiny import tiny as smallest

from kd.config import InputError
from kd.recipe.schema import Recipe, fingerprint
from kd.results.layouts import display
from kd.results.published import load_published
from kd.results.published_tables import quote
from kd.results.render import Table, as_csv, latex, markdown, update
from kd.results.runs import load_runs

BENCHMARK = """
| data set | model | SKD | IFVD | CWD | CIRKD | MasKD | DIST | JML-KD |
|---|---|---|---|---|---|---|---|---|
| Cityscapes | DL3-R18 | 75.42 | 75.59 | 75.55 | 76.38 | 77.00 | 77.10 | **78.14** |
| Cityscapes | DL3-MB2 | 73.82 | 73.50 | 74.66 | 75.42 | 75.26 | - | **77.78** |
| Cityscapes | PSP-R18 | 73.29 | 73.71 | 74.36 | 74.73 | 75.34 | 76.31 | **77.75** |
| PASCAL VOC | DL3-R18 | 73.51 | 73.85 | 74.02 | 74.50 | - | - | **76.25†** |
| PASCAL VOC | PSP-R18 | 74.07 | 73.54 | 73.99 | 74.78 | - | - | **75.36†** |
"""
JACCARD = {"loss": {"jaccard": {"name": "overlap"}}, "weights": {"jaccard": 0.75}}


def tiny(kind: str = "ce", **changes: Any) -> Recipe:
    """A recipe whose pair has published numbers."""
    return smallest(kind, **merged({"student": {"backbone": "resnet18"}}, changes))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A baseline and two methods on three seeds, another loss on one, a teacher, and a run that has not ended."""
    folder = tmp_path / "runs"
    write_run(folder / "teacher" / "seed0", tiny(student={"backbone": "resnet34"}), 70.0)
    for seed in range(3):
        taught = {"seed": seed, "teacher": {"name": "run", "path": "runs/teacher/seed0"}}
        write_run(folder / "ce" / f"seed{seed}", tiny(seed=seed), [50.0 + seed] * 8, best=52.0 + seed)
        cost = {"seconds_per_step": 1.0, "peak_memory_mb": 321.4, "accelerator_hours": 0.5}
        write_run(folder / "kd" / f"seed{seed}", tiny("kd", **taught), [53.5 + seed] * 8, cost=cost)
        write_run(folder / "jml_kd" / f"seed{seed}", tiny("jml_kd", **taught), [51.0 + seed, 48.0 + seed] * 4)
    write_run(folder / "ce_jml" / "seed0", tiny(**JACCARD), [49.0] * 8)
    begin(folder / "kd" / "seed3", tiny("kd", seed=3, teacher={"name": "run", "path": "runs/teacher/seed0"}))
    return folder


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """What the tool prints."""
    code = inside("table", *words)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """What the tool says when it refuses."""
    assert inside("table", *words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


LONG = """
**shapes, DL3-R18, teacher teacher**

| row | mIoU, test | n | Δ | 95 % | mIoU, test, best on val | s/step | × baseline | memory, MB | accelerator-h | flags |
|---|---|---|---|---|---|---|---|---|---|---|
| teacher | 70.00 | 1 | - | - | - | 0.5 | - | 100 | 0.25 |  |
| ce (baseline) | 51.00 ± 1.00 | 3 | - | - | 53.00 ± 1.00 | 0.5 | 1.00 | 100 | 0.25 |  |
| ce+jaccard | 49.00 | 1 | -1.00 | [-1.00, -1.00] images only | - | 0.5 | 1.00 | 100 | 0.25 | n < 3 |
| kd | 54.50 ± 1.00 | 3 | +3.50 ⇑ | [+3.50, +3.50] | - | 1 | 2.00 | 321 | 0.5 | incomplete |
| jml_kd | 50.50 ± 1.00 | 3 | -0.50 | [{low}, {high}] | - | 0.5 | 1.00 | 100 | 0.25 |  |

- Split test (8 images), last checkpoint, inference: whole image, single pass; seeds: `ce` 0, 1, 2; `ce+jaccard` 0; \
`kd` 0, 1, 2; `jml_kd` 0, 1, 2
- Baseline: `ce`; 6 steps of batch 4; teacher: there, 90.00 mIoU on val
- Recipes: `ce` {ce}, `ce+jaccard` {ce_jml}, `kd` {kd}, `jml_kd` {jml_kd}; source abc; 1 x x86_64 (2 threads)
- n < 3: fewer than three seeds
- incomplete: seeds of this row have begun and not ended
"""


def test_the_long_layout(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(capsys, monkeypatch, runs, "--checkpoint", "best")
    low, high = re.findall(r"\| -0\.50 \| \[(-\d\.\d\d), (\+\d\.\d\d)\]", out)[0]
    taught = {"teacher": {"name": "run", "path": "runs/teacher/seed0"}}
    marks = {
        "ce": fingerprint(tiny()),
        "ce_jml": fingerprint(tiny(**JACCARD)),
        "kd": fingerprint(tiny("kd", **taught)),
        "jml_kd": fingerprint(tiny("jml_kd", **taught)),
    }
    assert out.startswith(LONG.lstrip().format(low=low, high=high, **marks))
    rest = out[len(LONG.lstrip().format(low=low, high=high, **marks)) :]
    assert [line.split(":")[0] for line in rest.strip().splitlines() if line] == [
        *("- mIoU", "- Δ", "- ↑ ↓", "- ⇑ ⇓", "- best", "- s/step", "**Runs in no row**"),
        f"- {runs}/kd/seed3",
    ]


def test_with_one_seed_nothing_is_said_of_arrows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval over images alone may exclude 0, and yet no row gets an arrow; then the legend must not explain any."""
    write_run(tmp_path / "ce" / "seed0", tiny(), [50.0] * 8)
    write_run(tmp_path / "kd" / "seed0", tiny("kd"), [53.5] * 8)
    nothing = "- With one seed on a side nothing is told from chance: no row is called above or below the baseline"
    for words in ([], ["--layout", "brief"]):
        out = shown(capsys, monkeypatch, tmp_path, *words)
        assert not set("↑⇑") & set(out)
        assert nothing in out.splitlines()
    for seed in (1, 2):
        write_run(tmp_path / "ce" / f"seed{seed}", tiny(seed=seed), [50.0] * 8)
        write_run(tmp_path / "kd" / f"seed{seed}", tiny("kd", seed=seed), [53.5] * 8)
    write_run(tmp_path / "ce_jml" / "seed0", tiny(**JACCARD), [49.0] * 8)
    for words in ([], ["--layout", "brief"]):
        out = shown(capsys, monkeypatch, tmp_path, *words)
        assert nothing not in out
        (legend,) = [line for line in out.splitlines() if line.startswith("- ↑ ↓: above or below the baseline")]
        assert legend.endswith("excludes 0; none with one seed on a side")


def test_without_a_baseline_no_difference_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "kd", tiny("kd"), [53.5] * 8)
    out = shown(capsys, monkeypatch, tmp_path)
    assert "- mIoU: " in out
    assert "Δ:" not in out
    assert "chance" not in out


def test_the_brief_layout(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(capsys, monkeypatch, runs, "--layout", "brief", "--checkpoint", "best")
    assert out.splitlines()[:4] == [
        "| data set | model | CE | CE+JML | KD | JML-KD |",
        "|---|---|---|---|---|---|",
        "| shapes | DL3-R18, teacher teacher | 51.00 ± 1.00 | 49.00 | 54.50 ± 1.00 ⇑ | 50.50 ± 1.00 |",
        "| shapes | DL3-R18, teacher teacher, best on val | 53.00 ± 1.00 | - | - | - |",
    ]
    assert "- n < 3 (`ce+jaccard`): fewer than three seeds" in out
    assert "- incomplete (`kd`): " in out
    assert f"- {runs}/kd/seed3: incomplete" in out


def test_csv_and_json_hold_the_same_numbers(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = json.loads(shown(capsys, monkeypatch, runs, "--format", "json"))
    lines = list(csv.DictReader(io.StringIO(shown(capsys, monkeypatch, runs, "--format", "csv"))))
    assert [line["row"] for line in lines] == [value["row"] for value in values]
    assert [value["row"] for value in values] == ["teacher", "ce", "ce+jaccard", "kd", "jml_kd"]
    kd = values[3]
    assert (kd["miou"], kd["miou_std"], kd["delta"], kd["delta_sign"]) == (pytest.approx(54.5), pytest.approx(1), 3.5, 1)
    assert (kd["seeds"], kd["flags"], kd["images"], kd["times_baseline"]) == ([0, 1, 2], ["incomplete"], 8, 2.0)
    assert float(lines[3]["delta_low"]) == kd["delta_low"]
    assert (lines[3]["seeds"], lines[2]["flags"], lines[1]["delta"]) == ("0 1 2", "n < 3", "")


def test_the_same_runs_give_the_same_table(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(capsys, monkeypatch, runs) == shown(capsys, monkeypatch, runs)


def test_latex(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(capsys, monkeypatch, runs, "--format", "latex")
    assert "\\begin{tabular}{lrrrrrrrrl}\n\\toprule\n" in out
    assert (
        "row & mIoU, test & n & $\\Delta$ & 95 \\% & s/step & $\\times$ baseline & memory, MB & accelerator-h & flags \\\\"
        in out
    )
    assert "kd & 54.50 $\\pm$ 1.00 & 3 & +3.50 $\\Uparrow$ & [+3.50, +3.50] & 1 & 2.00 & 321 & 0.5 & incomplete \\\\" in out
    assert "jml\\_kd & 50.50 $\\pm$ 1.00 & 3 & $-$0.50 &" in out
    assert "\\texttt{ce+jaccard}" in out
    body = re.sub(r"\\[%&_#$]", "", out.partition("\n")[2])
    assert body.isascii()
    assert body.count("{") == body.count("}")
    assert "_" not in body
    assert "%" not in body


def test_cells_are_escaped() -> None:
    table = Table("a_b", ("x", "y"), (("**1.5**", "p|q"), ("-1", "100% & {c}~^\\")))
    assert "| **1.5** | p\\|q |" in markdown([table])
    text = latex([table])
    assert "\\textbf{1.5} & p|q \\\\" in text
    assert "$-$1 & 100\\% \\& \\{c\\}\\textasciitilde{}\\textasciicircum{}\\textbackslash{} \\\\" in text


def test_display_names() -> None:
    assert [
        display(label) for label in ("ce", "ce+jaccard", "kd+cwd", "jml_kd (method.a=1)", "kl, smoothed labels", "ce_jml+cwd@x")
    ] == [*("CE", "CE+JML", "KD+CWD", "JML-KD (method.a=1)", "KL, smoothed labels", "CE+JML+CWD@x")]


# -------------------------------------------------------------------------------------------------------- published


def test_the_published_table_is_the_benchmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(capsys, monkeypatch, "--published")
    assert out.startswith(BENCHMARK.lstrip())
    notes = out[len(BENCHMARK.lstrip()) :]
    assert "JML-KD: checkpoint: last; inference: sliding window" in notes
    assert "DIST from Knowledge Distillation from A Stronger Teacher (NeurIPS 2022), github.com/hunto/DIST_KD" in notes
    assert "Cityscapes & DL3-R18 & 75.42" in shown(capsys, monkeypatch, "--published", "--format", "latex")
    cells = json.loads(shown(capsys, monkeypatch, "--published", "--format", "json"))
    assert len(cells) == 30
    assert cells[0]["miou"] == 75.42
    assert len(shown(capsys, monkeypatch, "--published", "--format", "csv").splitlines()) == 31


def test_the_published_table_of_all_methods(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = shown(capsys, monkeypatch, "--published", "--all-methods")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    seven, newer = BENCHMARK.strip().splitlines()[0], ["DSD", "Af-DCD", "CIRKDV2", "AttnFD", "feature KD"]
    assert rows[0] == [*(cell.strip() for cell in seven.split("|")[1:-1]), *newer]
    found = {tuple(row[:2]): dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert len(found) == len(rows) - 1
    assert found["Cityscapes", "DL3-R18"]["SKD"] == "75.42"
    assert found["Cityscapes", "DL3-R18"]["JML-KD"] == "**78.14**"
    assert found["Cityscapes", "DL3-R18"]["Af-DCD"] == "77.03"
    assert found["Cityscapes", "PSP-R18"]["feature KD"] == "**79.00**"
    assert found["Cityscapes", "DL3-R18, test"]["CIRKDV2"] == "**75.60**"
    assert found["Cityscapes", "UPer-R18, test"]["CIRKDV2"] == "72.11", "alone, and so neither best nor worst"
    assert found["PASCAL VOC", "DL3+-R18"]["AttnFD"] == "**73.09**"
    assert "as published with CIRKDV2: Cityscapes test DL3-R18 73.56, Cityscapes test UPer-R18 68.90" in out
    assert "CIRKD (CamVid DL3-R18, PSP-R18): checkpoint: not stated" in out
    assert "SKD, IFVD, CWD (Cityscapes PSP-R18; PASCAL VOC DL3-R18, PSP-R18): only in the JML README" in out
    assert "feature KD: under extended training, beside a teacher of 79.8; the abstract tells no length" in out
    numbers = json.loads(shown(capsys, monkeypatch, "--published", "--all-methods", "--format", "json"))
    assert len(numbers) > 90
    assert "72.11" in shown(capsys, monkeypatch, "--published", "--all-methods", "--format", "latex")


CITYSCAPES: dict[str, Any] = {"data": {"name": "cityscapes"}, "evaluation": {"select": "val", "report": "val"}}


def methods(folder: Path, *kinds: str, student: dict[str, Any] | None = None) -> Path:
    """A run of each kind: ``ce``, or a method's name."""
    for kind in kinds:
        own = {} if kind == "ce" else {"method": {"name": kind}}
        changes = {**CITYSCAPES, **own, "student": {"pretrained": True, **(student or {})}}
        write_run(folder / kind, tiny("ce" if kind == "ce" else "kd", **changes), 70.0)
    return folder


def test_published_numbers_stand_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods(tmp_path, "ce", "dist", "fitnet")
    out = shown(capsys, monkeypatch, tmp_path)
    cells = {line.split(" | ")[0]: line.split(" | ")[-3:-1] for line in out.splitlines() if line.startswith("| ")}
    assert cells["| row"] == ["published", "published Δ"]
    assert cells["| ce (baseline)"] == ["74.21", "-"]
    assert cells["| dist"] == ["77.10", "+0.79"]
    assert cells["| fitnet"] == ["-", "-"]
    (line,) = [line for line in out.splitlines() if line.startswith("- Published, `dist`")]
    assert "77.10 (val; best of 100 validations on val" in line
    assert "github.com/hunto/DIST_KD. Its baseline: 76.31, A user's repetition, github.com/hunto/DIST_KD issue 8" in line
    out = shown(capsys, monkeypatch, tmp_path, "--layout", "brief")
    assert "| Cityscapes | DL3-R18, teacher fresh, published | 74.21 | - | 77.10 |" in out


def test_which_number_is_quoted(tmp_path: Path) -> None:
    published = load_published(ROOT / "recipes" / "published.yaml")
    methods(tmp_path / "a", "ce", "cirkd", "jml_kd", "cwd", "kd")
    found = {run.folder.name: quote(published, run) for run in load_runs([tmp_path / "a"]).finished}
    ours = {name: (one.number.miou, one.delta and round(one.delta, 2)) for name, one in found.items() if one}
    assert ours == {
        "ce": (74.21, None),
        "cirkd": (76.38, 2.17),
        "cwd": (75.55, 1.34),
        "jml_kd": (78.14, None),
        "kd": (76.61, 0.4),
    }
    methods(tmp_path / "b", "cirkd", student={"pretrained": False})
    (run,) = load_runs([tmp_path / "b"]).finished
    scratch = quote(published, run)
    assert scratch is not None
    assert (scratch.number.miou, round(scratch.delta or 0, 2)) == (68.18, 3.01)
    write_run(tmp_path / "c", tiny(**CITYSCAPES, **JACCARD, student={"pretrained": True}), 70.0)
    (run,) = load_runs([tmp_path / "c"]).finished
    assert quote(published, run) is None, "another loss than cross-entropy is not the published baseline"


# ---------------------------------------------------------------------------------------------------- files, errors


def test_update_writes_between_the_markers(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    text = "# A\n<!-- table:results -->\nOLD\n<!-- /table -->\nB\n<!-- table:published -->\n<!-- /table -->\nC\n"
    readme.write_text(text)
    readme.chmod(0o640)
    assert "'results' updated" in shown(capsys, monkeypatch, runs, "--update", readme)
    assert "'published' updated" in shown(capsys, monkeypatch, "--published", "--update", readme)
    first = readme.read_text()
    assert first.startswith("# A\n<!-- table:results -->\n**shapes, DL3-R18")
    assert BENCHMARK.strip() in first
    assert first.endswith("\n<!-- /table -->\nC\n")
    assert "OLD" not in first
    assert "is up to date" in shown(capsys, monkeypatch, runs, "--update", readme)
    assert readme.read_text() == first
    assert readme.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "runs"]


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        "<!-- table:x -->\n",
        "<!-- /table -->\n<!-- table:x -->\n",
        "<!-- table:x -->\n<!-- /table -->\n" * 2,
        "<!-- table:x -->\n<!-- table:y -->\n<!-- /table -->\n",
    ],
)
def test_update_needs_its_markers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(InputError, match="needs the lines <!-- table:x --> and <!-- /table --> once"):
        update(path, "x", "new")
    assert path.read_text() == text


def test_update_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.md: cannot be read"):
        update(tmp_path / "none.md", "x", "new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give run directories, e.g. runs/camvid, or --published; one of the two"),
        (["--published", "."], "one of the two"),
        (["--all-methods", "."], "--all-methods is for the published numbers; give it with --published"),
        (["--published", "--update", "README.md", "--format", "csv"], "--update writes Markdown, not csv"),
        (["nowhere"], "nowhere: is no directory"),
    ],
)
def test_wrong_calls(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in refused(capsys, monkeypatch, *words)


def test_a_refusal_is_one_message(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(runs / "other", tiny("kd", schedule={"steps": 12}, teacher={"name": "run", "path": "runs/teacher/seed0"}), 50.0)
    error = refused(capsys, monkeypatch, runs)
    assert error.startswith(
        f"error: {runs}/ce/seed0 and {runs}/other do not compare: schedule differs (schedule.steps: 6 and 12)"
    )
    assert error.count("\n") == 1
    out = shown(capsys, monkeypatch, runs, "--by", "schedule.steps")
    assert "**shapes, DL3-R18, teacher teacher, schedule.steps=12**" in out


def test_as_a_program(runs: Path) -> None:
    done = call("table", runs, "--allow", "schedule.steps")
    assert done.returncode == 0, done.stderr
    assert "- Allowed to differ between rows: schedule.steps" in done.stdout
    done = call("table", runs, "--apart", "schedule.steps")
    assert done.returncode == 0, done.stderr
    assert "- Rows of their own: schedule.steps" in done.stdout


def test_presets_of_one_method_share_a_column_where_that_is_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(folder: Path, recipe: Recipe, word: str) -> None:
        path = write_run(folder, recipe, 50.0) / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "asked": word}))

    for backbone, preset in (("resnet18", "citys"), ("mobilenetv2_100", "voc")):
        student = {"student": {"backbone": backbone}}
        asked(tmp_path / backbone / "ce", tiny(**student), "ce")
        asked(tmp_path / backbone / "kd", tiny("kd", **student), f"cirkd@{preset}")
    out = shown(capsys, monkeypatch, tmp_path, "--layout", "brief")
    assert "| data set | model | CE | CIRKD |" in out
    asked(
        tmp_path / "resnet18" / "other", tiny("kd", student={"backbone": "resnet18"}, method={"temperature": 2.0}), "cirkd@voc"
    )
    out = shown(capsys, monkeypatch, tmp_path, "--layout", "brief")
    assert "| data set | model | CE | CIRKD | CIRKD@citys | CIRKD@voc |" in out


def test_names_in_tables_are_texts_and_nothing_else() -> None:
    evil = "<script>alert(1)</script>\n| x |"
    (line,) = [line for line in markdown([Table("t", ("a",), ((evil,),), (evil,))]).splitlines() if line.startswith("| &lt;")]
    assert line == "| &lt;script>alert(1)&lt;/script> \\| x \\| |"
    assert markdown([Table("", ("n < 3",), (("1 <2",),))]).startswith("| n < 3 |")
    rows = as_csv([{"label": "=1+1", "delta": -1.5, "note": "-x", "list": ["@a", "b"]}]).splitlines()
    assert rows[1] == "'=1+1,-1.5,'-x,'@a; b"
