"""The schema of a recipe: one run, completely, checked against the configurations of the classes it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from kd.config import Config, validate
from kd.content import PLACES, Contents
from kd.data.augment import Augmentation
from kd.lookup import lookup, named
from kd.losses.label_smoothing import LabelSmoothing
from kd.losses.mixture import check_weights
from kd.recipe.channels import check_channels
from kd.recipe.evaluating import Evaluating
from kd.recipe.later import known_before
from kd.recipe.merging import Tree
from kd.recipe.unlabelled import Unlabelled, check_unlabelled
from kd.schedules import OptimizerConfig
from kd.types import IGNORE

AnyMethod: Any = named("kd.methods", "Method")


def _stacked(value: Any) -> Any:
    """A list of methods is the method ``several``."""
    if isinstance(value, str):
        raise ValueError(f"is '{value}'; a method by its name alone stands beside the recipe: kd train RECIPE {value}")
    return {"name": "several", "members": value} if isinstance(value, (list, tuple)) else value


def _some(value: Any) -> Any:
    """An empty loss, by which a method says that it needs none beside it, is none."""
    return value or None


def method_config(values: Any) -> Any:
    """The configuration of a method as a recipe writes it, one or a stack.

    Raises:
        ConfigError: a name or a knob is unknown, or a value wrong.
    """
    return validate(MethodPart, {"method": values}).method


class MethodPart(Config):
    """The part of a recipe that names the method."""

    method: Annotated[AnyMethod, BeforeValidator(_stacked)]


class Schedule(Config):
    """How long and how to train. ``batch`` is global: over all processes and ``accumulate`` parts.

    Processes do not change the loss; ``accumulate`` does: each part has its own JML sums, means and batch norm.
    """

    steps: int = Field(40_000, ge=1)
    batch: int = Field(16, ge=1, le=65_536)
    accumulate: int = Field(1, ge=1, le=65_536)
    optimizer: OptimizerConfig = OptimizerConfig()
    clip: float = Field(0.0, ge=0)
    ema: float = Field(0.0, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


class Tracking(Config):
    """Weights & Biases, beside the run's own files.

    ``strict`` makes a missing key or network an error; by default the run is then recorded offline. ``WANDB_MODE=disabled``
    and ``WANDB_MODE=offline`` in the environment win over ``mode``; nothing is sent anywhere unless the recipe says
    ``online``. ``images`` panels are sent per evaluation, at most.
    """

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "segmentation-kd"
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: tuple[str, ...] = ()
    strict: bool = False
    images: int = Field(4, ge=0)


class Machine(Config):
    """What does not change the numbers: processes, logging, files. No part of the fingerprint.

    ``maps``: losses made of sums over pixels take maps of the labels' size by blocks of rows, or whole (auto: blocks on CPUs),
    which is the same up to rounding. ``compile``: the teacher's answers by ``torch.compile``.
    ``absent_classes``: training images in which a class has no pixel are refused, or allowed.
    """

    device: str = "auto"
    deterministic: bool = False
    workers: int = Field(2, ge=0, le=1024)
    threads: int = Field(0, ge=0, le=1024)
    log_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    previews: int = Field(4, ge=0, le=1000)
    compile: bool = False
    maps: Literal["auto", "blocks", "whole"] = "auto"
    channels_last: bool = True
    absent_classes: Literal["refuse", "allow"] = "refuse"
    wandb: Tracking = Tracking()


class Recipe(Config):
    """One run, completely. ``loss`` names the terms of the task loss; ``weights`` weighs every term of loss and method.

    ``family`` is the published code base whose choices it takes where nothing else is said, see :mod:`kd.recipe.families`.
    """

    family: str = "own"
    seed: int = Field(0, ge=0)
    data: named("kd.data", "Dataset")  # type: ignore[valid-type]
    augmentation: Augmentation = Augmentation()
    student: named("kd.networks", "Network")  # type: ignore[valid-type]
    teacher: named("teachers", "Teacher") | None = None  # type: ignore[valid-type]
    labels: LabelSmoothing | None = None
    loss: Annotated[dict[str, named("kd.losses", "Loss")] | None, BeforeValidator(_some)] = None  # type: ignore[valid-type]
    method: Annotated[AnyMethod | None, BeforeValidator(_stacked, AnyMethod | list[AnyMethod] | None)] = None
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    unlabelled: Unlabelled | None = None
    schedule: Schedule = Schedule()
    evaluation: Evaluating = Evaluating()
    run: Machine = Machine()

    @model_validator(mode="after")
    def _makes_sense(self) -> Recipe:
        if not self.loss and self.method is None:
            raise ValueError(
                "loss and method are both null; there is nothing to train on. Name a method beside the recipe, or add "
                "_parts/loss/ce to extends"
            )
        for name in self.loss or {}:
            if not name.isidentifier() or name in RESERVED:
                raise ValueError(
                    f"loss has a term '{name}'; a term's name is one word of letters, digits and _, and none of "
                    f"{', '.join(RESERVED)}"
                )
        if self.labels is not None and not self.loss:
            raise ValueError("labels softens the targets of loss, but loss is null; set labels=null or give a loss")
        if (self.method is None) != (self.teacher is None):
            given, lacking = ("method", "teacher") if self.method else ("teacher", "method")
            raise ValueError(
                f"there is a {given} but no {lacking}; a method needs a teacher, and a teacher only serves a method"
            )
        self._check_weights()
        for name, loss in (self.loss or {}).items():
            if loss.ignore_index != IGNORE:
                raise ValueError(
                    f"loss.{name}.ignore_index is {loss.ignore_index}; data sets say {IGNORE} where there is no label, for all "
                    "terms alike: drop it (values that are no class: data.ignore)"
                )
        check_channels(self)
        check_unlabelled(self)
        return self

    def _check_weights(self) -> None:
        """Each term has a weight, each weight a term; a method of the user's own may tell its terms only once it is built."""
        method = self.method
        told = lookup("kd.methods", method.name, "Method").terms_of(method) if method is not None else ()
        if told or method is None:
            check_weights([*(self.loss or {}), *told], self.weights)
        if self.weights and not any(self.weights.values()):
            raise ValueError("weights are all 0, so that nothing is trained; weigh at least one term")


RESERVED = ("loss", "no", "yes", "on", "off", "values", "keys", "items")
IDENTITY = (
    "data",
    "augmentation",
    "student",
    "teacher",
    "labels",
    "loss",
    "method",
    "weights",
    "unlabelled",
    "schedule",
    "evaluation",
)


def build(tree: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values.

    Raises:
        ConfigError: a line per problem, each with its dotted path.
    """
    return validate(Recipe, tree)


def plain(recipe: Recipe) -> Tree:
    """The resolved recipe as YAML-able values, defaults included."""
    return recipe.model_dump(mode="json")


def fingerprint(
    recipe: Recipe,
    parts: Iterable[str] = IDENTITY,
    spelled: bool = False,
    remembered: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """12 hex digits that change with any value of the named parts; machine settings and the seed are not among them.

    Weights are known by what they are, see :mod:`kd.content`; ``spelled``: by the path to them, as they were once;
    ``remembered`` is what paths stood for whose weights have gone.
    """
    tree = recipe.model_dump(mode="json", context=None if spelled else Contents(remembered))
    values = {part: tree[part] for part in parts}
    if "data" in values:
        values["data"] = {key: value for key, value in values["data"].items() if key not in PLACES}
    return _digest(known_before(values))


def _digest(values: Tree) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


NOTHING = _digest({})
"""The fingerprint of parts that are as they were before they came."""


def contents(recipe: Recipe) -> dict[str, str]:
    """What the paths to weights in a recipe stand for, as far as there is something."""
    found = Contents()
    recipe.model_dump(mode="json", context=found)
    return {path: mark for path, mark in found.seen.items() if mark != path}
