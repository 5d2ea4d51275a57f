"""Who may import whom, without circles, and how long and deep code may be."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("kd", "teachers", "students", "tools")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
COMMANDS = sorted((ROOT / "kd" / "commands").glob("*.py"))

FLOOR = {
    "kd",
    "kd.blame",
    "kd.config",
    "kd.content",
    "kd.distributed",
    "kd.files",
    "kd.keywords",
    "kd.lookup",
    "kd.plain_yaml",
    "kd.reachability",
    "kd.schedules",
    "kd.sealed",
    "kd.seeds",
    "kd.surge",
    "kd.types",
    "kd.visible",
}
RECIPE = FLOOR | {"kd.recipe"}
TRAINING = {"kd", "students", "teachers.Teacher"}
MAY_IMPORT = {
    **dict.fromkeys(FLOOR, FLOOR),
    "kd.losses": {"kd.types", "kd.config", "kd.distributed", "kd.lookup", "kd.keywords", "kd.losses"},
    "kd.metrics": {"kd.types", "kd.config", "kd.distributed", "kd.metrics"},
    "kd.networks": FLOOR | {"kd.networks"},
    "kd.data": FLOOR | {"kd.data"},
    "kd.methods": FLOOR | {"kd.losses", "kd.methods"},
    "kd.benchmark": FLOOR | {"kd.data", "kd.losses", "kd.methods", "kd.metrics", "kd.evaluate", "kd.networks", "kd.benchmark"},
    "kd.evaluate": FLOOR | {"kd.metrics", "kd.evaluate", "kd.losses.row_blocks"},
    "kd.recipe": RECIPE | {"kd.losses.label_smoothing", "kd.losses.mixture", "kd.data.augment"},
    "kd.recipe.library": FLOOR,
    "kd.recipe.merging": FLOOR | {"kd.recipe.library"},
    "kd.results": RECIPE | {"kd.metrics", "kd.results"},
    "kd.report": FLOOR | {"kd.data.headers", "kd.metrics", "kd.results", "kd.report"},
    "kd.sweep": RECIPE | {"kd.results.names", "kd.sweep"},
    "kd.commands": {"kd", "students", "teachers"},
    "kd.__main__": {"kd.commands"},
    "teachers": {"kd", "teachers"},
    "students": TRAINING,
    "students.examining": {"kd", "students.examining", "students.progress", "students.precision", "teachers.Teacher"},
    "students.tracking": {"kd", "students.tracking", "students.examining.previews", "students.progress", "students.signals"},
    "students.sweeping": TRAINING,
    "students.contract": TRAINING,
    "students.step_costs": {"kd", "students", "teachers"},
    "students.verifying": {"kd", "students", "teachers"},
    "students.doctor": {"kd", "students.doctor", "students.tracking"},
    "tools": {"kd.commands"},
}
"""The longest matching name rules. What is listed includes all below it; inside ``kd`` the bare ``kd`` does not.

The commands put everything together; only the tools import them.
"""

ONLY_IN = {
    "torchvision": ("kd.data", "kd.networks", "teachers.torchvision"),
    "timm": ("kd.data", "kd.networks"),
    "wandb": ("students.tracking.wandb_view",),
    "argcomplete": ("kd.commands.main",),
}
CONTROL = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Import(NamedTuple):
    """One imported name: ``from teachers import Teacher`` is ``teachers.Teacher``."""

    name: str
    line: int
    top: bool


def module(path: Path) -> str:
    """Dotted name of a file of the library."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def below(name: str, parents: set[str] | tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the parents or inside one."""
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def imports(path: Path) -> list[Import]:
    """All imports of a file, wherever they stand."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(node) for function in ast.walk(tree) if isinstance(function, DEFINITION) for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, id(node) not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            found += [Import(f"{node.module}.{alias.name}", node.lineno, id(node) not in inner) for alias in node.names]
    return found


def allowed(importer: str) -> set[str] | None:
    """What a module may import of the library; None if no rule knows it."""
    if importer in FLOOR:
        return FLOOR
    rules = [rule for rule in MAY_IMPORT if below(importer, (rule,)) and rule != "kd"]
    return MAY_IMPORT[max(rules, key=len)] if rules else None


def permitted(name: str, importer: str, rule: set[str]) -> bool:
    """Whether a rule covers an imported name."""
    top = below(importer, ("kd.commands", "kd.__main__", "tools"))
    whole = rule if top or not below(importer, ("kd",)) else rule - {"kd"}
    return name in rule or (below(name, whole) and (top or not below(name, ("kd.commands",))))


def breaches(path: Path) -> Iterator[str]:
    """Imports of the library's own folders that the rules do not allow."""
    importer = module(path)
    rule = allowed(importer)
    if rule is None:
        yield f"{path.relative_to(ROOT)}: no rule for this module; add it to MAY_IMPORT and to the design"
        return
    for name, line, _ in imports(path):
        if name.split(".")[0] in FOLDERS and not permitted(name, importer, rule):
            yield f"{path.relative_to(ROOT)}:{line}: imports {name}"


def test_nothing_is_overlooked() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FOLDERS)
    assert len(FILES) > 40
    seen = {name.split(".")[0] for path in FILES for name, *_ in imports(path)}
    assert {"kd", "teachers", "students", "torchvision", "timm", "wandb"} <= seen


@pytest.mark.parametrize("path", FILES, ids=module)
def test_layers(path: Path) -> None:
    assert not list(breaches(path))


@pytest.mark.parametrize("path", FILES, ids=module)
def test_heavy_packages_stay_where_they_belong(path: Path) -> None:
    for name, line, top in imports(path):
        package = name.split(".")[0]
        assert below(module(path), ONLY_IN.get(package, (module(path),))), f"line {line}: imports {package}"
        assert package != "wandb" or not top, f"line {line}: imports wandb at module level; a run without W&B must not pay"


@pytest.mark.parametrize("folder", ["kd/networks", "kd/data", "teachers"])
def test_classes_are_found_by_name(folder: str) -> None:
    builders = [ROOT / folder / name for name in ("build.py", "load.py") if (ROOT / folder / name).exists()]
    assert builders
    assert all("kd.lookup.lookup" in [name for name, *_ in imports(path)] for path in builders)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= (120 if path in COMMANDS else 250)


def depth(node: ast.AST, column: int = -1) -> int:
    """Levels of control flow below a node. An ``elif`` stands in the column of its ``if`` and is no deeper."""
    own = int(isinstance(node, CONTROL) and getattr(node, "col_offset", None) != column)
    alternatives = node.orelse if isinstance(node, ast.If) else []
    columns = [(child, node.col_offset if child in alternatives else -1) for child in ast.iter_child_nodes(node)]
    return own + max((depth(child, column) for child, column in columns), default=0)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_functions_are_short_and_flat(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, DEFINITION)]
    lines = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    assert not [(name, count) for name, count in lines if count > 50]
    assert not [(node.name, depth(node)) for node in functions if depth(node) > 3]


def dependencies() -> dict[str, set[str]]:
    """Every module of the library, with those that it imports, wherever the import stands."""
    names = {module(path): path for path in FILES}
    found: dict[str, set[str]] = {}
    for name, path in names.items():
        used = {next((known for known in parents(one.name) if known in names), "") for one in imports(path)}
        found[name] = used - {"", name}
    return found


def parents(name: str) -> Iterator[str]:
    """A dotted name, then those of what it lies in."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return seen

    return sorted(name for name in graph if name in reached(name))


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert circles(dependencies()) == []


def test_a_circle_is_noticed() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


@pytest.mark.parametrize("path", [*TOOLS, *COMMANDS], ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_no_program_hides_a_module_of_python(path: Path) -> None:
    # the folder of a program comes first on its path: tools/profile.py would break cProfile, and torch with it
    assert path.stem not in sys.stdlib_module_names


def test_a_tool_is_a_command() -> None:
    for path in TOOLS:
        assert f'main(["{path.stem.replace("_", "-")}", *sys.argv[1:]])' in path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ the checks themselves


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("kd/types.py", "import kd.losses.kl"),
        ("kd/seeds.py", "from kd import recipe"),
        ("kd/losses/new.py", "from kd.networks.network import Network"),
        ("kd/losses/new.py", "def f():\n    from kd.schedules import factor"),
        ("kd/metrics/new.py", "from kd.losses.loss import Loss"),
        ("kd/networks/new.py", "from kd.data.dataset import Dataset"),
        ("kd/data/new.py", "import kd.networks.build as b"),
        ("kd/methods/new.py", "from kd.networks.network import Network"),
        ("kd/methods/new.py", "from teachers import Teacher"),
        ("kd/evaluate/new.py", "from kd.losses.loss import Loss"),
        ("kd/results/new.py", "from kd.sweep.points import expand"),
        ("kd/results/new.py", "from kd.data.build import open_split"),
        ("kd/report/new.py", "from kd.data.reading import read_image"),
        ("kd/results/new.py", "from kd.report.page import page"),
        ("kd/recipe/new.py", "from kd.data.loader import epoch"),
        ("kd/novel.py", "import torch"),
        ("teachers/new.py", "from students.trainer import Trainer"),
        ("students/new.py", "from teachers.run import RunTeacher"),
        ("students/new.py", "from teachers.teacher import Teacher"),
        ("students/new.py", "from teachers import load"),
        ("students/new.py", "import teachers"),
        ("students/new.py", "from tools.train import main"),
        ("students/new.py", "from kd.commands.train import run"),
        ("students/tracking/new.py", "from students.run import train"),
        ("students/examining/new.py", "from students.tracking.tracker import Tracker"),
        ("students/doctor/new.py", "from students.trainer import Trainer"),
        ("kd/sweep/new.py", "from kd.commands._process import kd"),
        ("kd/recipe/library.py", "from kd.recipe.loading import load"),
        ("kd/recipe/new.py", "from kd.losses.loss import Loss"),
        ("tools/new.py", "import tools.train"),
        ("tools/new.py", "from kd.recipe.loading import load"),
    ],
)
def test_a_breach_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, code: str) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert list(breaches(path))


@pytest.mark.parametrize(
    ("code", "deep"),
    [
        ("def f():\n  if a:\n    for b in c:\n      while d:\n        with e: pass", 4),
        ("def f():\n  if a: pass\n  elif b: pass\n  elif c: pass\n  else:\n    if d: pass", 2),
        ("def f():\n  try:\n    x\n  except E:\n    if a: pass", 2),
        ("def f(): return [a for b in c]", 0),
    ],
)
def test_depth(code: str, deep: int) -> None:
    assert depth(ast.parse(code)) == deep
