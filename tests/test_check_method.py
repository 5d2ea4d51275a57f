"""``kd check-method`` and ``kd new-method``: what the author of a method is told."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from helpers_tools import call

from kd.config import ConfigError
from kd.methods.build import build_method
from kd.recipe.schema import method_config
from kd.types import Sizes
from students.contract import ranks
from students.contract.subject import subject

HEAD = """
import torch
from torch import nn

from kd.config import ConfigError
from kd.distributed import sum_over_ranks
from kd.methods.maps import labels_at, mean, pair
from kd.methods.method import Method


class Mine(Method):
"""
FORWARD = """
    terms = ("x",)

    def forward(self, student, teacher, target):
        mine, theirs = pair(student, teacher)
"""
INIT = """
    def __init__(self, config, student, teacher):
        super().__init__(config, student, teacher)
"""


def answered(folder: Path, name: str, body: str, *knobs: str) -> subprocess.CompletedProcess[str]:
    """What ``kd check-method`` says of a class with this body; ``name`` is the module's, each test has its own."""
    (folder / f"{name}.py").write_text(HEAD + body)
    return call("check-method", f"{name}:Mine", *knobs, folder=folder)


@pytest.fixture(autouse=True)
def apart_from_other_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test adds to Python's path and modules goes again."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(ranks, "PATIENCE", timedelta(seconds=3))
    yield
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


BROKEN = {
    "makes_layers_late": (
        FORWARD
        + """
        if not hasattr(self, "late"):
            self.late = torch.nn.Conv2d(mine.shape[1], mine.shape[1], 1)
        return {"x": mean((self.late(mine) - theirs) ** 2)}
""",
        "forward returns the declared terms as scalars: forward makes the layer of late.weight, which no optimizer would",
    ),
    "leaks": (
        """
    terms = ("x",)

    def forward(self, student, teacher, target):
        mine, _ = pair(student, teacher)
        return {"x": mean((mine - teacher.logits.float()) ** 2)}
""",
        "no gradient reaches the teacher: the gradient reaches teacher.logits; detach what is read of it: teacher.logits.det",
    ),
    "forgets": (
        """
    terms = ("x", "y")

    def forward(self, student, teacher, target):
        mine, theirs = pair(student, teacher)
        return {"x": mean((mine - theirs) ** 2)}
""",
        "forward returns the declared terms as scalars: forward never returns 'y', which terms declares; return it, or",
    ),
    "invents": (
        FORWARD + '        return {"x": mean((mine - theirs) ** 2), "y": mean(mine)}\n',
        "forward returns the declared terms as scalars: forward returns 'y', which terms does not name; add it there",
    ),
    "local_mean": (
        FORWARD
        + """
        gap, keep = ((mine - theirs) ** 2).sum(1), labels_at(target, theirs) != 255
        return {"x": (gap * keep).sum() / keep.sum().clamp_min(1)}
""",
        "two processes compute what one does: the term 'x' is 10.1735 and 9.41593 in two processes, 9.93539 in one with the "
        "same images. Sums and means must run over the images of all processes: kd.methods.maps.mean, kd.distributed.sum_",
    ),
    "no_gradient_through_the_sum": (
        FORWARD
        + """
        total = ((mine - theirs) ** 2).sum()
        return {"x": total + (sum_over_ranks(total) - total).detach()}
""",
        "two processes compute what one does: the gradient of student.logits in two processes is off by 50 %",
    ),
    "in_place": (
        """
    terms = ("x",)

    def forward(self, student, teacher, target):
        student.logits.div_(2)
        mine, theirs = pair(student, teacher)
        return {"x": mean((mine - theirs) ** 2)}
""",
        "outputs and labels stay as they are: forward changes student.logits in place, which task loss and other methods read",
    ),
    "teacher_in_place": (
        FORWARD
        + """
        theirs.clamp_(-1, 1)
        return {"x": mean((mine - theirs) ** 2)}
""",
        "outputs and labels stay as they are: forward changes teacher.logits in place",
    ),
    "raises": (
        FORWARD + '        return {"x": mean(mine)[self.no]}\n',
        "forward returns the declared terms as scalars: AttributeError: 'Mine' object has no attribute 'no' (raises.py:17)",
    ),
    "other_signature": (
        """
    terms = ("x",)

    def forward(self, student, teacher):
        return {"x": mean(student.logits)}
""",
        "forward returns the declared terms as scalars: forward takes (student, teacher); it is given the outputs of ",
    ),
    "needs_untold": (
        FORWARD + '        return {"x": mean((mine - theirs) ** 2) * teacher.embedding.detach().float().var()}\n',
        "needs names all that is read of the teacher: it reads teacher.embedding: without it there is AttributeError: "
        "'NoneType' object has no attribute 'detach' (needs_untold.py:17); say so, needs = frozenset({",
    ),
    "divides_by_nothing": (
        FORWARD
        + """
        gap, keep = ((mine - theirs) ** 2).sum(1), labels_at(target, theirs) != 255
        return {"x": sum_over_ranks((gap * keep).sum()) / sum_over_ranks(keep.sum())}
""",
        "ignored pixels, images and batches are finite: with a batch that is ignored as a whole the term 'x' is nan; divide by",
    ),
    "one_grid": (
        """
    terms = ("x",)

    def forward(self, student, teacher, target):
        return {"x": mean((student.logits.float() - teacher.logits.detach().float()) ** 2)}
""",
        "teachers of other widths and strides, odd sizes: with images of 65x83 and a teacher of another stride: Runtime",
    ),
    "pools": (
        INIT
        + "        self.norm = nn.BatchNorm1d(student.classes)\n"
        + FORWARD
        + '        return {"x": mean((self.norm(mine.mean((2, 3))) - theirs.mean((2, 3))) ** 2)}\n',
        "a batch of one image: with a batch of one image: ValueError: Expected more than 1 value per channel when training",
    ),
    "half": (
        """
    terms = ("x",)

    def forward(self, student, teacher, target):
        return {"x": mean((student.logits**2).sum(1)).float()}
""",
        "half precision is computed in float32: the term 'x' is ",
    ),
    "counts": (
        INIT
        + "        self.count = 0\n"
        + FORWARD
        + """
        self.count += 1
        return {"x": mean((mine - theirs) ** 2) * self.count}
""",
        "a resumed run is the same to the last bit: step 2 has x = ",
    ),
    "idle": (
        INIT + "        self.layer = nn.Linear(3, 3)\n" + FORWARD + '        return {"x": mean((mine - theirs) ** 2)}\n',
        "gradients reach the student and the method's parameters: no term reaches layer.weight, a parameter of the method",
    ),
    "detached": (
        FORWARD + '        return {"x": mean((mine.detach() - theirs) ** 2)}\n',
        "gradients reach the student and the method's parameters: the term 'x' has no gradient, so that it teaches nothing",
    ),
    "remembers_its_own": (
        INIT
        + '        self.register_buffer("centre", torch.zeros(()))\n'
        + FORWARD
        + """
        self.centre.lerp_(theirs.mean(), 0.1)
        return {"x": mean((mine - theirs) ** 2)}
""",
        "two processes compute what one does: centre, which a step writes, differs between two processes",
    ),
    "draws": (
        FORWARD
        + """
        return {"x": mean((mine - theirs) ** 2 * torch.rand(len(mine), 1, 1, 1))}
""",
        "two processes compute what one does: the term 'x' is ",
    ),
    "fails_on_one": (
        FORWARD
        + """
        if torch.distributed.is_initialized() and (target == 255).flatten(1).all(1).any():
            raise AssertionError("not today")
        return {"x": mean((mine - theirs) ** 2)}
""",
        "two processes compute what one does: AssertionError: not today (fails_on_one.py:19)",
    ),
    "waits_alone": (
        FORWARD
        + """
        gap = ((mine - theirs) ** 2).sum()
        return {"x": gap if (target == 255).flatten(1).all(1).any() else sum_over_ranks(gap)}
""",
        "two processes compute what one does: one process waits in vain for the other; each must take part in every sum",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_one_line_with_the_remedy(name: str, tmp_path: Path) -> None:
    body, problem = BROKEN[name]
    done = answered(tmp_path, name, body)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert (done.returncode, done.stderr, len(failed)) == (2, "", 1), done.stdout
    assert failed[0].startswith(f"FAILED  {problem}")
    assert done.stdout.endswith(f"\n\n{name}:Mine breaks 1 of the rules\n")


@pytest.mark.parametrize("name", ["cirkd", "cirkd_v2"])
def test_pairs_of_images_reach_over_processes(name: str) -> None:
    """Groups of four, of which each of two processes has a half."""
    ranks.two_are_one(subject(method_config({"name": name, "group": 4, "pixel_slots": 50, "region_slots": 9})))


def test_rules_that_rest_on_a_broken_one_wait(tmp_path: Path) -> None:
    """So that one mistake is not told eleven times."""
    done = answered(tmp_path, "rests", BROKEN["forgets"][0])
    assert done.stdout.count("\nwaits ") + done.stdout.startswith("waits") == 10
    assert "Traceback" not in done.stdout + done.stderr


def test_random_terms_may_be_declared(tmp_path: Path) -> None:
    done = answered(tmp_path, "declares", '    local = frozenset({"x"})\n' + BROKEN["draws"][0])
    assert (done.returncode, done.stdout.count("ok ")) == (0, 11), done.stdout
    assert done.stdout.endswith("\ndeclares:Mine keeps the contract\n")


EQUAL = (
    """
    class Config(Method.Config):
        power: float = 2.0
"""
    + INIT
    + """
        if student.embedding != teacher.embedding:
            raise ConfigError("the embeddings must be equally wide")
        if config.power < 1:
            raise RuntimeError("too low")

    needs = frozenset({"embedding"})
    terms = ("x",)

    def forward(self, student, teacher, target):
        mine, theirs = pair(student, teacher, "embedding")
        return {"x": mean((mine - theirs).abs() ** self.config.power)}
"""
)


def test_a_method_may_refuse_pairs_that_do_not_fit(tmp_path: Path) -> None:
    done = answered(tmp_path, "equal", EQUAL)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert answered(tmp_path, "equal", EQUAL, "method.power=3").returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["equal2:Mine", "powr=3"], "method.powr: there is no such key; did you mean 'power'?"),
        (["equal2:Mine", "power=x"], "method.power: is 'x'; input should be a valid number"),
        (["equal2:Mine", "power=0.5"], "equal2:Mine cannot be built for a pair of networks: RuntimeError: too low (equal2.py:"),
        (["equal2:Yours"], "method: 'equal2:Yours' cannot be imported"),
        (["equal2:nn"], "method: 'equal2:nn' is not a Method; derive the class from kd.methods.Method"),
        (["syntax:Mine"], "method: 'syntax:Mine': its module breaks off when it is imported: SyntaxError: "),
        (
            ["name_error:Mine"],
            "method: 'name_error:Mine': its module breaks off when it is imported: NameError: name 'y'",
        ),
        (["mine/a.py:Mine"], "mine/a.py:Mine: name the class as Python imports it, mine.a:Mine, from a folder above the file"),
        (["ce"], "ce: is a task loss, which needs no teacher; name a method, `kd methods` lists them"),
        (["cwdd"], "'cwdd' is no method here; did you mean cwd"),
        (["at", "power=3"], "at: stands for several methods; set knobs of one alone: kd, at"),
        (["cwd", "nonsense"], "'method.nonsense' is no override"),
        (["unknown:Mine"], "method: 'unknown:Mine' cannot be imported (No module named 'unknown')"),
    ],
)
def test_what_cannot_be_tested_is_told_in_one_message(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "equal2.py").write_text(HEAD + EQUAL)
    (tmp_path / "syntax.py").write_text("class Mine(\n")
    (tmp_path / "name_error.py").write_text("x = 1\nx = y\n")
    done = call("check-method", *words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["kd", "temperature=4"], ["cwd_logit@official"], ["at"], ["ifvd@official"]], ids=str)
def test_presets_are_tested_by_name(words: list[str]) -> None:
    done = call("check-method", *words)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 11), done.stdout


# ---------------------------------------------------------------------------------------------------------- kd new-method


def test_a_new_method_keeps_the_contract_and_trains(tmp_path: Path) -> None:
    done = call("new-method", "fresh_idea", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"fresh_idea.py", "fresh_idea.yaml"}
    commands = [shlex.split(line)[1:] for line in done.stdout.splitlines()[1:3]]
    assert commands == [["check-method", "fresh_idea:FreshIdea"], ["train", "shapes/tiny", "fresh_idea", "--smoke"]]
    for words in commands:
        told = call(*words, "temperature=2" if words[0] == "check-method" else "method.temperature=2", folder=tmp_path)
        assert told.returncode == 0, told.stdout + told.stderr
    assert len((tmp_path / "fresh_idea.py").read_text().splitlines()) <= 40
    again = call("new-method", "fresh_idea", folder=tmp_path)
    assert (again.returncode, again.stderr.split(";")[0]) == (
        2,
        "error: fresh_idea: there is such a method already, in ./_parts/method/fresh_idea.yaml",
    )


def test_a_new_method_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for output, hint in (
        ("mine/plan.py", "  kd check-method mine.plan:First"),
        (tmp_path / "else where" / "plan_b.py", f"  PYTHONPATH='{tmp_path}/else where' kd check-method plan_b:First"),
        ("my-code/plan_c.py", "  PYTHONPATH=my-code kd check-method plan_c:First"),
    ):
        done = call("new-method", "first", "--output", output, folder=tmp_path / "here")
        assert done.stdout.splitlines()[1] == hint, done.stderr
        if "PYTHONPATH" not in hint:
            assert call("check-method", "first", folder=tmp_path / "here").returncode == 0
        (tmp_path / "here" / "_parts" / "method" / "first.yaml").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1st"], "'1st' cannot name a method; use letters, digits and _, a letter first"),
        (["my-method"], "'my-method' cannot name a method"),
        (["class"], "'class' cannot name a method"),
        (["kd"], "kd: there is such a method already, in recipes/_parts/method/kd.yaml; choose another name"),
        (["several"], "several: there is such a method already, in the library; choose another name"),
        (["json"], "json.py: Python has a module json already, which would be found instead; choose another"),
        (["new", "--output", "there.py"], "there.py: is there already, and nothing is overwritten; choose another --output"),
        (["new", "--output", "new.txt"], "new.txt: is no name of a Python module"),
        (["new", "--output", "new-er.py"], "new-er.py: is no name of a Python module"),
    ],
)
def test_a_new_method_hides_and_overwrites_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("mine")
    done = call("new-method", *words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["there.py"]
    assert (tmp_path / "there.py").read_text() == "mine"


REFUSED = {
    "layers in a list": (
        """
    terms = ("x",)

    def __init__(self, config, student, teacher):
        super().__init__(config, student, teacher)
        self.convs = [torch.nn.Conv2d(3, 3, 1)]
""",
        r"\.convs is a list of layers, which torch does not see.*nn\.ModuleList",
    ),
    "terms without a comma": ('    terms = ("cosine")\n', r"terms is a text; write a tuple: terms = \(\"cosine\",\)"),
    "needs that are none": (
        '    terms = ("x",)\n    needs = frozenset({"logit"})\n',
        "give a frozenset of aux_logits, embedding, logits",
    ),
    "needs in a list": ('    terms = ("x",)\n    needs = ["logits"]\n', r"needs \['logits'\]; give a frozenset"),
    "a configuration of its own": (
        '    terms = ("x",)\n    class Config:\n        power = 1\n',
        r"write class Config\(Method\.Config\):",
    ),
    "a knob without a type": (
        '    terms = ("x",)\n    class Config(Method.Config):\n        power = 2.0\n',
        r"a knob of its Config has no type; write e\.g\. power: float = 2\.0",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_silently_ignored_is_refused_when_a_method_is_found(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, told = REFUSED[kind]
    module = f"refused_{list(REFUSED).index(kind)}"
    (tmp_path / f"{module}.py").write_text(f"import torch\nfrom kd.methods.method import Method\nclass Mine(Method):\n{body}")
    monkeypatch.syspath_prepend(str(tmp_path))
    sizes = Sizes(3, 8, 4, True)
    with pytest.raises(ConfigError, match=told):
        build_method({"name": f"{module}:Mine"}, sizes, sizes)
