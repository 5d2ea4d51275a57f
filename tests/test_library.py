"""The toolkit in somebody else's project: names, keywords, types, plain dicts, tensors, and a loop of one's own."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_tools import NAMES, call, saved, small
from PIL import Image
from test_readme import block

from kd.config import ConfigError, Named
from kd.data.build import open_split
from kd.evaluate import Sliding, Whole, build_predictor
from kd.keywords import keywords
from kd.lookup import lookup, options, recipe_name
from kd.losses import KL, CrossEntropy, JaccardMetricLoss, Mixture, build_loss
from kd.methods import CWD, KD, JmlKd, Method, Several, build_method
from kd.networks import DeepLabV3, Network, build_network, load_network, save_network
from kd.types import Batch, Outputs, Sizes
from teachers import AugmentedTeacher, EnsembleTeacher, FreshTeacher, RunTeacher, load_teacher

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".mypy_cache" / "library"
INNER = """[mypy]
[mypy-transformers.*,timm.*,torchvision.*,huggingface_hub.*,onnx.*,onnxscript.*,torch._inductor.*,torch._dynamo.*,torch.distributed.*]
follow_imports = skip
"""
ROOMS = {
    "kd.losses": "Loss",
    "kd.methods": "Method",
    "kd.networks": "Network",
    "kd.evaluate": "Predictor",
    "teachers": "Teacher",
}
COMPONENTS = [(folder, base, name) for folder, base in ROOMS.items() for name in options(folder, base)]
SIZES = Sizes(3, 8, 16, True)
TINY: dict[str, Any] = {"backbone": "test_resnet", "pretrained": False, "output_stride": 32, "width": 8, "rates": (1, 2)}


def component(folder: str, base: str, name: str) -> Any:
    return lookup(folder, name, base)


# ------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("folder", "base", "name"), COMPONENTS)
def test_every_class_is_exported_by_name(folder: str, base: str, name: str) -> None:
    room, cls = importlib.import_module(folder), options(folder, base)[name]
    assert cls in room.__all__, f'add "from {folder}.{name} import {cls}" and "{cls}" in __all__ to {folder}/__init__.py'
    assert getattr(room, cls) is component(folder, base, name)


@pytest.mark.parametrize("folder", ROOMS)
def test_what_is_exported_exists(folder: str) -> None:
    room = importlib.import_module(folder)
    assert ROOMS[folder] in room.__all__
    assert all(hasattr(room, name) for name in room.__all__)


def test_importing_them_imports_no_optional_package() -> None:
    code = (
        "import sys, teachers, kd.methods; print(*sorted({'timm', 'torchvision', 'transformers', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


# ------------------------------------------------------------------------------------------- keywords


@pytest.mark.parametrize(("folder", "base", "name"), COMPONENTS)
def test_knobs_are_keywords_of_the_constructor(folder: str, base: str, name: str) -> None:
    cls = component(folder, base, name)
    shown = inspect.signature(cls).parameters
    assert set(cls.Config.model_fields) <= set(shown), f"put @keywords(Config) above the __init__ of {cls.__name__}"
    for knob, field in cls.Config.model_fields.items():
        assert shown[knob].kind is inspect.Parameter.KEYWORD_ONLY
        assert (shown[knob].default is inspect.Parameter.empty) == field.is_required()


@pytest.mark.parametrize(("folder", "base", "name"), COMPONENTS)
def test_a_class_knows_its_name_in_a_recipe(folder: str, base: str, name: str) -> None:
    assert recipe_name(component(folder, base, name)) == name


def test_keywords_make_the_same_as_a_configuration() -> None:
    method = CWD(SIZES, SIZES, temperature=2.0, maps=("embedding",))
    assert method.config == CWD.Config(name="cwd", temperature=2.0, maps=("embedding",))
    assert method.terms == CWD(method.config, SIZES, SIZES).terms == ("feature",)
    assert CWD(student=SIZES, teacher=SIZES).student is SIZES
    assert KL(temperature=2.0).config == KL(KL.Config(name="kl", temperature=2.0)).config
    assert repr(KL(temperature=2.0)) == "KL(temperature=2.0)"
    assert Sliding(window=(8, 8)).config.window == (8, 8)
    assert Whole().config.name == "whole"


def test_wrong_keywords_are_told() -> None:
    with pytest.raises(ConfigError, match=r"^JaccardMetricLoss\.smoth: there is no such key; did you mean 'smooth'\?"):
        JaccardMetricLoss(smoth=1.0)
    with pytest.raises(ConfigError, match=r"^CWD\.temperature: is 0; input should be greater than 0"):
        CWD(SIZES, SIZES, temperature=0)
    with pytest.raises(ConfigError, match=r"^RunTeacher\.path: is required"):
        RunTeacher(NAMES)
    with pytest.raises(TypeError, match="student"):
        CWD(temperature=4.0)


class Warm(KD):
    """A user's own, derived from one of ours."""

    class Config(KD.Config):
        """A knob more."""

        warmth: float = 1.0


class Own(Method):
    """A user's own, with keywords."""

    class Config(Method.Config):
        """One knob."""

        power: float = 1.0

    terms = ("own",)

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)


def test_a_users_own_class_has_keywords_too() -> None:
    assert Warm(SIZES, SIZES, warmth=2.0, temperature=3.0).config.warmth == 2.0
    config = Own(SIZES, SIZES, power=2.0).config
    assert (config.name, config.power) == ("test_library:Own", 2.0)
    assert build_method(config, SIZES, SIZES).config is config
    assert build_method({"name": "test_library:Own", "power": 3.0}, SIZES, SIZES).config.power == 3.0


def test_a_network_made_by_keywords_is_saved_and_loaded(tmp_path: Path) -> None:
    network = DeepLabV3(len(NAMES), **TINY).eval()
    save_network(network, tmp_path / "new" / "folder", "student", {"classes": NAMES})
    again, card = load_network(tmp_path / "new" / "folder")
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(again(image).logits, network(image).logits)
    assert tuple(card["classes"]) == NAMES


# ------------------------------------------------------------------------------------------- plain dicts


def test_builders_take_what_a_recipe_says() -> None:
    assert build_loss({"name": "cross_entropy", "gamma": 2}).config == CrossEntropy.Config(name="cross_entropy", gamma=2.0)
    assert isinstance(build_method({"name": "jml_kd", "jaccard": {"smooth": 0.5}}, SIZES, SIZES), JmlKd)
    several = build_method([{"name": "kd"}, {"name": "cwd"}], SIZES, SIZES)
    assert isinstance(several, Several)
    assert several.terms == ("kd_kl", "cwd_logit")
    assert isinstance(build_network({"name": "deeplabv3", **TINY, "rates": [1, 2]}, 3), DeepLabV3)
    assert build_predictor({"name": "sliding", "window": [8, 8]}).config.name == "sliding"
    assert len(open_split({"name": "shapes", "size": [32, 32], "val": 3}, "val")) == 3
    teacher = load_teacher({"name": "fresh", "network": {"name": "deeplabv3", **TINY}}, list(NAMES))
    assert isinstance(teacher, FreshTeacher)
    assert teacher.classes == NAMES


def test_builders_take_configurations_with_and_without_a_name() -> None:
    assert isinstance(build_method(CWD.Config(temperature=2.0), SIZES, SIZES), CWD)
    assert isinstance(build_loss(KL.Config(name="kl")), KL)
    assert isinstance(build_network(DeepLabV3.Config(**TINY), 3), DeepLabV3)
    assert isinstance(build_predictor(Whole.Config(name="whole")), Whole)
    assert isinstance(build_loss(OwnLoss.Config(power=2.0)), OwnLoss)


class OwnLoss(CrossEntropy):
    """A user's own."""

    class Config(CrossEntropy.Config):
        """One knob more."""

        power: float = 1.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_loss({"name": "cross_entropy", "gama": 2}), r"^loss\.gama: .*did you mean 'gamma'\? Keys here: class_w"),
        (
            lambda: build_loss({"name": "cros_entropy"}),
            r"^loss: 'cros_entropy' is no Loss here\. Did you mean .* Options: cross",
        ),
        (lambda: build_loss({"gamma": 2}), r"^loss: needs a name"),
        (lambda: build_loss("kl"), r"^loss: is 'kl'; give a mapping as a recipe does, e\.g\. {'name': 'cross_entropy'}"),
        (lambda: build_method({"name": "cwd", "kind": "l1"}, SIZES, SIZES), r"^method\.kind: is 'l1'; .*'kl' or 'mse'"),
        (lambda: build_method([{"name": "cwdd"}], SIZES, SIZES), r"^method\.members\.0: 'cwdd' is no Method here"),
        (lambda: build_method(Named(), SIZES, SIZES), r"is no Method here"),
        (lambda: build_network({"name": "deeplabv3", "widht": 2}, 3), r"^network\.widht: .*did you mean 'width'"),
        (lambda: build_predictor({"name": "sliding"}), r"^predictor\.window: is required"),
        (lambda: load_teacher({"name": "run"}, NAMES), r"^teacher\.path: is required"),
        (
            lambda: load_teacher({"name": "runs", "path": "x"}, NAMES),
            r"^teacher: 'runs' is no Teacher here\. Did you mean 'run'",
        ),
        (lambda: open_split({"name": "shapes", "sise": 3}, "val"), r"^data\.sise: .*did you mean 'size'"),
    ],
)
def test_builders_explain_what_is_wrong(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


# ------------------------------------------------------------------------------------------- tensors


def test_a_teacher_takes_a_tensor_and_gives_what_the_trainer_gets(tmp_path: Path) -> None:
    saved(tmp_path)
    run = RunTeacher(NAMES, path=str(tmp_path))
    described = {"name": "run", "path": str(tmp_path)}
    teachers = [run, EnsembleTeacher(NAMES, members=(described, described)), AugmentedTeacher(NAMES, teacher=described)]
    image = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    for teacher in teachers:
        expected = teacher(Batch(image, torch.zeros(2, 64, 96)))
        assert isinstance(expected, Outputs)
        assert torch.equal(teacher(image).logits, expected.logits)
        torch.testing.assert_close(teacher(image / 255).logits, expected.logits, rtol=1e-4, atol=1e-4)
        assert not teacher(image).logits.requires_grad
        assert torch.equal(teacher.probabilities(image), teacher.probabilities(Batch(image, torch.zeros(2, 64, 96))))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_teacher_refuses_what_is_no_batch_of_images(tmp_path: Path, scale: float) -> None:
    saved(tmp_path)
    teacher = AugmentedTeacher(NAMES, teacher={"name": "run", "path": str(tmp_path)}, scales=(scale,))
    with pytest.raises(ValueError, match=r"image is \(3, 64, 96\); it must be B 3 H W, RGB"):
        teacher(torch.zeros(3, 64, 96))
    with pytest.raises(ValueError, match="image holds floats from 0 to 255; give uint8"):
        teacher(torch.linspace(0, 255, 3 * 64 * 96).view(1, 3, 64, 96))


def test_a_teacher_of_a_list_of_classes_reorders_nothing(tmp_path: Path) -> None:
    saved(tmp_path)
    assert not RunTeacher(list(NAMES), path=str(tmp_path)).reorders


# ------------------------------------------------------------------------------------------- types

RIGHT = """
from typing_extensions import assert_type
import torch
from torch import Tensor
from kd.evaluate import Evaluation, Sliding, Whole, evaluate
from kd.losses import KL, CrossEntropy, JaccardMetricLoss, Loss, Mixture, build_loss
from kd.methods import CWD, DIST, JmlKd, Method, build_method
from kd.networks import DeepLabV3, Network, build_network, load_network
from kd.types import Outputs, Sizes
from teachers import RunTeacher, Teacher, load_teacher

logits, target, image = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long(), torch.zeros(1, 3, 32, 32)
loss = JaccardMetricLoss(smooth=1.0, class_weights=(1.0, 2.0, 3.0), active_hard="all")
assert_type(loss, JaccardMetricLoss)
assert_type(loss(logits, target), Tensor)
assert_type(Mixture({"ce": CrossEntropy(gamma=2.0), "kl": KL()})(logits, target), Tensor)
assert_type(build_loss({"name": "kl"}), Loss)
student = DeepLabV3(3, backbone="resnet18d", pretrained=False, rates=(6, 12))
assert_type(student(image), Outputs)
assert_type(student.sizes, Sizes)
assert_type(build_network({"name": "unet"}, 3), Network)
assert_type(load_network("mine")[0](image), Outputs)
teacher = RunTeacher(("a", "b", "c"), path="mine", checkpoint="best")
assert_type(teacher(image), Outputs)
assert_type(teacher.probabilities(image), Tensor)
assert_type(load_teacher({"name": "run"}, ["a"]), Teacher)
method = CWD(student.sizes, teacher.sizes, temperature=4.0, maps=("logits", "embedding"))
assert_type(method, CWD)
assert_type(method(student(image), teacher(image), target), dict[str, Tensor])
assert_type(JmlKd(student.sizes, teacher.sizes, jaccard=JaccardMetricLoss.Config(smooth=1.0)), JmlKd)
assert_type(build_method([{"name": "kd"}], student.sizes, teacher.sizes), Method)
assert_type(evaluate(student, [], 3, Sliding(window=(8, 8))), Evaluation)
student(image).at(target.shape[-2:])
"""
WRONG = """
from kd.evaluate import Sliding
from kd.losses import CrossEntropy, JaccardMetricLoss, nothing
from kd.methods import CWD, KD
from kd.networks import DeepLabV3
from kd.types import Sizes
from teachers import RunTeacher

sizes = Sizes(3, 8, 8, True)
JaccardMetricLoss(smoth=1.0)
CrossEntropy(gamma="two")
CWD(sizes, sizes, temprature=4.0)
CWD(sizes, sizes, kind="l1")
KD(sizes)
DeepLabV3(3, backbon="resnet18d")
DeepLabV3("three")
RunTeacher(("a", "b"))
RunTeacher(("a", "b"), paht="x")
Sliding(windo=(8, 8))
JaccardMetricLoss()("logits", "labels")
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says about each of a user's files, without plugins, the packages being on the path.

    Of its configuration it is told only what need not be read: the insides of libraries, which no signature of ours names.
    """
    folder = tmp_path_factory.mktemp("user")
    shown = [f"import {room}" for room in ROOMS]
    shown += [f"reveal_type({room}.{options(room, base)[name]}.__init__)" for room, base, name in COMPONENTS]
    page = "from kd.losses import CrossEntropy\nfrom kd.methods import CWD\nfrom kd.types import Outputs, Sizes\n"
    page += f"{block('python', 'RunTeacher(')}\nnetwork = torch.nn.Conv2d(3, 3, 1)\n{block('python', 'Outputs(network')}"
    files = {"right.py": RIGHT, "wrong.py": WRONG, "shown.py": "\n".join(shown), "page.py": page}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "mypy.ini").write_text(INNER)
    command = [sys.executable, "-m", "mypy", "--no-implicit-reexport", "--config-file=mypy.ini", f"--cache-dir={CACHE}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *files], capture_output=True, text=True, timeout=200, cwd=folder, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return {name: [line for line in lines if line.startswith(f"{name}:")] for name in files}


def test_right_calls_and_what_they_return_pass_mypy(told: dict[str, list[str]]) -> None:
    assert told["right.py"] == []


def test_the_page_passes_mypy(told: dict[str, list[str]]) -> None:
    assert told["page.py"] == []


def test_every_wrong_call_is_caught_by_mypy(told: dict[str, list[str]]) -> None:
    errors = [line for line in told["wrong.py"] if ": error:" in line]
    caught = {int(line.split(":")[1]) for line in errors}
    calls = [number for number, line in enumerate(WRONG.splitlines(), 1) if number > 10 or "nothing" in line]
    assert caught == {*calls, WRONG.splitlines().index("JaccardMetricLoss(smoth=1.0)") + 1}
    assert any('"smoth" for "JaccardMetricLoss"; did you mean "smooth"?' in line for line in errors)


def test_type_checkers_see_every_knob_and_its_default(told: dict[str, list[str]]) -> None:
    assert len(told["shown.py"]) == len(COMPONENTS)
    for line, (folder, base, name) in zip(told["shown.py"], COMPONENTS, strict=True):
        fields = component(folder, base, name).Config.model_fields
        seen = dict(re.findall(r"(\w+): (?:[^=\"]*?)( =)?(?=, \w+: |\)\"?$)", line.partition("*, ")[2]))
        assert set(seen) == set(fields), line
        wrong = [knob for knob, field in fields.items() if (not seen[knob]) != field.is_required()]
        assert not wrong, f"{name}: write Field(default=...) for {wrong}, type checkers read no positional default"


# ------------------------------------------------------------------------------------------- your own loop


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's loop leaves, in a folder that holds a teacher's run and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = block("python", "RunTeacher(")
    names = ("background", "road", "car")
    assert str(names).replace("'", '"') in code
    save_network(DeepLabV3(len(names), **TINY), "runs/mine/teacher", "student", {"classes": names})
    left: dict[str, Any] = {"print": lambda value: left.update(printed=value)}
    exec(compile(code, "README.md", "exec"), left)
    return left


def test_the_loop_of_the_readme_runs_and_leaves_a_student(page: dict[str, Any], tmp_path: Path) -> None:
    assert 0 < page["printed"] < 100
    assert len(block("python", "RunTeacher(").splitlines()) <= 36
    Image.new("RGB", (96, 64)).save(tmp_path / "photo.png")
    done = call("predict", "my_student", "photo.png", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("out/labels/*.png"))
    assert isinstance(load_network("my_student")[0], Network)


def test_any_module_teaches_as_the_readme_says(page: dict[str, Any]) -> None:
    names: dict[str, Any] = {"CrossEntropy": CrossEntropy, "CWD": CWD, "Outputs": Outputs, "Sizes": Sizes}
    network = small(classes=3)
    page |= {**names, "network": lambda image: network(image).logits}
    exec(compile(block("python", "Outputs(network"), "README.md", "exec"), page)
    assert page["loss"].isfinite()
    page["loss"].backward()


def test_a_mixture_is_typed_and_weighs() -> None:
    loss = Mixture({"ce": CrossEntropy(), "jaccard": JaccardMetricLoss(smooth=1.0)}, {"ce": 0.25, "jaccard": 0.75})
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    expected = 0.25 * CrossEntropy()(logits, target) + 0.75 * JaccardMetricLoss(smooth=1.0)(logits, target)
    torch.testing.assert_close(loss(logits, target), expected)
