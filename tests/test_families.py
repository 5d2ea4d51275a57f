"""Families of recipes: what follows from a name, who wins, and that what was trained before stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from kd.config import ConfigError, InputError
from kd.evaluate.sliding import Sliding
from kd.networks.build import build_network, load_network, network_config, save_network
from kd.networks.network import Network
from kd.recipe.families import families
from kd.recipe.later import LATER
from kd.recipe.library import library, recipe_names
from kd.recipe.loading import describe, load
from kd.recipe.schema import build, fingerprint, plain
from kd.types import Outputs

JDT = "recipes/_parts/family/jdt.yaml"
TINY = {"name": "deeplabv3", "backbone": "test_resnet", "width": 8, "aux": 8, "output_stride": 32, "pretrained": False}


def tiny(**keys: Any) -> Network:
    return build_network(network_config({**TINY, **keys}), 4)


def resolved(*words: str) -> tuple[Any, dict[str, str]]:
    name, *rest = words
    return load(name, rest, default="ce")


# ------------------------------------------------------------------------------------------------- what follows from it


def test_every_recipe_of_a_published_protocol_names_its_family() -> None:
    found = {name: resolved(name)[0].family for name in recipe_names()}
    assert {name.partition("/")[0]: family for name, family in found.items()} == {
        "camvid": "jdt",
        "camvid_lite": "jdt",
        "camvid_small": "jdt",
        "cityscapes": "jdt",
        "cityscapes_cirkd": "cirkd",
        "cityscapes_maskd": "cirkd",
        "deepglobe": "jdt",
        "folder": "jdt",
        "shapes": "own",
        "voc": "jdt",
        "voc_cirkd": "cirkd",
    }
    for name in recipe_names():
        lines = (library() / f"{name}.yaml").read_text().splitlines()
        assert sum(line.startswith("family:") for line in lines) == (found[name] != "own" and "camvid_small" not in name)


def test_what_follows_from_a_name() -> None:
    recipe, origins = resolved("cityscapes/dl3_r18", "kd")
    student, augmentation = recipe.student, recipe.augmentation
    assert (student.projection, student.initialisation, student.drop_channels) == ("3x3", "jdt", True)
    assert (augmentation.resize, augmentation.pad, augmentation.scale_step) == ("opencv", "centre", 0)
    assert (recipe.evaluation.predictor.pad, recipe.evaluation.predictor.fill) == ("centre", (123.675, 116.28, 103.53))
    assert recipe.weights == {"ce": 1.0, "ce_aux": 1.0, "kl": 1.0}
    assert {origins[key] for key in ("student.projection", "weights.ce_aux", "evaluation.predictor.pad")} == {JDT}
    recipe, _ = resolved("cityscapes_cirkd/dl3_r18", "kd")
    student = recipe.student
    assert (student.projection, student.initialisation, student.drop_channels) == ("1x1", "torch", False)
    assert (student.tap, student.align_corners, student.aspp_dropout, student.pretrained_bgr) == ("after", True, 0.5, True)
    assert recipe.teacher.checkpoint == "best"
    assert recipe.weights == {"ce": 1.0, "ce_aux": 0.4, "kl": 1.0}
    assert resolved("shapes/tiny", "kd")[0].weights["ce_aux"] == 0.4


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("deeplabv3plus", {"projection": "3x3", "separable": True}),
        ("unet", {"pixels": True, "width": 16}),
        ("segformer_mlp", {"normed": True}),
        ("pspnet", {}),
    ],
)
def test_another_network_follows_its_own_variant(name: str, keys: dict[str, Any]) -> None:
    recipe, _ = resolved("camvid/r18", f"student={{name: {name}, backbone: resnet18, aux: 64, pretrained: false}}")
    assert recipe.student.initialisation == "jdt"
    assert {key: getattr(recipe.student, key) for key in keys} == keys


def test_whoever_sets_a_key_wins_over_the_family() -> None:
    recipe, origins = resolved("cityscapes/dl3_r18", "kd", "student.projection=1x1", "weights.ce_aux=0.4")
    assert (recipe.student.projection, recipe.student.initialisation, recipe.weights["ce_aux"]) == ("1x1", "jdt", 0.4)
    assert origins["student.projection"] == "command line"
    assert resolved("cityscapes/dl3_r18", "jml_kd")[0].weights["ce_aux"] == 0.0625  # the method's own
    whole, _ = resolved("cityscapes/dl3_r18", "evaluation.predictor={name: whole}")
    assert whole.evaluation.predictor.model_dump() == {"name": "whole"}


def test_a_family_may_be_chosen_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved("shapes/tiny", "family=jdt")[0].student.projection == "3x3"
    assert resolved("cityscapes/dl3_r18", "family=null")[0].student.projection == "1x1"
    own = tmp_path / "_parts" / "family" / "lab.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("schedule: {ema: 0.9}\nweights: {ce_aux: 0.2, nothing: 3}\n")
    monkeypatch.chdir(tmp_path)
    recipe, origins = resolved("shapes/tiny", "family=lab")
    assert (recipe.schedule.ema, recipe.weights) == (0.9, {"ce": 1.0, "ce_aux": 0.2})
    assert origins["schedule.ema"] == "./_parts/family/lab.yaml"
    assert list(families()) == ["cirkd", "jdt", "lab", "own"]
    (own.parent / "jdt.yaml").write_text("schedule: {ema: 0.5}\n")  # a name means the same beside every recipe
    assert resolved("cityscapes/dl3_r18")[0].schedule.ema == 0.5


def test_an_unknown_family_lists_the_known() -> None:
    for given, message in (("jtd", "did you mean jdt"), ("3", "Families: cirkd, jdt, own")):
        with pytest.raises(ConfigError, match=rf"family: '{given}' is unknown; .*{message}"):
            resolved("shapes/tiny", f"family={given}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a family sets keys as any part"),
        ("[1, 2]", "holds a list"),
        ("a: [", "is no YAML"),
        ("variants: 3", "variants is 3; it is a list of mappings that name a class"),
        ("variants: [3]", r"variants is \[3\]"),
        ("variants: {student: {name: unet}}", "variants is {'student'"),
        ("variants: [{student: {pixels: true}}]", "variants is"),
        ("weights: 3", "weights is 3; a family sets keys of mappings"),
        ("schedule: 3", "schedule is 3"),
        ("student: {name: unet, pixels: true}", "student is {'name': 'unet'.*what names a class in variants"),
        ("extends: [nothing]", "extends 'nothing', but no such file"),
        ("student: {nothing: 1}", "student.nothing: there is no such key"),
    ],
)
def test_a_file_that_is_no_family_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    file = tmp_path / "_parts" / "family" / "x.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        resolved("camvid/r18", "family=x")
    with pytest.raises(ConfigError, match=r"family: '\.\./student/dl3_r18' is unknown"):
        resolved("camvid/r18", "family=../student/dl3_r18")


def test_a_family_extends_parts_and_leaves_other_types_to_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "_parts" / "family" / "x.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("extends: [_parts/family/own]\naugmentation: {flip: 0.25}\n")
    monkeypatch.chdir(tmp_path)
    recipe = resolved("shapes/tiny", "family=x")[0]
    assert (recipe.augmentation.flip, recipe.weights["ce_aux"]) == (0.25, 0.4)
    with pytest.raises(ConfigError, match="augmentation: is 3"):
        resolved("shapes/tiny", "family=x", "augmentation=3")


def test_what_is_nested_belongs_to_the_family_too() -> None:
    inner = "{name: sliding, window: [90, 120]}"
    recipe, origins = resolved("camvid/r18", f"evaluation.predictor={{name: multi_scale, predictor: {inner}}}")
    assert recipe.evaluation.predictor.predictor.pad == "centre"
    assert origins["evaluation.predictor.predictor.pad"] == JDT
    members = "{name: run, path: a}, {name: run, path: b, checkpoint: last}"
    recipe, _ = resolved("cityscapes_cirkd/dl3_r18", "kd", f"teacher={{name: ensemble, members: [{members}]}}")
    assert [member.checkpoint for member in recipe.teacher.members] == ["best", "last"]


def test_a_smoke_run_keeps_its_family() -> None:
    recipe, _ = load("voc/dl3_r18", ["kd"], smoke=True)
    assert (recipe.family, recipe.student.projection, recipe.teacher.network["projection"]) == ("jdt", "3x3", "3x3")
    assert recipe.evaluation.predictor.name == "whole"


# ------------------------------------------------------------------------------------------- what was trained before


def test_a_run_is_what_it_was_whatever_its_family_sets_by_now(tmp_path: Path) -> None:
    recipe, origins = resolved("shapes/tiny", "family=jdt")
    tree = yaml.safe_load(describe(recipe, origins))
    del tree["student"]["projection"]  # as if that key had come later
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert load(tmp_path / "recipe.yaml")[0].student.projection == "3x3"
    (tmp_path / "run.json").write_text("{}")
    assert load(tmp_path / "recipe.yaml")[0].student.projection == "1x1"


def without(tree: Any, end: list[str], before: Any) -> bool:
    """Delete what ends so and has this value, anywhere; whether there was any."""
    if not isinstance(tree, dict):
        return False
    branch: Any = tree
    for key in end[:-1]:
        branch = branch.get(key) if isinstance(branch, dict) else None
    there = isinstance(branch, dict) and branch.get(end[-1], tree) == before
    if there:
        del branch[end[-1]]
    return any([there, *(without(value, end, before) for value in tree.values())])


def test_the_recipe_of_a_run_takes_no_other_family_but_what_is_put_into_it_follows_its_own(tmp_path: Path) -> None:
    recipe, origins = resolved("camvid/r18")
    (tmp_path / "recipe.yaml").write_text(describe(recipe, origins))
    (tmp_path / "run.json").write_text("{}")
    path = tmp_path / "recipe.yaml"
    with pytest.raises(ConfigError, match=r"family: .* is the recipe of a run, which says everything .* \(jdt\); set the keys"):
        load(path, ["family=own"])
    assert load(path, ["family=jdt"])[0] == recipe
    evaluated = load(path, ["evaluation.predictor={name: sliding, window: [90, 120]}"])[0].evaluation
    assert evaluated == resolved("camvid/r18", "evaluation.predictor={name: sliding, window: [90, 120]}")[0].evaluation
    assert evaluated.predictor.pad == "centre"
    other = load(path, ["student={name: unet, backbone: test_resnet, output_stride: 32}"])[0].student
    assert (other.initialisation, other.pixels, other.width) == ("jdt", True, 16)


@pytest.mark.parametrize("words", ["shapes/tiny cwd@cirkd", "cityscapes/dl3_r18 maskd"])
def test_keys_that_came_later_change_no_old_fingerprint(words: str) -> None:
    name, *rest = words.split()
    recipe, _ = resolved(name, *rest, "family=null")
    now = plain(recipe)
    gone = [end for end, before in LATER.items() if without(now, end.split("."), before)]
    assert {"augmentation.resize", "student.projection", "learning_rate.ends_at"} <= set(gone)
    assert fingerprint(build(now)) == fingerprint(recipe)
    assert fingerprint(resolved(name, *rest, "family=jdt")[0]) != fingerprint(recipe)


def test_defaults_are_what_runs_did_before_there_were_families() -> None:
    """Published weights of the demo's pair and of the CamVid sweep, as of version 0.2.0."""
    assert fingerprint(resolved("shapes/tiny", "jml_kd")[0]) == "98db598d47b5"
    assert fingerprint(resolved("shapes/tiny", "ce")[0]) == "807639e0cc1f"


# --------------------------------------------------------------------------------------------------- heads and weights


def card_of(folder: Path) -> Any:
    """The card of a saved network, free to be changed."""
    tree = yaml.safe_load((folder / "student.yaml").read_text())
    del tree["sha256"]
    return tree


@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize(("have", "want"), [("1x1", "3x3"), ("3x3", "1x1")])
def test_a_checkpoint_of_the_other_head_is_refused_in_words(tmp_path: Path, name: str, have: str, want: str) -> None:
    save_network(tiny(name=name, output_stride=8, projection=have), tmp_path, "student", {"classes": list("abcd")})
    card = card_of(tmp_path)
    card["network"]["projection"] = want
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(card))
    message = f"of a head with a {have} projection, it has a {want} projection; set projection: {have} under network: there"
    with pytest.raises(InputError, match=message):
        load_network(tmp_path)


@pytest.mark.parametrize(
    ("keys", "change", "message"),
    [
        (
            {"name": "segformer_mlp", "normed": True},
            {"normed": False},
            "of a head with normed true, it has normed false; set normed: true",
        ),
        (
            {"name": "deeplabv3plus", "output_stride": 8, "projection": "3x3", "separable": True},
            {"projection": "1x1", "separable": False},
            "a 3x3 projection and separable true, it has a 1x1 projection and separable false; "
            "set projection: 3x3, separable: true",
        ),
        (  # no key of this head makes these weights fit
            {"name": "deeplabv3plus", "output_stride": 8, "projection": "3x3"},
            {"name": "deeplabv3", "projection": "1x1"},
            r"student.yaml; copy both files of one run again \(Error",
        ),
    ],
)
def test_the_keys_that_make_weights_fit_are_told(tmp_path: Path, keys: Any, change: Any, message: str) -> None:
    save_network(tiny(**keys), tmp_path, "student", {"classes": list("abcd")})
    card = card_of(tmp_path)
    network = {**card["network"], **change}
    if "name" in change:
        network = {key: value for key, value in network.items() if key not in ("low", "separable")}
    (tmp_path / "student.yaml").write_text(yaml.safe_dump({**card, "network": network}))
    with pytest.raises(InputError, match=message):
        load_network(tmp_path)


def test_an_old_card_means_the_old_head(tmp_path: Path) -> None:
    network = tiny(projection="1x1").eval()
    save_network(network, tmp_path, "student", {"classes": list("abcd")})
    tree = card_of(tmp_path)
    for key in ("projection", "initialisation", "drop_channels", "pretrained_bgr"):
        del tree["network"][key]
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(tree))
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(load_network(tmp_path)[0](image).logits, network(image).logits)


def test_a_file_for_bgr_images_is_turned(tmp_path: Path) -> None:
    """What it says of an image is what it would have said of the image in its own order."""
    source = tiny().backbone
    save_file({key.replace("_", "_"): value for key, value in source.state_dict().items()}, tmp_path / "w.safetensors")
    image = torch.rand(2, 3, 32, 32)
    read, turned = (tiny(pretrained=str(tmp_path / "w.safetensors"), pretrained_bgr=bgr).backbone for bgr in (False, True))
    for same, other in zip(turned.eval()(image), read.eval()(image.flip(1)), strict=True):
        torch.testing.assert_close(same, other)
    assert (read(image)[-1] - turned(image)[-1]).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="pretrained_bgr: is true, but timm's weights are for images in the order RGB"):
        tiny(pretrained=True, pretrained_bgr=True)


def test_whole_channels_are_dropped() -> None:
    torch.manual_seed(0)
    image = torch.rand(8, 3, 64, 64)
    whole, single = (
        (tiny(drop_channels=channels, dropout=0.5, tap="after", output_stride=8).train()(image).embedding == 0)
        .flatten(2)
        .all(2)
        for channels in (True, False)
    )
    assert (whole.float().mean() - 0.5).abs() < 0.25
    assert not single.any()  # of 8 x 8 values some stay


def test_the_initialisation_depends_on_the_seed_alone() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        network = tiny(initialisation="jdt")
        return torch.cat([value.flatten() for value in network.head.parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    biases = [module.bias for module in tiny(initialisation="jdt").modules() if isinstance(module, nn.Conv2d)]
    assert all((bias == 0).all() for bias in biases[-2:] if bias is not None)


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(("pad", "corner"), [("corner", (0, 0)), ("centre", (5, 3))])
def test_where_a_small_image_lies_in_the_window(pad: str, corner: tuple[int, int]) -> None:
    """21 x 26 pixels in a window of 32 x 32: half of 11 above, half of 6 left, the odd row below."""
    image = torch.randint(0, 256, (2, 3, 21, 26), dtype=torch.uint8)
    seen: list[Tensor] = []

    def look(shown: Tensor) -> Outputs:
        seen.append(shown)
        return Outputs(F.avg_pool2d(shown.float(), 3, 1, 1))

    for fill in ((124, 116, 104), (123.675, 116.28, 103.53)):
        predictor = Sliding(Sliding.Config(name="sliding", window=(32, 32), pad=pad, fill=fill))
        logits = predictor(look, image)
        shown = seen.pop()
        assert logits.shape == (2, 3, 21, 26)
        whole = shown if shown.dtype == torch.uint8 else shown * 255
        expected = torch.tensor(fill, dtype=whole.dtype)[:, None, None].repeat(1, 32, 32)
        expected = expected.repeat(2, 1, 1, 1)
        expected[..., corner[0] : corner[0] + 21, corner[1] : corner[1] + 26] = image.to(whole.dtype)
        torch.testing.assert_close(whole, expected)


def test_the_mean_colour_is_nothing_to_a_network() -> None:
    """Padding with the mean unrounded is zero behind the normalisation, as in the published code."""
    seen: list[Tensor] = []
    network = tiny().eval()
    network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    predictor = Sliding(Sliding.Config(name="sliding", window=(64, 64), pad="centre", fill=(123.675, 116.28, 103.53)))
    predictor(network, torch.zeros(1, 3, 40, 64, dtype=torch.uint8))
    assert seen[0][..., :12, :].abs().max() < 1e-6
    assert seen[0][..., 12:52, :].abs().min() > 1
