"""Several methods at once: their terms side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from kd.config import ConfigError
from kd.keywords import keywords
from kd.lookup import lookup, named, own_name
from kd.methods.method import Method
from kd.schedules import OptimizerConfig
from kd.types import Outputs, Sizes, Stage


class Several(Method):
    """Terms of all members, named ``<method>_<term>``, e.g. ``cwd_logit`` and ``kd_kl``; a recipe writes
    ``method: [{name: cwd}, {name: kd}]``.

    No published method; for ablations and combinations. Members that train the student in several stages cannot be combined.
    """

    class Config(Method.Config):
        """``members`` are methods as a recipe writes them."""

        members: tuple[named("kd.methods", "Method"), ...] = Field(min_length=1)  # type: ignore[valid-type]

    needs = frozenset()

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        self.members = nn.ModuleDict()
        for member in config.members:
            name = own_name(member.name)
            if name in self.members:
                raise ConfigError(f"method: names {name} twice; give each method once, its weights can be larger")
            self.members[name] = lookup("kd.methods", member.name, "Method").fitted(member, student, teacher)
        staged = [name for name, method in self._all() if len(method.stages) > 1]
        if staged:
            raise ConfigError(
                f"method: {staged[0]} trains in stages of its own and cannot run beside others; for maskd learn its tokens in "
                "a run of its own first and give them as tokens"
            )
        self.needs = frozenset[str]().union(*(method.needs for _, method in self._all()))
        self.terms = tuple(f"{name}_{term}" for name, method in self._all() for term in method.terms)
        self.local = frozenset(f"{name}_{term}" for name, method in self._all() for term in method.local)
        self.hard = frozenset(f"{name}_{term}" for name, method in self._all() for term in method.hard)

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """Those of all members, none where one of them does not tell."""
        members = [(member, lookup("kd.methods", member.name, "Method")) for member in config.members]
        told = [(own_name(member.name), method.terms_of(member)) for member, method in members]
        return tuple(f"{name}_{term}" for name, terms in told for term in terms) if all(terms for _, terms in told) else ()

    def _all(self) -> Any:
        return self.members.items()

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        found = {name: method(student, teacher, target) for name, method in self._all()}
        return {f"{name}_{term}": value for name, terms in found.items() for term, value in terms.items()}

    def players(self) -> Mapping[str, tuple[nn.Module, OptimizerConfig]]:
        """Those of the members."""
        return {f"{name}_{player}": pair for name, method in self._all() for player, pair in method.players().items()}

    def enter(self, stage: Stage) -> None:  # noqa: ARG002
        """Each member enters its only stage."""
        for _, method in self._all():
            method.enter(method.stages[-1])

    def keeps(self) -> Mapping[str, Tensor]:
        """Those of the members."""
        return {key: value for _, method in self._all() for key, value in method.keeps().items()}
