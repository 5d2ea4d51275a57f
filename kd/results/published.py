"""Published numbers, each with its source and the protocol behind it: ``recipes/published.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from kd.config import Config, ConfigError, validate
from kd.plain_yaml import load_yaml
from kd.recipe.library import library


class Protocol(Config):
    """How a column was trained and measured; two numbers compare only where these agree.

    ``recipes`` are the folders of our recipes that follow it, by data set; a run that differs from them is said to.
    """

    checkpoint: str
    inference: str
    training: str
    initialisation: str
    recipes: dict[str, str] = Field(default_factory=dict)


class Source(Config):
    """Where numbers stand. ``kind``: a paper, a repository's own README, or a user's report in a public thread."""

    title: str
    kind: Literal["paper", "readme", "issue"]
    where: str


class Number(Config):
    """One published mIoU in percent. ``table`` marks the cells of the benchmark table; ``method`` null is the baseline.

    ``keys`` are what it differs in from our recipe of its protocol; ``note`` is told wherever it is quoted.
    """

    dataset: str
    student: str
    method: str | None
    miou: float = Field(gt=0, lt=100)
    source: str
    protocol: str
    split: Literal["val", "test"] = "val"
    teacher: str | None = None
    pretrained: bool = True
    table: bool = False
    note: str = ""
    keys: dict[str, Any] = Field(default_factory=dict)


class Published(Config):
    """All numbers with what they refer to. ``methods`` are the columns of the benchmark table, ``newer`` further ones."""

    methods: tuple[str, ...]
    newer: tuple[str, ...] = ()
    protocols: dict[str, Protocol]
    sources: dict[str, Source]
    numbers: tuple[Number, ...]

    @model_validator(mode="after")
    def _refers(self) -> Published:
        for number in self.numbers:
            for kind, name, known in (
                ("protocol", number.protocol, self.protocols),
                ("source", number.source, self.sources),
                ("method", number.method, {None, *self.methods, *self.newer, "teacher", "kd"}),
            ):
                if name not in known:
                    raise ValueError(f"a number of {number.student} names the {kind} '{name}', which is not listed above")
        return self

    def cell(self, dataset: str, student: str, method: str) -> Number | None:
        """The benchmark table's number, or None where the table has a dash."""
        found = [n for n in self.numbers if n.table and (n.dataset, n.student, n.method) == (dataset, student, method)]
        return found[0] if found else None

    def best_known(self, dataset: str, student: str, method: str, split: str) -> Number | None:
        """The number that stands for all of a method: the benchmark table's, else the first of a paper or README; of students
        that start from ImageNet weights."""
        own = [n for n in self.numbers if (n.dataset, n.student, n.method, n.split) == (dataset, student, method, split)]
        own = [n for n in own if n.pretrained and self.sources[n.source].kind != "issue"]
        return min(own, key=lambda n: not n.table, default=None)


def load_published(file: str | Path | None = None) -> Published:
    """The published numbers of a file (default: the library's ``published.yaml``).

    Raises:
        ConfigError: the file is missing, no YAML mapping, or a number lacks its source or protocol.
    """
    path = library() / "published.yaml" if file is None else file
    try:
        tree: Any = load_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a file like recipes/published.yaml") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no YAML ({next(iter(str(error).splitlines()))}); correct it") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no mapping; it needs methods, protocols, sources and numbers")
    return validate(Published, tree)
