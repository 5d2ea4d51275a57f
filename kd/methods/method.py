"""The protocol of a distillation method.

A method is a module that turns the outputs of both networks into named, un-weighted terms. Weights live in the recipe;
routing of gradients is the method's own business (``detach``); the trainer sums, calls backward once and steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd.config import ConfigError, Named
from kd.losses.loss import check_labels, checked_labels, is_hard
from kd.schedules import OptimizerConfig
from kd.types import IGNORE, Outputs, Sizes, Stage

FIELDS = frozenset({"logits", "aux_logits", "embedding", "pyramid"})
"""What a method may need of the teacher."""
OTHER_TEACHER = (
    "choose a teacher that has them (a run of this toolkit does, but not its cache: teacher.cache=null), or a method that "
    "reads logits, such as kd"
)
SECOND_TEACHER = (
    "choose a preset that reads those alone (fitnet@alone, at@alone, cwd_feature@paper), or take the logits of a second "
    "teacher: 'teacher={name: pair, logits: {...}, features: {...}}'"
)
"""What to do where a teacher knows the classes but lacks features, and where it has features alone."""


class Method(nn.Module):
    """Base of the methods.

    ``needs``   the fields of the teacher's ``Outputs`` it reads; a teacher that cannot give them is refused before training
    ``stages``  parts of the schedule; most methods have one
    ``terms``   names of what :meth:`forward` returns, so that weights can be checked before training; where they depend on the
                configuration, :meth:`terms_of` gives them
    ``local``   those of the terms that are, by definition, of the images of one process, so that several processes do not
                compute what one does with all their images
    ``hard``    those of the terms that are 0 where no pixel has a label

    Raises:
        ConfigError: the pair of networks does not fit.
    """

    class Config(Named):
        """Knobs of the method."""

    needs: frozenset[str] = frozenset({"logits"})
    stages: tuple[Stage, ...] = (Stage("distil"),)
    terms: tuple[str, ...] = ()
    local: frozenset[str] = frozenset()
    hard: frozenset[str] = frozenset()

    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__()
        if teacher.classes and student.classes != teacher.classes:
            raise ConfigError(
                f"method: the student has {student.classes} classes, the teacher {teacher.classes}; both must know the same "
                "ones, in the same order"
            )
        self.config = config
        self.student = student
        self.teacher = teacher
        self.terms = self.terms_of(config)

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:  # noqa: ARG003 (for those that override it)
        """The ``terms`` of a configuration, known before any network is built."""
        return cls.terms

    @classmethod
    def fitted(cls, config: Any, student: Sizes, teacher: Sizes) -> Method:
        """The method for a pair of networks, if the teacher gives what it reads.

        Raises:
            ConfigError: it does not, or the pair does not fit otherwise; or a class of the user's own is no method yet.
        """
        if cls.needs is not Method.needs:  # else what is read may be said only when it is built
            cls._check(cls.needs, config, teacher)
        try:
            inspect.signature(inspect.unwrap(cls.__init__)).bind(cls, config, student, teacher)
        except TypeError:
            raise ConfigError(
                f"method: {cls.__name__}.__init__ takes {inspect.signature(cls)}; a method is made of (config, student, "
                "teacher): def __init__(self, config, student, teacher): super().__init__(config, student, teacher)"
            ) from None
        built = cls(config, student, teacher)
        _check_declared(built)
        if not built.terms:
            raise ConfigError(
                f'method: {cls.__name__} names no terms; say which ones its forward returns, e.g. terms = ("cosine",), and '
                "weigh each under weights"
            )
        cls._check(built.needs, config, teacher)
        return built

    @staticmethod
    def _check(needs: frozenset[str], config: Any, teacher: Sizes) -> None:
        if not isinstance(needs, frozenset) or not needs <= FIELDS:
            raise ConfigError(
                f"method: {config.name} needs {needs!r}; give a frozenset of {', '.join(sorted(FIELDS))}, e.g. "
                'frozenset({"logits"})'
            )
        if lacking := sorted(needs - teacher.fields):
            raise ConfigError(
                f"method: {config.name} reads the teacher's {', '.join(lacking)}, but this teacher gives only "
                f"{', '.join(sorted(teacher.fields))}; {OTHER_TEACHER if 'logits' in teacher.fields else SECOND_TEACHER}"
            )

    @property
    def scope(self) -> Literal["global", "process"]:
        """``global``: several processes compute what one does with all their images; ``process``: not all terms do."""
        return "process" if self.local else "global"

    def __call__(self, student: Outputs | None, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """:meth:`forward`, outside autocast: a method computes in float32, see ``kd.methods.maps``.

        Raises:
            TypeError: what the networks gave is no ``Outputs``, or the labels are no integers.
            ValueError: they are of different batches, or a label is neither a class nor 255.
        """
        target = _fitting_labels(student, teacher, target, self.student.classes)
        with torch.autocast(teacher.logits.device.type, enabled=False), checked_labels():
            return super().__call__(student, teacher, target)

    def forward(self, student: Any, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Scalars by name; target int64 ``B H W``, 255 = ignore. Gradient never reaches the teacher's tensors.

        ``student`` is None in a stage that does not train it.
        """
        raise TypeError(f"{type(self).__name__} has no forward; a method returns its terms there")

    def players(self) -> Mapping[str, tuple[nn.Module, OptimizerConfig]]:
        """Modules with an optimizer of their own; all other parameters join the student's optimizer."""
        return {}

    def joint_parameters(self) -> list[nn.Parameter]:
        """Those that are trained with the student, by its optimizer: all but the players'."""
        owned = {id(parameter) for module, _ in self.players().values() for parameter in module.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in owned]

    def enter(self, stage: Stage) -> None:
        """Called when a stage begins, also on resuming inside it."""

    def keeps(self) -> Mapping[str, Tensor]:
        """What other runs may want to load; written as ``method.safetensors`` when the run has finished."""
        return {}


def _check_declared(method: Method) -> None:
    """Refuse what would be silently ignored: layers that torch does not see, and terms that are letters.

    Raises:
        ConfigError: naming the attribute.
    """
    if isinstance(method.terms, str):
        raise ConfigError(f'method: {type(method).__name__}.terms is a text; write a tuple: terms = ("{method.terms}",)')
    for name, value in vars(method).items():
        held = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
        if not name.startswith("_") and any(isinstance(one, (nn.Module, nn.Parameter)) for one in held):
            kind = "ModuleDict" if isinstance(value, dict) else "ModuleList"
            raise ConfigError(
                f"method: {type(method).__name__}.{name} is a {type(value).__name__} of layers, which torch does not see: they "
                f"would never be trained or saved. Write nn.{kind}(...)"
            )


def _fitting_labels(student: Any, teacher: Any, target: Tensor, classes: int) -> Tensor:
    """The labels as int64, once it is clear that all three belong together; ``classes`` where the teacher knows none."""
    for role, outputs in (("student", student), ("teacher", teacher)):
        if not isinstance(outputs, Outputs) and (role == "teacher" or outputs is not None):
            raise TypeError(
                f"{role} is a {type(outputs).__name__}; a method takes what networks of this package give, or "
                "kd.types.Outputs(logits)"
            )
    batches = [len(outputs.logits) for outputs in (student, teacher) if outputs is not None]
    if target.ndim != 3 or set(batches) != {len(target)}:
        raise ValueError(
            f"labels are {tuple(target.shape)}, and the networks looked at {' and '.join(map(str, batches))} images; labels "
            "are B H W, of the same images as both networks' outputs"
        )
    if not is_hard(target):
        raise TypeError(f"labels are {target.dtype}; they are integers: classes, and {IGNORE} for pixels without one")
    labels = target.long()
    check_labels(labels, None, teacher.logits.shape[1] or classes, IGNORE)
    return labels
