"""The base of every configuration: unknown keys are refused, values are frozen, errors speak plainly."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """Bad input by the user, told in one message: the dotted path, the value, the rule and the remedy."""


class Config(BaseModel):
    """Base of all configurations. Fields are frozen; a key that no field has is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Named(Config):
    """A configuration that chooses its class: ``name`` is a file of the library, or ``package.module:Class``."""

    name: str = ""


C = TypeVar("C", bound=BaseModel)


def validate(model: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Build ``model`` from plain values.

    Raises:
        ConfigError: with one line per problem, each naming the dotted path.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error, model, where)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str = "") -> str:
    """Pydantic's report in the user's words."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        dotted = ".".join(part for part in (where, path) if part)
        lines.append(f"{dotted or 'recipe'}: {_sentence(problem, model)}")
    return "\n".join(lines)


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(str(problem["loc"][-1]), _fields_at(model, problem["loc"][:-1]))
    if kind == "missing":
        return "is required and has no default; set it in the recipe or as key=value"
    if kind == "value_error":
        return str(context["error"])
    rule = problem["msg"][0].lower() + problem["msg"][1:]
    return f"is {value!r}; {rule}"


def _unknown(key: str, options: list[str]) -> str:
    close = difflib.get_close_matches(key, options, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    listing = f" Keys here: {', '.join(sorted(options))}." if options else ""
    return f"there is no such key{hint}{listing}"


def _fields_at(model: type[BaseModel] | None, path: tuple[Any, ...]) -> list[str]:
    """The keys that the model at ``path`` knows; empty where the path leaves the models (the message then has no list)."""
    for part in path:
        field = model.model_fields.get(str(part)) if model else None
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return list(model.model_fields) if model else []
