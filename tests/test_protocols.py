"""The published protocols beside ours: current, complete, and unable to hide a difference; and comparing two recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_tools import inside
from tiny import tiny

from kd.config import ConfigError
from kd.recipe.families import families, read_family
from kd.recipe.loading import describe
from kd.recipe.protocols import Protocols, markdown, read_protocols
from kd.results.published import load_published
from kd.results.published_tables import quote, told
from kd.results.runs import Run

ROOT = Path(__file__).parent.parent


def test_the_page_is_current() -> None:
    assert (ROOT / "PROTOCOLS.md").read_text() == markdown(read_protocols()), "kd protocols --output PROTOCOLS.md"


def test_every_published_family_is_on_it() -> None:
    assert set(families()) - {"own"} <= set(read_protocols().families)


@pytest.mark.parametrize("name", ["jdt", "cirkd"])
def test_everything_that_a_family_sets_is_on_it(name: str) -> None:
    """So that nothing can change there without its page."""
    common, variants, _ = read_family(name)
    told = {key for item in read_protocols().families[name].items for key in item.keys}

    def leaves(tree: Any, path: str) -> set[str]:
        if not isinstance(tree, dict):
            return {path}
        return {leaf for key, value in tree.items() if key != "name" for leaf in leaves(value, f"{path}.{key}".strip("."))}

    assert leaves(common, "").union(*(leaves(variant, "") for variant in variants)) <= told


def one(**keys: Any) -> Protocols:
    item = {"item": "x", "published": "y", "file": "z.py", **keys}
    family = {"code": "c", "of": "o", "recipe": "cityscapes/dl3_r18 ce", "items": [item]}
    return Protocols.model_validate({"families": {"jdt": family}})


def test_a_difference_without_a_reason_is_refused_and_so_is_a_reason_without_a_difference() -> None:
    assert "| `student.projection=3x3` |  |" in markdown(one(keys={"student.projection": "3x3"}))
    assert "| `schedule.batch=8` | so |" in markdown(one(keys={"schedule.batch": 16}, because="so"))
    for wrong in ({"keys": {"schedule.batch": 16}}, {"keys": {"schedule.batch": 8}, "because": "so"}):
        with pytest.raises(ConfigError, match=r"jdt, x: schedule\.batch is 8, published (8|16); (set it|drop the reason)"):
            markdown(one(**wrong))
    with pytest.raises(ConfigError, match=r"cityscapes/dl3_r18 ce: has no key student\.nothing"):
        markdown(one(keys={"student.nothing": 1}))
    with pytest.raises(ValueError, match="needs either keys or"):
        one()


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert inside("protocols", "cirkd") == 0
    assert "## cirkd" in (out := capsys.readouterr().out)
    assert "## jdt" not in out
    assert inside("protocols", "--output", tmp_path / "p.md") == 0
    assert (tmp_path / "p.md").read_text() == (ROOT / "PROTOCOLS.md").read_text()
    assert inside("protocols", "own") == 2
    assert "own: is no family whose protocol is written down; families: jdt, cirkd, maskd" in capsys.readouterr().err


def test_two_recipes_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert inside("compare-recipes", "camvid/r18 kd", "camvid/r18 kd family=own seed=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [
        "family",
        "seed",
        "augmentation.resize",
        "student.initialisation",
        "student.drop_channels",
        "student.projection",
        "weights.ce_aux",
    ]
    assert lines[-1] == "7 keys differ"
    assert '"3x3"  ->  "1x1"    # recipes/_parts/family/jdt.yaml -> default' in lines[5]
    assert inside("compare-recipes", "camvid/r18", "camvid/r18 ce") == 0
    assert capsys.readouterr().out == "0 keys differ\n"
    assert inside("compare-recipes", "camvid/r18", "camvid/r19") == 2
    assert "did you mean camvid/r18" in capsys.readouterr().err
    assert inside("compare-recipes", 'camvid/r18 "kd', "camvid/r18") == 2
    assert "close the quotes inside" in capsys.readouterr().err


def test_runs_are_compared_too_old_ones_by_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = describe(tiny("ce"), {})
    for name, changed in (("new", text), ("old", text.replace("  projection: 1x1", "  # "))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(changed)
        (tmp_path / name / "run.json").write_text("{}")
    assert "projection" in text
    assert inside("compare-recipes", tmp_path / "new", tmp_path / "old") == 0
    assert capsys.readouterr().out == "0 keys differ\n"


# ------------------------------------------------------------------------------------------------- beside our own rows


def quoted(dataset: str, method: str | None, family: str, **keys: Any) -> str:
    """What a table says of the number that it sets beside a run."""
    from kd.recipe.loading import load
    from kd.recipe.schema import plain

    words = [method or "ce", *(f"{key}={value}" for key, value in keys.items())]
    recipe = plain(load(f"{dataset}/{family}", words)[0])
    run = Run.__new__(Run)
    for name, value in {"recipe": recipe, "last": {}, "reported_on": "val"}.items():
        object.__setattr__(run, name, value)
    published = load_published()
    found = quote(published, run)
    assert found is not None
    return told(published, found)


def test_a_row_of_another_setting_says_so() -> None:
    theirs, ours = quoted("cityscapes_maskd", "dist", "dl3_r18"), quoted("cityscapes_cirkd", "dist", "dl3_r18")
    assert "not of the published setting" not in theirs
    assert ours.endswith(
        "This row is not of the published setting: schedule.optimizer.weight_decay 0.0001 (0.0005), "
        "schedule.optimizer.learning_rate.ends_at 0.0 (0.005)"
    )
    assert "not of the published" not in quoted("cityscapes_maskd", "maskd", "dl3_mb2")
    for recipe, method in (("dl3_r18", "jml_kd"), ("psp_r18", "jml_kd")):
        assert "not of the published" not in quoted("cityscapes", method, recipe)
    for method in ("ce", "skd", "cirkd@citys"):
        assert "not of the published" not in quoted("cityscapes_cirkd", method, "dl3_r18")


@pytest.mark.parametrize(
    "key",
    [
        "student.projection=1x1",
        "student.initialisation=torch",
        "schedule.optimizer.lr=1e-3",
        "schedule.optimizer.learning_rate.power=3",
        "augmentation.crop=[256, 256]",
        "data.resize=[64, 128]",
        "student.width=16",
        "evaluation.predictor.window=[128, 128]",
        "weights.kl=7",
    ],
)
def test_whatever_leaves_the_published_setting_is_told(key: str) -> None:
    name, value = key.split("=")
    assert f"not of the published setting: {name} " in quoted("cityscapes", "jml_kd", "dl3_r18", **{name: value})


def test_what_changes_no_number_is_not() -> None:
    free = {"evaluation.every": 7, "schedule.precision": "fp32", "evaluation.batch": 2, "data.root": "x", "seed": 3}
    assert "not of the published" not in quoted("cityscapes", "jml_kd", "dl3_r18", **free)


def test_numbers_on_other_labels_are_marked() -> None:
    text = quoted("voc", "jml_kd", "dl3_r18")
    assert "Note: measured on SBD's label maps" in text
    assert text.endswith("This row is not of the published setting: data.val_labels voc (sbd_first)")
    assert "not of the published" not in quoted("voc", "jml_kd", "dl3_r18", **{"data.val_labels": "sbd_first"})
