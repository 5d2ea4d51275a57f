"""Student, task loss and method as one module: the only thing that is wrapped for several processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kd.config import ConfigError
from kd.losses.build import build_loss
from kd.losses.label_smoothing import LabelSmoothing
from kd.losses.loss import Loss, Maps, checked_labels, maps
from kd.losses.mixture import Mixture, check_weights
from kd.methods.build import build_method
from kd.methods.method import Method
from kd.networks.network import Network
from kd.networks.sync_batch_norm import synchronise
from kd.recipe.schema import Recipe
from kd.recipe.unlabelled import Unlabelled
from kd.types import Batch, Outputs, Sizes
from students.progress import say
from students.separation import separated


class Objective(nn.Module):
    """``objective(batch, teacher_outputs) -> {term: scalar}``, un-weighted.

    Raises:
        ConfigError: the pair does not fit the method, a term comes from both loss and method, or a weight has no term.
    """

    def __init__(
        self,
        student: Network,
        task: Mixture | None,
        labels: LabelSmoothing | None,
        method: Method | None,
        maps: Maps = "auto",
        unlabelled: Unlabelled | None = None,
    ) -> None:
        super().__init__()
        self.student, self.task, self.labels, self.method, self.maps = student, task, labels, method, maps
        self.unlabelled = unlabelled
        self.rests = False

    def forward(self, batch: Batch, teacher: Outputs | None = None) -> dict[str, Tensor]:
        """All terms of one batch; in a stage where the student rests it does not look, and there is no task loss."""
        outputs = None if self.rests else self._looked_at(batch.image)
        if self.unlabelled is not None:
            batch, teacher = separated(batch, teacher, self.unlabelled)
        with maps(self.maps), checked_labels():  # the loader has looked at every crop
            return self._terms(outputs, batch, teacher)

    def synchronise(self, device: torch.device, processes: int = 0) -> None:
        """Let batch norms be over all processes, see :func:`kd.networks.sync_batch_norm.synchronise`."""
        synchronise(self.student, device, processes=processes)
        if self.method is not None:
            synchronise(self.method, device, twice=True, processes=processes)

    def _looked_at(self, image: Tensor) -> Outputs:
        try:
            return self.student(image)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"schedule.batch: one image of {image.shape[-2]} x {image.shape[-1]} leaves the student's last batch norm one "
                "value, which has no variance; use schedule.batch >= 2 x schedule.accumulate, or larger crops"
            ) from None

    def _terms(self, outputs: Outputs | None, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.task is not None and outputs is not None:
            terms |= self.task.terms(outputs, batch.target, smoothing=self.labels)
        if self.method is not None and teacher is not None:
            terms |= self.method(outputs, teacher, batch.target)
        return terms


def build_objective(recipe: Recipe, student: Network, teacher: Sizes | None) -> Objective:
    """The objective of a recipe; checks pair, terms and weights before anything runs."""
    for term, config in (recipe.loss or {}).items():
        if config.field == "aux_logits" and not student.sizes.aux:
            raise ConfigError(
                f"loss.{term}.field: is aux_logits, but the student has no auxiliary head; set student.aux to its width, or "
                f"loss.{term}=null weights.{term}=null"
            )
    terms = {term: _fitting(term, build_loss(config), student.classes) for term, config in (recipe.loss or {}).items()}
    task = Mixture(terms) if terms else None
    method: Method | None = None
    if recipe.method is not None and teacher is not None:
        crop = recipe.augmentation.crop
        method = build_method(recipe.method, student.sizes.on_crop(*crop), teacher.on_crop(*crop))
        _check_opinions(recipe.unlabelled, teacher)
    names = [*(recipe.loss or {}), *(method.terms if method else ())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"loss.{twice[0]}: the method computes a term of that name itself; set loss.{twice[0]}=null")
    check_weights(names, recipe.weights)
    if method is not None and recipe.unlabelled is not None and recipe.unlabelled.share == 1:
        _check_reached(method, student)
        _check_soft(method, recipe.weights)
    return Objective(student, task, recipe.labels, method, recipe.run.maps, recipe.unlabelled)


def _check_opinions(unlabelled: Unlabelled | None, teacher: Sizes) -> None:
    if unlabelled is not None and not teacher.classes:
        for key, plain in (("confidence", 0), ("temperature", 1)):
            if (value := getattr(unlabelled, key)) != plain:
                raise ConfigError(
                    f"unlabelled.{key}: is {value:g}, but this teacher gives features and knows no classes to be "
                    f"sure of; set it to {plain}, or teach by a pair: teacher={{name: pair, logits: ..., features: ...}}"
                )


HEADS = {
    "logits": ("classifier", "stack it with kd (kd+nfd; fitnet and at bring kd along)"),
    "aux_logits": ("auxiliary head", "set student.aux=0"),
}
"""Of the student: what is idle where nothing reaches these maps, and what to do."""


def _check_reached(method: Method, student: Network) -> None:
    """Where no pixel has a label, the method alone must teach the student's heads. Of a method of the user's own, which may
    read more of the student than of the teacher, the first step will tell."""
    idle = [HEADS[field] for field in HEADS if field in student.sizes.fields and field not in method.needs]
    if idle and all(type(part).__module__.startswith("kd.methods") for part in method.modules() if isinstance(part, Method)):
        heads, remedies = (" and ".join(texts) for texts in zip(*idle, strict=True))
        raise ConfigError(
            f"unlabelled.share: is 1, so that there is no loss on labels, and {method.config.name} does not reach the "
            f"student's {heads}; {remedies}, or lower the share"
        )


def _check_soft(method: Method, weights: Mapping[str, float]) -> None:
    """Where no pixel has a label: there must be terms that need none, and those that do are told."""
    weighed = [term for term in method.terms if weights[term]]
    hard = [term for term in weighed if term in method.hard]
    if hard == weighed:
        raise ConfigError(
            f"unlabelled.share: is 1, so that no pixel has a label, but all terms of the method that have a weight need some "
            f"({', '.join(hard)}); lower the share, or add a method that reads soft labels, e.g. kd"
        )
    lost = f"; {', '.join(hard)} read labels and will be 0" if hard else ""
    say(f"note: unlabelled.share is 1, so that no pixel has a label: there is no loss on labels{lost}")


def _fitting(term: str, loss: Loss, classes: int) -> Loss:
    try:
        loss.check(classes)
    except ValueError as error:
        raise ConfigError(f"loss.{term}: {error}") from None
    return loss
