"""How a student is trained, by the words that stand beside a recipe: ``ce``, ``cwd@cirkd``, ``ce_jml+kd``.

A word is a file of ``_parts/loss`` or ``_parts/method``. Beside a method that brings no task loss stands cross-entropy.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.config import ConfigError
from kd.lookup import own_name
from kd.recipe.library import comment, method_files
from kd.recipe.merging import Origins, Tree, merge, read

KEYS = ("labels", "loss", "method", "weights")
"""What says how a student is trained, and so what a part may set."""
TASK = "ce"


@dataclass(frozen=True)
class _Part:
    word: str
    tree: Tree
    origins: Origins


def spelled_out(text: str, near: Path | None = None) -> tuple[Tree, Origins]:
    """The keys ``labels``, ``loss``, ``method`` and ``weights`` that a word, or several joined by ``+``, stand for.

    Raises:
        ConfigError: a word is unknown or ambiguous, two are task losses, a method is there twice, or a part sets other keys.
    """
    known, words = method_files(near), [word.strip() for word in text.split("+")]
    if not all(words):
        raise ConfigError(f"'{text}': names no method{' beside a +' if any(words) else ''}; {_options('', known)}")
    parts = [_part(word, known) for word in words]
    losses = [part for part in parts if "method" not in part.tree]
    methods = [part for part in parts if "method" in part.tree]
    if len(losses) > 1:
        names = " and ".join(part.word for part in losses)
        raise ConfigError(f"{text}: {names} are two task losses where one is meant; drop one of them")
    if not losses and not any("loss" in part.tree for part in methods):
        losses = [_part(TASK, known)]
    tree: Tree = {}
    origins: Origins = {}
    for part in [*losses, *(methods if len(methods) < 2 else [_stacked(text, methods)])]:
        merge(tree, part.tree, origins, part.origins)
    return tree, origins


def _part(word: str, known: dict[str, Path]) -> _Part:
    if ":" in word and word not in known:
        raise ConfigError(
            f"'{word}' is a class; beside a recipe stands the name of a preset, _parts/method/NAME.yaml, which holds "
            f'method: {{name: "{word}"}} and the weights of its terms (`kd new-method NAME` writes one)'
        )
    if word not in known:
        raise ConfigError(f"'{word}' is no method here; {_options(word, known)}")
    tree, origins = read(known[word])
    if not tree:
        raise ConfigError(f"{known[word]}: is empty; a method's part sets {', '.join(KEYS)}, e.g. method: {{name: kd}}")
    if others := [key for key in tree if key not in KEYS]:
        raise ConfigError(
            f"{known[word]}: sets {', '.join(others)}; a method's part sets {', '.join(KEYS)} alone, so that rows compare. Put "
            "the rest into a recipe"
        )
    return _Part(word, tree, origins)


def _options(word: str, known: dict[str, Path]) -> str:
    method, _, preset = word.partition("@")
    presets = [name for name in known if name.startswith(f"{method}@")]
    if presets and not preset:
        told = "; ".join(f"{name} ({comment(known[name])})" for name in presets)
        return f"name one of its presets: {told}"
    close = presets or difflib.get_close_matches(word.lower(), known, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Methods: {', '.join(known)}; join several by +, and write settings as key=value"


def _stacked(text: str, parts: Sequence[_Part]) -> _Part:
    """Several methods as the list that a recipe writes; their terms get the methods' names in front."""
    members: list[Any] = []
    tree: Tree = {}
    origins: Origins = {}
    for part in parts:
        own = part.tree["method"]
        members += own if isinstance(own, list) else [own]
        prefix = "" if isinstance(own, list) else f"{own_name(own['name'])}_"
        task = part.tree.get("loss") or {}
        weights = {term if term in task else prefix + term: value for term, value in part.tree.get("weights", {}).items()}
        marks = {f"weights.{term}": _source(part) for term in weights}
        rest = {key: value for key, value in part.tree.items() if key not in ("method", "weights")}
        merge(tree, {**rest, "weights": weights}, origins, {**part.origins, **marks})
    names = [own_name(member["name"]) for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        brings = [part.word for part in parts if isinstance(part.tree["method"], list)]
        told = f" ({brings[0]} brings it along: say {brings[0]} alone)" if brings else ""
        raise ConfigError(f"{text}: {twice[0]} is there twice{told}; a method counts once, its weights can be larger")
    merge(tree, {"method": members}, origins, " + ".join(_source(part) for part in parts))
    return _Part(text, tree, origins)


def _source(part: _Part) -> str:
    return next(source for key, source in part.origins.items() if key.partition(".")[0] == "method")
