"""The base of every configuration: unknown keys are refused, values are frozen, errors speak plainly."""

from __future__ import annotations

import difflib
import errno
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from kd.visible import only_visible, visible

HIGHEST = {int: 1e15, float: 1e30}
"""Of the numbers in a configuration: steps and sizes beyond are slips, products with what is beyond are infinite in float32."""
LONGEST, MOST = 200, 2000
"""Characters of a value that a message shows, and of a whole message."""
ABSENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN, errno.EHOSTUNREACH}
AWAY = "the disk does not answer; when it does again, the same command goes on where it was"
"""Of errors of a disk, and what they mean to the user."""
LINES = 8
"""Problems of a recipe that are told at once."""


class InputError(ValueError):
    """Bad input by the user, told in one message that names the value, the rule and the remedy. Tools print it and stop."""

    def __str__(self) -> str:
        """The message alone, also where a data loader's worker has wrapped it in its traceback."""
        return legible(super().__str__().rsplit(f"{type(self).__name__}: ", 1)[-1].rstrip())


class ConfigError(InputError):
    """A wrong key or value; the message begins with the dotted path where there is one."""


class Config(BaseModel):
    """Base of all configurations. Fields are frozen; a key that no field has is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _knows_all_keys(cls, values: Any) -> Any:
        """Refuse unknown keys here rather than by pydantic, because only here the options are at hand; and what would pass for
        a number, or for one that computers have."""
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        rules = {
            key: _strange(fields[key].annotation, value) if key in fields else _unknown(str(key), list(fields))
            for key, value in values.items()
        }
        problems = [
            InitErrorDetails(
                type=PydanticCustomError("unknown_key", "{rule}", {"rule": rule}), loc=(str(key),), input=values[key]
            )
            for key, rule in rules.items()
            if rule
        ]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return values


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
        raise ConfigError(explain(error, where)) from None


def explain(error: ValidationError, where: str = "") -> str:
    """Pydantic's report in the user's words: one line per key."""
    lines: dict[str, list[str]] = {}
    for problem in error.errors():
        loc = problem["loc"]
        key = loc[-1:] if problem["type"] == "unknown_key" else ()  # whatever it looks like
        parts = (where, *(str(part) for part in loc[: len(loc) - len(key)] if not _names_a_branch(part)), *map(str, key))
        path = ".".join(part for part in parts if part)
        tells_itself = isinstance(problem.get("ctx", {}).get("error"), ConfigError) and not path
        lines.setdefault("" if tells_itself else path or "recipe", []).append(_sentence(problem))
    told = [f"{cut(path)}: {_either(sentences)}".removeprefix(": ") for path, sentences in lines.items()]
    more = [f"... and {len(told) - LINES} more"] if len(told) > LINES else []
    return "\n".join([*told[:LINES], *more])


def _names_a_branch(part: int | str) -> bool:
    """Whether pydantic means an alternative of a union here, not a key."""
    return isinstance(part, str) and ("[" in part or part in ("bool", "int", "float", "str"))


def _either(sentences: list[str]) -> str:
    """Alternatives share their beginning, the value; it is told once."""
    head = sentences[0].partition("; ")[0]
    rules = [sentence.removeprefix(f"{head}; ") for sentence in sentences]
    return f"{head}; {', or '.join(rules)}" if len(rules) > 1 else sentences[0]


def _sentence(problem: Any) -> str:
    if problem["type"] == "missing":
        return "is required and has no default; set it in the recipe or as key=value"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "unknown_key":
        return problem["msg"]
    rule = re.sub(r"valid (tuple|list)\b", "list, e.g. [a, b]", problem["msg"][0].lower() + problem["msg"][1:])
    rule = re.sub(r"valid dictionary( or .*)?$", "mapping, e.g. {key: value}", rule)
    return f"is {shown(problem['input'])}; {rule}"


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text in a message, cut where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def legible(message: str) -> str:
    """A message with signs that a terminal obeys, or nobody sees, spelled out, and without the middle of an endless one: what
    it quotes may be anybody's."""
    text = "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in message)
    head, tail = MOST * 5 // 8, MOST // 4
    return text if len(text) <= MOST else f"{text[:head]} ... ({len(text)} characters) ... {text[-tail:]}"


def _strange(kind: Any, value: Any) -> str:
    """What is wrong with a value that pydantic would take for a number: a switch, what is too large, or none at all."""
    inner = kind
    parts: Collection[Any] = value if isinstance(value, (list, tuple)) else ()
    if isinstance(value, Mapping) and (kind is Any or get_origin(kind) is dict):
        inner, parts = Any if kind is Any else get_args(kind)[1], value.values()
    return next((told for part in parts if (told := _strange(inner, part))), "") if parts else _strange_number(kind, value)


def _strange_number(kind: Any, value: Any) -> str:
    if kind is Any and isinstance(value, float) and not math.isfinite(value):
        return f"holds {value}, which is no number"
    if _takes(kind, str) or _takes(kind, bool) or not (_takes(kind, int) or _takes(kind, float)):
        return ""
    if isinstance(value, bool):
        return f"is {str(value).lower()}; it is no switch: give a number"
    number = _number(value) if isinstance(value, str) else value
    if not isinstance(number, (int, float)) or (isinstance(number, float) and not math.isfinite(number)):
        return ""
    highest = HIGHEST[float if _takes(kind, float) else int]
    return f"is {shown(value)}; numbers go up to {highest:.0e} here" if abs(number) > highest else ""


def _number(text: str) -> float | None:
    """What a text like 1e-3, which is none to YAML, becomes."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return None


def _takes(annotation: Any, kind: type) -> bool:
    """Whether a type, or one inside it, is ``kind``, or anything."""
    return annotation in (kind, Any) or any(_takes(part, kind) for part in get_args(annotation))


def _unknown(key: str, options: list[str]) -> str:
    close = difflib.get_close_matches(key, options, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"there is no such key{hint} Keys here: {', '.join(sorted(options))}."


def exit_code(action: Callable[[], object]) -> int:
    """Run what a command-line tool does: 0, or 2 where the user must change something, told in one message on stderr.

    130 where the user stops it; what tools write is whole or not there, so the same command goes on. 141, silently, where
    nobody reads what it prints any more, as after `| head`.
    """
    try:
        with only_visible():
            action()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more on its way out
        return 141
    except InputError as error:
        rank = os.environ.get("RANK", "0")
        _complain(f"error{'' if rank == '0' else f' (rank {rank})'}: {error}")
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _complain(f"error: {_full(error)}")
            if error.filename is None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
        if error.filename is None:
            raise
        remedy = AWAY if error.errno in ABSENT else "choose another path or mend its permissions"
        _complain(f"error: {error.filename}: {error.strerror}; {remedy}")
        return 2
    return 0


def _complain(text: str) -> None:
    print(f"{visible(text)}\n", end="", file=sys.stderr)  # at once: several processes may complain


def _full(error: OSError) -> str:
    """Which disk is full, by the file that did not fit."""
    if error.filename is None:
        return f"{error.strerror}; make room where this is written"
    place = next(folder for folder in Path(error.filename).absolute().parents if folder.exists())
    while not place.is_mount():
        place = place.parent
    room = shutil.disk_usage(place)
    left = f"{room.free / 2**20:,.1f} MiB of {room.total / 2**20:,.0f} are free"
    return (
        f"{error.filename}: does not fit: the disk at {place} is full ({left}); make room there, and the same command goes on "
        "where it was"
    )
