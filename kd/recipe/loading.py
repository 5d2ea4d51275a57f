"""From words on the command line to a checked recipe: a file, a method beside it, ``key=value`` changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.config import ConfigError
from kd.lookup import lookup
from kd.recipe.channels import RGB, channels_of
from kd.recipe.families import fill
from kd.recipe.library import method_files, recipe_file
from kd.recipe.merging import Origins, Tree, annotated, merge, nested, override, read
from kd.recipe.method_words import spelled_out
from kd.recipe.schema import Recipe, build, plain
from kd.recipe.smoke import shrunk

AUX = "aux_logits"
COMMAND = "command line"
RUN_RECIPE = "recipe.yaml"


@dataclass
class Draft:
    """A recipe before it is checked: its tree, and who set each of its leaves. ``brought`` names the parts of its method."""

    tree: Tree
    origins: Origins
    brought: frozenset[str] = frozenset()
    name: str = "recipe"
    file: Path | None = None

    @property
    def resolved(self) -> bool:
        """Whether a run has written it down; it says all then, and its family only adds to what is put into it now."""
        return self.file is not None and self.file.name == RUN_RECIPE and (self.file.parent / "run.json").is_file()

    def apply(self, settings: Mapping[str, Any], source: str) -> None:
        """Set dotted keys, in the name of ``source``."""
        for key, value in settings.items():
            self.merge(nested(key, value), source)

    def merge(self, change: Mapping[str, Any], source: str = COMMAND) -> None:
        """Merge a nested change, in the name of ``source``."""
        merge(self.tree, deepcopy(dict(change)), self.origins, source)

    def lacks(self, key: str) -> bool:
        """Whether a dotted key means nothing here: of the teacher, the method or images without labels, where there is no
        method, a knob that the method has not, or the weight of a term that is not there."""
        part, dot, rest = key.partition(".")
        if part == "weights" and dot:
            known = [self.tree.get("weights"), self.tree.get("loss")]
            return not any(rest in terms for terms in known if isinstance(terms, Mapping))
        if part == "method" and rest and isinstance(self.tree.get(part), list):
            return True  # whose knob it would be cannot be told
        if part == "method" and rest and isinstance(self.tree.get(part), dict):
            knobs = _fields("kd.methods", self.tree[part], "Method")
            return knobs is not None and rest.partition(".")[0] not in knobs
        if part == "unlabelled":
            return self.tree.get("method") is None
        return bool(dot) and part in ("teacher", "method") and self.tree.get(part) is None

    def build(self) -> Recipe:
        """The recipe.

        Raises:
            ConfigError: a line per problem, each with its dotted path.
        """
        if not (self.brought or self.tree.get("loss") or self.tree.get("method")):
            raise ConfigError(
                f"{self.name}: describes a pair of networks, not how the student is trained; name a method beside it, e.g. "
                f"`kd train {self.name} ce`. Methods: {', '.join(method_files())}"
            )
        if not _is_formed(self.tree):
            return build(self.tree)  # which says where
        _fit_labels(self)
        _fit_heads(self)
        _fit_channels(self)
        fill(self.tree, self.origins, self.file, self._is_new if self.resolved else lambda _: True)
        return build(self.tree)

    def _is_new(self, key: str) -> bool:
        """Whether a dotted key lies in a mapping that the command line has put into the recipe of a run."""
        parts = key.split(".")
        return any(self.origins.get(f"{'.'.join(parts[:end])}.name") == COMMAND for end in range(1, len(parts)))


def draft(name: str | Path, word: str = "", near: Path | None = None) -> Draft:
    """A recipe by name or path, with the method that ``word`` names. One without distillation needs no teacher, and learns
    nothing from images without labels.

    Raises:
        ConfigError: there is no such recipe or method, or the recipe says itself how the student is trained.
    """
    file = recipe_file(name, near)
    tree, origins = read(file)
    if not word:
        return Draft(tree, origins, name=str(name), file=file)
    if own := [f"{key} {_told(tree[key])}" for key in ("method", "loss") if tree.get(key)]:
        raise ConfigError(
            f"{word}: {file} says itself how its network is trained ({', '.join(own)}), and one run has one method; drop "
            f"{word}, or copy the recipe and take loss, method and weights out"
        )
    chosen, sources = spelled_out(word, file)
    merge(tree, chosen, origins, sources)
    if not tree.get("method"):
        merge(tree, {"teacher": None, **({"unlabelled": None} if "unlabelled" in tree else {})}, origins, COMMAND)
    return Draft(tree, origins, frozenset(sources.values()), str(name), file)


def load(
    name: str | Path,
    given: Iterable[str] = (),
    smoke: bool = False,
    default: str = "",
    taught: bool = True,
    normalised: bool = True,
) -> tuple[Recipe, Origins]:
    """A recipe by name or path with what stands beside it on a command line, and who set each key (dotted key to file).

    Args:
        given: at most one method, e.g. ``cwd@cirkd`` or ``kd+at``, and changes ``key=value``.
        smoke: shrink it to a few steps on procedural images, see :func:`shrunk`.
        default: the method of a pair beside which none is named, for callers that only look at its data or networks.
        taught: whether losses, method and teacher matter; if not they are left out, so that a class of somebody else's that
            is not at hand is not missed.
        normalised: whether the student's mean and standard deviation matter, which callers that measure them do without.

    Raises:
        ConfigError: a recipe or method is unknown, a file is no YAML mapping, a change is malformed, a key unknown, or a value
            wrong.
    """
    recipe_file(name)  # before the words beside it are judged: they may stand in the wrong order
    word, changes = sorted_words(given)
    found = draft(name, word)
    if default and not (word or found.tree.get("loss") or found.tree.get("method")):
        found = draft(name, default)
    for change in changes:
        if found.resolved and change.get("family", found.tree.get("family")) != found.tree.get("family"):
            raise ConfigError(
                f"family: {name} is the recipe of a run, which says everything that follows from its family "
                f"({found.tree.get('family', 'none')}); set the keys themselves, or take the recipe that it was made of"
            )
        if word and change.get("teacher") and not found.tree.get("method"):
            raise ConfigError(f"{word} trains without a teacher; drop teacher=, or choose a method that distils")
        found.merge(change)
    if not taught:
        found.merge(dict.fromkeys(("method", "teacher", "labels", "loss", "weights", "unlabelled")))
        found.merge({"loss": {"ce": {"name": "cross_entropy"}}, "weights": {"ce": 1.0}})
    if not normalised:
        found.apply(dict.fromkeys(("student.mean", "student.std"), [0.5] * channels_of(found.tree.get("data"))), "")
    recipe = found.build()
    if smoke:
        found.merge(shrunk(recipe), "smoke")
        for change in changes:
            found.merge({key: value for key, value in change.items() if key != "data"})
        recipe = found.build()
    return recipe, found.origins


def sorted_words(given: Iterable[str]) -> tuple[str, list[Tree]]:
    """The method and the changes among the words beside a recipe; "" where no method is named.

    Raises:
        ConfigError: two methods are named, or a change is malformed.
    """
    texts = list(given)
    methods = [text for text in texts if "=" not in text]
    if len(methods) > 1:
        raise ConfigError(
            f"{' and '.join(methods)}: two methods where one is meant; a run has one. To stack them write {'+'.join(methods)}; "
            "settings are written key=value"
        )
    return "".join(methods), [override(text) for text in texts if "=" in text]


def _told(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_told, value))
    return str(value.get("name") or "+".join(map(str, value))) if isinstance(value, Mapping) else str(value)


def _is_formed(tree: Tree) -> bool:
    """Whether losses, methods and weights are the mappings that they must be."""
    loss, weights, method = (tree.get(key) or {} for key in ("loss", "weights", "method"))
    if not (isinstance(loss, dict) and isinstance(weights, dict) and all(isinstance(term, str) for term in (*loss, *weights))):
        return False
    return all(isinstance(part, dict) for part in (*loss.values(), *(method if isinstance(method, list) else [method])))


def _fit_labels(found: Draft) -> None:
    """Where no pixel has a label there is no task loss: what a word brought goes."""
    asked = found.tree.get("unlabelled") or {}
    if found.brought and found.tree.get("method") and isinstance(asked, dict) and asked.get("share") in (1, 1.0):
        on_labels = [term for term in found.tree.get("loss") or {} if found.origins.get(f"loss.{term}.name") in found.brought]
        found.merge({"loss": dict.fromkeys(on_labels), "weights": dict.fromkeys(on_labels)}, "no labels")


def _fit_heads(found: Draft) -> None:
    """A student without auxiliary head takes no terms on it: what the method brought for that head goes."""
    if not found.brought or _has_auxiliary_head(found.tree.get("student")):
        return
    mine = {key for key, source in found.origins.items() if source in found.brought}
    loss, weights = found.tree.get("loss") or {}, found.tree.get("weights") or {}
    on_it = [term for term in loss if loss[term].get("field") == AUX and f"loss.{term}.field" in mine]
    aux_weights = [term for term in weights if (term in on_it or term.endswith("_aux")) and f"weights.{term}" in mine]
    found.merge({"loss": dict.fromkeys(on_it), "weights": dict.fromkeys(aux_weights)}, "no auxiliary head")
    method = found.tree.get("method")
    if isinstance(method, list):
        found.tree["method"] = [{**_without_head(member), **member} for member in method]
    elif method:
        found.apply({f"method.{key}": value for key, value in _without_head(method).items()}, "no auxiliary head")


def _fit_channels(found: Draft) -> None:
    """A student takes the images that there are, unless somebody has said which it takes."""
    channels, student = channels_of(found.tree.get("data")), found.tree.get("student")
    if channels != RGB and isinstance(student, dict) and "channels" not in student:
        found.apply({"student.channels": channels}, "data.channels")


def _fields(folder: str, part: Any, base: str) -> Mapping[str, Any] | None:
    """The keys of the class that a part names; None where that is none, or one that cannot be found."""
    try:
        return lookup(folder, part["name"], base).Config.model_fields
    except (ConfigError, KeyError, TypeError):
        return None


def _has_auxiliary_head(student: Any) -> bool:
    """True also where nothing tells: a network of the user's own, or one that does not exist."""
    fields = _fields("kd.networks", student, "Network")
    return fields is None or "aux" not in fields or bool(student.get("aux", fields["aux"].default))


def _without_head(method: Mapping[str, Any]) -> dict[str, Any]:
    """The knob that makes a method leave the auxiliary heads alone, where it has one that nobody has set."""
    return {"aux": False} if "aux" in (_fields("kd.methods", method, "Method") or {}) and "aux" not in method else {}


def describe(recipe: Recipe, origins: Origins) -> str:
    """The resolved recipe as YAML; each leaf says where it comes from."""
    return "".join(annotated(plain(recipe), origins))
