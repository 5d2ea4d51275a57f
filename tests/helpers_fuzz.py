"""Inputs that nobody would write, made of those that somebody has: values put elsewhere, texts and bytes with holes in them.

With KD_FAULTS in the environment each property is tried on as many as minutes allow, other ones each time; else on a few that
are always the same.
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from typing import Any, TypeVar

import yaml
from helpers_faults import FAULTS
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from kd.config import MOST, exit_code

T = TypeVar("T")
SECONDS, MEGABYTES = 10.0, 512
"""What a single input may cost: time of this process, and memory beyond what it has had."""
ROOM = 2**20 if sys.platform == "darwin" else 2**10
"""Parts of a MiB in which systems count memory."""
Draw = Callable[[st.SearchStrategy[Any]], Any]
Where = tuple[Any, ...]


class Tally:
    """How many inputs a property was tried on, and how many of them were taken."""

    def __init__(self, what: str) -> None:
        self.what, self.tried, self.taken, self.begun = what, 0, 0, time.monotonic()

    def __str__(self) -> str:
        took = time.monotonic() - self.begun
        return f"{self.what}: {self.tried:,} inputs in {took:.0f} s, {self.taken:,} of them taken, the rest refused"

    def outcome(self, action: Callable[[], T], *names: str) -> T | None:
        """What an action gives, or None where it tells the user what is wrong: in one message that has one of ``names``."""
        self.tried += 1
        found: list[T] = []
        begun, room = time.process_time(), memory()
        with redirect_stderr(io.StringIO()) as told, redirect_stdout(io.StringIO()):
            code = exit_code(lambda: found.append(action()))
        message = told.getvalue()
        assert time.process_time() - begun < SECONDS, "it takes too long"
        assert memory() - room < MEGABYTES, "it takes too much memory"
        if code == 0:
            self.taken += 1
            return found[0]
        assert code == 2
        assert message.startswith("error: ")
        assert "mend its permissions" not in message, f"a name that is none passes for a file that is shut: {message[:300]}"
        assert len(message) <= MOST + len("error: \n"), f"the message has {len(message)} characters: {message[:300]}"
        assert any(name in message for name in names), f"the message has none of {names}: {message}"
        odd = [sign for sign in message if not sign.isprintable() and sign != "\n"]
        assert not odd, f"the message holds {odd[0]!r}: {message!r}"
        return None


def memory() -> float:
    """The most that this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * ROOM / 2**20


def examples(few: int, many: int) -> settings:
    """How often a property is tried; nothing is kept in the folder."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    number = many if FAULTS else few
    return settings(
        max_examples=number, derandomize=not FAULTS, database=None, deadline=None, suppress_health_check=quiet, print_blob=True
    )


# ---------------------------------------------------------------------------------------------------------------- values

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 256, 65_536, -5, 10**9, 10**15, -(10**20), 10**30, 10**400),
    *(0.0, 0.5, 1.0, -0.5, 1e-300, 1e30, -1e300, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "x", "0", "1", "1e3", "nan", "inf", "yes", "null", "~", "2026-01-01", "a.b", "a:b", "no/such", ".."),
    *("é", "\u202e", "\U0001f4a5", "\x1b[31m", "a\nb", "<b>&", "{split}", "/", "name", "a" * 3000, "9" * 3000, "_" * 300),
    *([], {}, [[]], [None], [1, 2], ["x"], [1, "a", None], [{}], {"a": 1}, {"name": "x"}, {"name": ""}, {"name": [1]}),
    *({"": ""}, {1: 2}, {None: 1}, {"name": "run"}, {"a": {"b": {"c": [1]}}}, [1e308] * 3, [0] * 300),
)
STRANGE: tuple[Any, ...] = (1, 2.5, None, True, "a" * 3000, "\x1b[31m", "a\nb")
KEYS: tuple[Any, ...] = ("", " ", "name", "x", "a.b", "extends", "axes", "é", *STRANGE)


def places(tree: Any, where: Where = ()) -> Iterator[Where]:
    """The way to each value of a tree, itself included."""
    yield where
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from places(value, (*where, key))


def at(tree: Any, where: Where) -> Any:
    """The value at a place."""
    for key in where:
        tree = tree[key]
    return tree


@st.composite
def edited(draw: Draw, trees: list[Any], others: list[Any] | None = None, most: int = 3) -> Any:
    """One of some trees with a few values dropped, replaced by those of others, repeated or called otherwise."""
    tree = deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, most)))):
        if there := [where for where in places(tree) if where]:
            where = draw(st.sampled_from(there))
            _edit(draw, tree, others or trees, at(tree, where[:-1]), where[-1])
    return tree


def _edit(draw: Draw, tree: Any, others: list[Any], branch: Any, key: Any) -> None:
    what, value = draw(st.sampled_from(("set", "set", "splice", "drop", "call", "wrap", "more"))), branch[key]
    if what == "set":
        branch[key] = deepcopy(draw(st.sampled_from(VALUES) | st.integers() | st.floats() | st.text(max_size=20)))
    elif what == "splice":
        other = draw(st.sampled_from(others))
        branch[key] = deepcopy(at(other, draw(st.sampled_from(list(places(other))))))
    elif what == "drop":
        del branch[key]
    elif what == "call" and isinstance(branch, dict):
        known = [where[-1] for where in places(tree) if where and isinstance(where[-1], str)]
        branch[draw(st.sampled_from([*KEYS, *known]))] = branch.pop(key)
    elif what == "wrap":
        branch[key] = draw(st.sampled_from(([value], [value, value], {"name": value}, {"x": value})))
    elif isinstance(branch, list):
        branch += [value] * draw(st.integers(1, 30))


# ----------------------------------------------------------------------------------------------------------------- texts

SIGNS = (
    *(": ", "- ", "\n- ", "{", "}", "[", "]", ", ", "&a ", "*a", "!!int ", "!!binary ", "!x ", "|", ">", "#", " #", "'", '"'),
    *("\n", "\r", "\t", "\x00", "\x1b", "\ufeff", "\u2028", "\u202e", "\ud800", "%YAML 9.9\n", "---\n", "...\n", "? "),
    *("<<: ", "@", "`", "\\", "=", ".", "..", "/", "-", "~", "null", "nan", "1e999", "0x", "0o9", "1:30", "é", "name: "),
    *("\U0001f4a5", "9" * 400),
)


@st.composite
def scrambled(draw: Draw, text: str, most: int = 4) -> str:
    """A text with a few signs put in, and pieces taken out, replaced or repeated."""
    for _ in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, len(text)))
        last = first + draw(st.integers(0, 30))
        sign, piece = draw(st.sampled_from(SIGNS) | st.text(max_size=5)), text[first:last]
        often = (piece or sign) * draw(st.sampled_from((2, 3, 70, 1000)))
        text = text[:first] + draw(st.sampled_from((sign + piece, sign + piece, "", sign, often))) + text[last:]
    return text


def encoded(text: str) -> st.SearchStrategy[bytes]:
    """A text as bytes, mostly UTF-8."""
    plain = text.encode("utf-8", "surrogatepass")
    others = (
        b"\xef\xbb\xbf" + plain,
        text.encode("utf-16", "surrogatepass"),
        text.encode("latin-1", "replace"),
        plain + b"\xff",
    )
    return st.sampled_from((plain,) * 12 + others)


@st.composite
def as_yaml(draw: Draw, values: st.SearchStrategy[Any]) -> bytes:
    """Values as a YAML file, sometimes one with slips of the keyboard."""
    text = yaml.safe_dump(draw(values), sort_keys=False, allow_unicode=draw(st.booleans()))
    return draw(encoded(draw(scrambled(text)) if draw(st.integers(0, 2)) == 0 else text))


@st.composite
def words(draw: Draw, keys: list[str], trees: list[Any]) -> str:
    """A word of a command line: mostly ``key=value``, where the value may be what a tree has there."""
    key, tree = draw(st.sampled_from(keys)), draw(st.sampled_from(trees))
    own = next((at(tree, where) for where in places(tree) if where and ".".join(map(str, where)) == key), "x")
    other = st.sampled_from(list(places(tree))).map(lambda where: at(tree, where))
    value = draw(st.just(own) | st.sampled_from(VALUES) | other)
    if draw(st.integers(0, 5)) == 0:
        strange = (f"{key}.x", f".{key}", f"{key}.", "..", key.upper(), f"{key}." * 400 + "x", "a" * 3000, "\x1b", "é", "name")
        key = draw(st.sampled_from(strange))
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    return draw(scrambled(f"{key}={text}", 2)) if draw(st.integers(0, 4)) == 0 else f"{key}={text}"


# ----------------------------------------------------------------------------------------------------------------- bytes


@st.composite
def harmed(draw: Draw, content: bytes, most: int = 4) -> bytes:
    """Bytes that are cut off, or of which a few are other ones; more often at the beginning, where headers are."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, min(len(found), 60)) | st.integers(0, len(found)))
        what = draw(st.sampled_from(("byte", "byte", "byte", "cut", "out", "put", "zeros", "ones")))
        if what == "cut":
            del found[first:]
        elif what == "out":
            del found[first : first + draw(st.integers(1, 40))]
        elif what == "put":
            found[first:first] = draw(st.binary(min_size=1, max_size=8))
        elif what == "byte":
            found[first : first + 1] = draw(st.binary(min_size=1, max_size=1))
        else:
            found[first : first + 4] = (b"\0" if what == "zeros" else b"\xff") * draw(st.integers(1, 4))
    return bytes(found)
