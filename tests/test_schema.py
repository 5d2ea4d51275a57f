"""The JSON Schemas that editors read: they are current, take every recipe, and refuse what the toolkit refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from kd.commands.schema import schema_text
from kd.lookup import lookup, options

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
SCHEMAS = {what: json.loads((RECIPES / f"{what}.schema.json").read_text()) for what in ("recipe", "sweep")}
FILES = sorted(
    path for path in RECIPES.rglob("*.yaml") if "results" not in path.parts and path.stem not in ("published", "protocols")
)


class Editor(yaml.SafeLoader):
    """YAML 1.2's numbers, as editors read them: ``6e-5`` is one."""


Editor.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def complaints(text: str, what: str = "recipe") -> list[str]:
    values = yaml.load(text, Editor)
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMAS[what]).iter_errors(values)]


@pytest.mark.parametrize("what", SCHEMAS)
def test_the_files_are_what_the_command_writes(what: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[what])
    assert (RECIPES / f"{what}.schema.json").read_text() == schema_text(what)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).with_suffix("").as_posix())
def test_every_file_names_its_schema_and_satisfies_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert first
    schema = (path.parent / first[1]).resolve()
    what = "sweep" if path.parent.name == "sweeps" else "recipe"
    assert schema == (RECIPES / f"{what}.schema.json").resolve()
    assert complaints(text, what) == []


@pytest.mark.parametrize(
    "text",
    [
        "sede: 1",
        "schedule: {stepps: 3}",
        "schedule: {steps: many}",
        "schedule: {optimizer: {kind: lion}}",
        "student: {name: pspnet, rates: [1, 2]}",
        "student: {name: pspnett}",
        "method: {name: kd, tempreture: 2}",
        "method: [{name: kd}, {name: cwdd}]",
        "loss: {ce: {name: cross_entropy, gama: 1}}",
        "data: {rot: here}",
        "teacher: {name: run, path: 3}",
        "run: {wandb: {mode: on-line}}",
        "extends: _parts/data/camvid",
    ],
)
def test_mistakes_are_seen(text: str) -> None:
    assert complaints(text)


@pytest.mark.parametrize(
    "text",
    [
        "teacher: {floor: 15}",
        "data: {root: ~/mine, classes: [a, b]}",
        "method: null",
        "loss: {ce_aux: null}",
        "weights: {ce_aux: null}",
        "schedule: {optimizer: {lr: 6e-5}}",
        'method: {name: "mine.module:Mine", anything: 3}',
        "method: [{name: kd}, {name: cwd, temperature: 4}]",
    ],
)
def test_what_files_that_extend_others_may_say_is_taken(text: str) -> None:
    assert complaints(text) == []


@pytest.mark.parametrize(
    ("folder", "base"),
    [
        ("kd.methods", "Method"),
        ("kd.losses", "Loss"),
        ("kd.networks", "Network"),
        ("kd.data", "Dataset"),
        ("teachers", "Teacher"),
        ("kd.evaluate", "Predictor"),
    ],
)
def test_every_class_is_described_with_its_defaults(folder: str, base: str) -> None:
    for name in options(folder, base):
        schema = SCHEMAS["recipe"]["$defs"][f"{folder}.{name}"]
        assert schema["properties"]["name"] == {"const": name}
        assert len(schema["description"]) > 20
        config = lookup(folder, name, base).Config
        assert schema["properties"].keys() == config.model_fields.keys()
        for key, field in config.model_fields.items():
            if key != "name" and not field.is_required() and field.default_factory is None:
                assert "default" in schema["properties"][key], key
