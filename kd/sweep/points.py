"""A sweep as points: each is one run, with its resolved recipe and the runs that it needs first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kd.config import ConfigError
from kd.files import file_name
from kd.recipe.identity import name_of
from kd.recipe.library import trained_by
from kd.recipe.loading import Draft, describe, draft
from kd.recipe.merging import Origins
from kd.recipe.schema import Recipe, build, fingerprint, plain
from kd.sweep.axes import METHOD, Choice, Settings, matches
from kd.sweep.budget import Clock, Plan, clock_key, measured_times, plans
from kd.sweep.changes import apply_command_line, apply_settings, check_keys, distinct, meant
from kd.sweep.schema import Sweep
from kd.sweep.wandb_groups import Groups

TOKENS = "maskd"
LEARNING = ("token_ce", "token_dice")


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    ``name`` is that of its directory, made of its content: ``LABEL-FINGERPRINT-sSEED``. ``needs`` are the names of points that
    must be finished first. ``instead`` is a directory where this very run may have been finished before, outside the sweep.
    """

    name: str
    label: str
    role: Literal["teacher", "tokens", "student"]
    recipe: Recipe
    origins: Origins = field(repr=False)
    choices: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    instead: str | None = None
    plan: Plan | None = None

    @property
    def text(self) -> str:
        """The resolved recipe as YAML."""
        return describe(self.recipe, self.origins)


@dataclass(frozen=True)
class _Student:
    """A student before its teacher, tokens and steps are settled."""

    label: str
    written: Draft
    choices: Mapping[str, Choice]
    recipe: Recipe


def expand(sweep: Sweep, root: Path, clock: Clock | None = None) -> list[Point]:
    """All points, prerequisites before those that need them. ``root`` is the sweep's directory.

    ``clock`` holds measured step times, where the sweep asks for them; a point whose time is not known yet keeps the steps of
    its recipe for now, see :func:`to_measure`.

    Raises:
        ConfigError: a recipe is missing or wrong, or two points are the same run.
    """
    found = _Expansion(sweep, root).points(clock or {})
    groups = Groups(point.recipe for point in found if point.role == "student")
    return [_placed(point, groups, f"sweep {sweep.name}") for point in found]


def _placed(point: Point, groups: Groups, source: str) -> Point:
    """With W&B's group and job type. No name changes: ``run`` is no part of a fingerprint."""
    settings = groups.settings(point.recipe, point.role)
    if not settings:
        return point
    written = Draft(plain(point.recipe), dict(point.origins))
    written.apply(settings, source)
    return replace(point, recipe=written.build(), origins=written.origins)


def to_measure(sweep: Sweep, clock: Clock) -> dict[str, Recipe]:
    """Recipes whose step times the sweep asks for and ``clock`` has not, by key.

    The teacher is an untrained network of the same kind, where it is trained by the sweep itself: it costs as much.
    """
    if not sweep.file.match and not (sweep.file.budget and sweep.file.budget.hours):
        return {}
    expansion = _Expansion(sweep, Path())
    wanted = map(expansion.measurable, expansion.wanted)
    return {clock_key(recipe): recipe for recipe in wanted if measured_times(recipe, clock) is None}


class _Expansion:
    """Collects points; teachers and tokens come in when the first student asks for them."""

    def __init__(self, sweep: Sweep, root: Path) -> None:
        self.sweep, self.root = sweep, root
        self.found: dict[str, Point] = {}
        self.files: dict[str, Draft] = {}
        self.tokens: dict[str, Point] = {}
        self.students: dict[str, Point] = {}
        self.wanted = distinct(sweep, [(choices, self._one(choices)) for choices in self._wanted()])
        if not self.wanted:
            raise ConfigError(f"{sweep.path}: no point is left; exclude leaves nothing of axes")
        check_keys(sweep, [student.written for student in self.wanted])

    def points(self, clock: Clock) -> list[Point]:
        file = self.sweep.file
        settled = plans([self.measurable(student) for student in self.wanted], file, clock)
        for student, plan in zip(self.wanted, settled, strict=True):
            self._add_student(student, plan)
        for name in map(_directory, file.teachers or {}):
            if not any(point.role == "teacher" and point.choices["recipe"] == name for point in self.found.values()):
                self._read(*trained_by(name, self.sweep.path) or (name, ""))  # complains of a name that is no recipe's
                if self.sweep.narrowed:
                    continue
                raise ConfigError(
                    f"{self.sweep.path}: teachers: {name} teaches no point; a teacher's path is runs/{name}/seed0. Drop it"
                )
        order = ("teacher", "tokens", "student")
        return sorted(self.found.values(), key=lambda point: order.index(point.role))

    def _wanted(self) -> list[dict[str, Choice]]:
        file = self.sweep.file
        return [one for one in file.combinations() if not any(matches(condition, one) for condition in file.exclude)]

    def _read(self, name: str, method: str) -> Draft:
        key = f"{name} {method}"
        if key not in self.files:
            try:
                self.files[key] = draft(name, method, self.sweep.path)
            except ConfigError as error:
                raise ConfigError(f"{self.sweep.path}: {error}") from None
        return deepcopy(self.files[key])

    def _one(self, given: Mapping[str, Choice]) -> _Student:
        sweep, recipe = self.sweep, given["recipe"].label
        method = given[METHOD].label if METHOD in given else ""
        written = self._read(recipe, method)
        choices = meant(given, written)
        conditional = [change.settings for change in sweep.file.overrides if matches(change.when, given)]
        apply_settings(sweep, written)
        for settings in (*(choice.settings for choice in choices.values()), *conditional):
            written.apply(settings, f"sweep {sweep.name}")
        apply_command_line(self.sweep, written)
        extra = [
            f"{axis.rpartition('.')[2]}={choice.label}"
            for axis, choice in choices.items()
            if axis != "seed" and choice.settings
        ]
        name = f"{Path(recipe).stem}_{method}" if method else Path(recipe).stem
        label = "-".join(file_name(text) for text in (name, *extra))
        return _Student(label, written, choices, self._build(written, label))

    def _build(self, written: Draft, label: str) -> Recipe:
        try:
            return written.build()
        except ConfigError as error:
            raise ConfigError(f"{self.sweep.path}: point {label}: {error}") from None

    def _add_student(self, student: _Student, plan: Plan) -> None:
        written, needs = deepcopy(student.written), []
        written.apply({"schedule.steps": plan.steps}, f"sweep {self.sweep.name}")
        teacher = self._teacher(student.recipe)
        if teacher is not None:
            self.found.setdefault(teacher.name, teacher)
            needs.append(teacher.name)
            written.apply({"teacher.path": self._path(teacher)}, f"sweep {self.sweep.name}")
        if self.sweep.file.tokens == "shared" and _learns_tokens(student.recipe):
            needs.append(self._share_tokens(student, written, needs))
        point = self._point(student.label, "student", written, student.choices)
        mark = f"{fingerprint(point.recipe)}-s{point.recipe.seed}"
        if (twin := self.students.get(mark)) is not None:
            raise ConfigError(
                f"{self.sweep.path}: {_told(twin.choices)} and {_told(point.choices)} are the same run ({point.name}); an axis "
                "changes nothing, or two grids overlap. Remove one"
            )
        self.students[mark] = self.found[point.name] = replace(point, needs=tuple(needs), plan=plan)

    def _path(self, point: Point) -> str:
        return (self.root / point.name).as_posix()

    def _point(self, label: str, role: Any, written: Draft, choices: Mapping[str, Choice]) -> Point:
        recipe = self._build(written, label)
        names = {axis: choice.label for axis, choice in choices.items()}
        return Point(name_of(recipe, label, self.root), label, role, recipe, written.origins, names)

    def _teacher(self, recipe: Recipe) -> Point | None:
        """The teacher's point, if the sweep is to train it."""
        path = getattr(recipe.teacher, "path", None)
        parts = Path(path).parts if path else ()
        if recipe.teacher is None or recipe.teacher.name != "run" or len(parts) != 4 or parts[0] != "runs":
            return None
        name, seed, teachers = "/".join(parts[1:3]), parts[3].removeprefix("seed"), self.sweep.file.teachers
        known = None if teachers is None else {_directory(key): settings for key, settings in teachers.items()}
        spelled = trained_by(name, self.sweep.path)
        if not seed.isdigit() or spelled is None or (known is not None and name not in known):
            return None
        written = self._read(*spelled)
        written.apply((known or {}).get(name, {}), f"sweep {self.sweep.name}")
        apply_command_line(self.sweep, written)
        written.apply({"seed": int(seed)}, f"sweep {self.sweep.name}")
        return replace(self._point(parts[2], "teacher", written, {"recipe": Choice(name, {})}), instead=path)

    def _share_tokens(self, student: _Student, written: Draft, needs: Iterable[str]) -> str:
        """Hand the tokens of one run, which learns nothing else, to a student; returns that run's name.

        Tokens depend on the teacher and what it sees, not on the student: the first one stands in for all.
        """
        tokens, recipe = deepcopy(written), written.build()
        steps: Settings = {"schedule.steps": 1, "method.share": plain(recipe)["method"]["share"] * recipe.schedule.steps}
        tokens.apply({**steps, "evaluation.every": 0}, f"sweep {self.sweep.name}")
        learnt = tokens.build()
        key = fingerprint(learnt, ["data", "augmentation", "teacher", "method", "schedule"])
        if key not in self.tokens:
            found = self._point(f"tokens-{student.label}", "tokens", tokens, student.choices)
            self.tokens[key] = self.found[found.name] = replace(found, needs=tuple(needs))
        shared: Settings = {"method.tokens": self._path(self.tokens[key]), **{f"weights.{term}": None for term in LEARNING}}
        written.apply(shared, f"sweep {self.sweep.name}")
        return self.tokens[key].name

    def measurable(self, student: _Student) -> Recipe:
        """What a step costs as much as the student's, before anything is trained."""
        teacher = self._teacher(student.recipe)
        if teacher is None:
            return student.recipe
        return build({**plain(student.recipe), "teacher": {"name": "fresh", "network": plain(teacher.recipe)["student"]}})


def _directory(name: str) -> str:
    """Where a recipe with its method, ``shapes/tiny ce``, trains to below ``runs``."""
    return name.replace(" ", "_")


def _learns_tokens(recipe: Recipe) -> bool:
    return recipe.method is not None and recipe.method.name == TOKENS and plain(recipe)["method"]["tokens"] is None


def _told(choices: Mapping[str, str]) -> str:
    return ", ".join(f"{axis} {label}" for axis, label in choices.items())
