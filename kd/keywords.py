"""Constructors that take a configuration's knobs as keywords, which editors complete and type checkers check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from kd.config import Named, validate
from kd.lookup import recipe_name

P = ParamSpec("P")
S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")


class Rewrites(Protocol[P]):
    """Turns ``__init__(self, config, a, b)`` into ``__init__(self, a, b, *, knob=...)``; there may be less than ``a, b``."""

    @overload
    def __call__(self, init: Callable[[S, Any], None], /) -> Callable[Concatenate[S, P], None]: ...
    @overload
    def __call__(self, init: Callable[[S, Any, A], None], /) -> Callable[Concatenate[S, A, P], None]: ...
    @overload
    def __call__(self, init: Callable[[S, Any, A, B], None], /) -> Callable[Concatenate[S, A, B, P], None]: ...


def keywords(config: Callable[P, Any]) -> Rewrites[P]:
    """Decorates an ``__init__`` whose first argument is a configuration: its knobs may be given as keywords instead.

    ``@keywords(Config)`` makes ``CWD(student.sizes, teacher.sizes, temperature=4.0)`` of ``CWD(CWD.Config(temperature=4.0),
    student.sizes, teacher.sizes)``. Both work; type checkers know the first. Knobs are declared once, in ``Config``, those with
    a default as ``Field(default=1.0, ge=0)``: type checkers read no positional one.

    Raises:
        ConfigError: (the constructor) a knob is unknown or its value wrong.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(init).parameters.values())

        @wraps(init)
        def constructor(self: Any, *given: Any, **named: Any) -> None:
            if not isinstance(given[0] if given else named.get("config"), Named):
                kind = type(self)
                others = {one.name: named.pop(one.name) for one in own if one.name in named.keys() - kind.Config.model_fields}
                given = (validate(kind.Config, {"name": recipe_name(kind), **named}, kind.__name__), *given)
                named = others
            init(self, *given, **named)

        constructor.__signature__ = _signature(own, inspect.signature(config))  # type: ignore[attr-defined]
        return constructor

    return cast(Rewrites[P], decorate)


def _signature(own: list[inspect.Parameter], knobs: inspect.Signature) -> inspect.Signature:
    """What ``help`` and notebooks show: an argument called like a knob can be given by its place alone."""
    itself, _, *others = own
    shadowed = [one.replace(name=f"{one.name}_") if one.name in knobs.parameters else one for one in others]
    kind = inspect.Parameter.POSITIONAL_ONLY if shadowed != others else inspect.Parameter.POSITIONAL_OR_KEYWORD
    front = [one.replace(kind=kind) for one in (itself, *shadowed)]
    return inspect.Signature([*front, *knobs.parameters.values()])
