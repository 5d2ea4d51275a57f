"""The schema of a sweep file, and what a command line changes in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from kd.config import Config, ConfigError, validate
from kd.plain_yaml import load_yaml
from kd.recipe.library import sweep_file
from kd.recipe.merging import Tree, override
from kd.sweep.axes import METHOD, Choice, Settings, combinations, known_key, labels, size

Axes = dict[str, Any]
MOST = 100_000
TWICE = "schedule.steps: budget fixes the students' steps; give budget.steps=N (and teachers={...} for theirs), or drop budget"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping) else value


def _unset(value: Any) -> Any:
    named = isinstance(value, list) and all(isinstance(key, str) for key in value)
    return {key: {} for key in value} if named else value


class Budget(Config):
    """How long each student trains: optimizer steps, training images, or hours of its own measured speed on this machine."""

    steps: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(f"has {', '.join(given) or 'nothing'}; give one of steps, samples, hours")
        return self


class Change(Config):
    """Settings for the points whose axes have the values of ``when``; a list there means any of them."""

    when: dict[str, Any]
    settings: Settings


class SweepFile(Config):
    """A sweep.

    recipe: the recipe of a pair, or several: ``camvid/r18``.
    axes: axis to values; a grid, or several one after the other. ``method`` lists what may stand beside the recipe on a command
        line; any other axis is a dotted key of the recipe, or a mapping of labels to settings. One value counts as a list of
        one.
    settings: for all students. ``overrides``: for some. ``exclude``: those left out, written as in ``when``.
    teachers: recipes (with their method, where they need one) whose runs are trained first, with settings for each. By
        default every teacher whose path is ``runs/FOLDER/RECIPE/seedN``, or ``RECIPE_METHOD``, where that recipe exists.
    tokens: ``shared``: those of MasKD are learnt once for all seeds and students that they would suit.
    budget: instead of the recipes' own steps.
    most: so many points are meant, before exclusions; more are taken for a slip.
    match: ``wall_clock``: each method's steps are such that it costs what its baseline does, measured on this machine.
    """

    recipe: Annotated[tuple[str, ...], BeforeValidator(_listed, str | list[str])] = Field(min_length=1)
    axes: Annotated[tuple[Axes, ...], BeforeValidator(_listed, Axes | list[Axes])] = Field(({},), min_length=1)
    settings: Settings = Field(default_factory=dict)
    exclude: tuple[dict[str, Any], ...] = ()
    overrides: tuple[Change, ...] = ()
    teachers: Annotated[dict[str, Settings] | None, BeforeValidator(_unset, list[str] | dict[str, Settings] | None)] = None
    tokens: Literal["own", "shared"] = "own"
    budget: Budget | None = None
    match: Literal["wall_clock"] | None = None
    most: int = Field(1000, ge=1, le=MOST)

    @model_validator(mode="after")
    def _makes_sense(self) -> SweepFile:
        if templates := [name for name in self.recipe if "{" in name]:
            raise ValueError(
                f"recipe: {templates[0]} has a template, but a recipe describes a pair, and methods are an axis: "
                "recipe: camvid/r18 and axes: {method: [ce, kd]}"
            )
        if (count := size(self.recipe, self.axes)) > MOST:
            raise ValueError(f"axes make {count:,} points; a sweep has {MOST:,} at most, so give fewer values")
        if self.match and self.budget and self.budget.hours:
            raise ValueError("match and budget.hours are both given; equal hours match already, drop match")
        written = {key for change in self.overrides for key in change.settings} | self.settings.keys()
        for key in sorted(written.union(*(self.teachers or {}).values())):
            known_key(key)
        axes = {key for choices in self.combinations() for choice in choices.values() for key in choice.settings}
        if self.budget and "schedule.steps" in axes | written:
            raise ValueError(TWICE)
        for condition in (*self.exclude, *(change.when for change in self.overrides)):
            self._check(condition)
        return self

    def combinations(self) -> Iterator[dict[str, Choice]]:
        """The choices of every point, exclusions included; ``recipe`` is the first."""
        return combinations(self.recipe, self.axes)

    def _check(self, condition: Mapping[str, Any]) -> None:
        """A misspelt condition would silently match nothing."""
        options: dict[str, set[str]] = {}
        for choices in self.combinations():
            for axis, choice in choices.items():
                options.setdefault(axis, set()).add(choice.label)
        for axis, wanted in condition.items():
            if axis not in options:
                raise ValueError(f"a condition names '{axis}'; axes: {', '.join(options)}")
            if unknown := [label for label in labels(wanted) if label not in options[axis]]:
                raise ValueError(f"a condition wants {axis} '{unknown[0]}'; values: {', '.join(sorted(options[axis]))}")


@dataclass(frozen=True)
class Sweep:
    """A sweep file and the changes of the command line; ``changes`` apply to every recipe, teachers included.

    ``narrowed``: the command line has chosen recipes or values of axes, so that some of the file's teachers may teach nobody.
    """

    path: Path
    file: SweepFile
    changes: tuple[Tree, ...] = ()
    narrowed: bool = False

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem


def read_sweep(path: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """A sweep by name or path. ``key=value``: an axis gets other values (``seed=[0,1]``), a key of the sweep file another value
    (``budget.steps=100``), and any other key is one of the recipes.

    Raises:
        ConfigError: the file is missing or no YAML, a key unknown, or a value wrong.
    """
    path = sweep_file(path)
    try:
        file = validate(SweepFile, _tree(path), "sweep")
        written, changes = _overridden(file, overrides)
        if (count := size(written.recipe, written.axes)) > written.most:
            raise ConfigError(f"axes: make {count:,} points; say most={count} if so many are meant, else give fewer values")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    narrowed = (written.recipe, written.axes) != (file.recipe, file.axes) and written.teachers == file.teachers
    return Sweep(path, written, changes, narrowed)


def _tree(path: Path) -> Tree:
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no YAML, {' '.join(str(error).split())}"
        raise ConfigError(f"cannot be read ({reason}); give a sweep, e.g. one of recipes/sweeps/") from None
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ConfigError(f"{what}; a sweep is a mapping with the keys recipe and axes")
    if "recipe" not in tree and tree.keys() & {"extends", "student", "data"}:
        raise ConfigError("is a recipe, not a sweep; kd train trains it, and a sweep names it under recipe:")
    return tree


def _overridden(written: SweepFile, overrides: Iterable[str]) -> tuple[SweepFile, tuple[Tree, ...]]:
    """With other values for its own keys and axes; and the changes that are the recipes'."""
    updates: dict[str, Any] = {}
    changes = []
    for change in map(override, overrides):
        ((key, value),) = change.items()
        knobs = key == METHOD and isinstance(value, Mapping)  # method.temperature=4
        if not knobs and (key == METHOD or any(key in grid for grid in written.axes)):
            grids = updates.get("axes", written.axes)
            there = any(key in grid for grid in grids)
            updates["axes"] = [{**grid, key: value} if key in grid or not there else grid for grid in grids]
        elif key in ("recipe", "budget", "match", "tokens", "teachers", "most"):
            updates[key] = value
        else:
            known_key(key)
            changes.append(change)
    if updates:
        loose = {"exclude": (), "overrides": ()}  # checked above; they may name values that are not asked for now
        checked = validate(SweepFile, {**written.model_dump(exclude_unset=True), **updates, **loose}, "sweep")
        written = checked.model_copy(update={key: getattr(written, key) for key in loose})
    if written.budget and any(isinstance(change.get("schedule"), dict) and "steps" in change["schedule"] for change in changes):
        raise ConfigError(TWICE)
    return written, tuple(changes)
