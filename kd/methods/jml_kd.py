"""JML-KD: cross-entropy, KL and Jaccard metric loss on hard labels and on the teacher's soft labels together."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator
from torch import Tensor

from kd.config import ConfigError
from kd.keywords import keywords
from kd.losses.cross_entropy import CrossEntropy, cross_entropy
from kd.losses.kl import KL, soft_kl
from kd.losses.loss import Loss, by_blocks
from kd.losses.overlap import JaccardMetricLoss
from kd.losses.streamed import sums
from kd.methods.maps import heeded
from kd.methods.method import Method
from kd.types import IGNORE, Outputs, Sizes


class JmlKd(Method):
    """The whole objective of Wang, Ning, Blaschko, arXiv 2302.05666; a recipe that uses it sets ``loss: null``.

    All terms act on logits resampled to the labels' resolution, over labelled pixels only (soft ones over those of unlabelled
    images, too). With ``p = softmax(z_t / T)``:
    ``ce = CE(z, y)``, ``kl = T^2 KL(p || softmax(z / T))``, ``jaccard_hard = JML(z, y)``, ``jaccard_soft = JML(z, p)``, and on
    the auxiliary heads ``ce_aux``, ``kl_aux`` (the teacher's auxiliary head teaches the student's; JML sees main heads only).

    Released weights: 0.25 of CE and KL, halved between main and auxiliary head and halved between hard and soft labels, so
    0.0625 each; 0.75 of JML, halved between hard and soft, so 0.375 each; T = 1, smooth = 1. For T != 1 the released code
    tempers the target of ``jaccard_soft`` but not the student; ``temper_student: true`` tempers both.

    Fails where: schedules tuned for cross-entropy are kept: it converges faster, and the authors report that long ones can
    overfit. Their teachers are trained with boundary label smoothing.
    """

    class Config(Method.Config):
        """``jaccard`` holds the knobs of :class:`kd.losses.overlap.JaccardMetricLoss`; ``aux`` uses the auxiliary heads."""

        temperature: float = Field(default=1.0, gt=0)
        temper_student: bool = False
        aux: bool = True
        jaccard: JaccardMetricLoss.Config = JaccardMetricLoss.Config(smooth=1.0)

        @field_validator("jaccard")
        @classmethod
        def _is_the_jaccard_metric_loss(cls, jaccard: Any) -> Any:
            if jaccard.name not in ("", "overlap") or jaccard.ignore_index != IGNORE:
                raise ValueError("is always the Jaccard metric loss over labelled pixels; drop its name and its ignore_index")
            return jaccard

    hard = frozenset({"ce", "ce_aux", "jaccard_hard"})

    @keywords(Config)
    def __init__(self, config: Any, student: Sizes, teacher: Sizes) -> None:
        super().__init__(config, student, teacher)
        for role, sizes in (("student", student), ("teacher", teacher)):
            if config.aux and not sizes.aux:
                raise ConfigError(
                    f"method.aux: is true, but the {role} has no auxiliary head; give it one, or "
                    "train a student without: student.aux=0 (a recipe that names the method itself says method.aux=false "
                    "weights.ce_aux=null weights.kl_aux=null too)"
                )
        self.needs = frozenset({"logits", "aux_logits"} if config.aux else {"logits"})
        self.jaccard = JaccardMetricLoss(**config.jaccard.model_dump())
        try:
            self.jaccard.check(student.classes)
        except ValueError as error:
            raise ConfigError(f"method.jaccard: {error}") from None
        self.ce, self.kl = CrossEntropy(), KL(temperature=config.temperature)

    @classmethod
    def terms_of(cls, config: Any) -> tuple[str, ...]:
        """Those of the auxiliary heads where they are compared, too."""
        return ("ce", "kl", "jaccard_hard", "jaccard_soft", *(("ce_aux", "kl_aux") if config.aux else ()))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """All terms by name."""
        if by_blocks(student.logits) and self.jaccard.summed(True) is not None:
            return self._by_blocks(student, teacher, target)
        size = (int(target.shape[-2]), int(target.shape[-1]))
        keep, heed, temperature = target != IGNORE, heeded(target, teacher, size), self.config.temperature
        logits = student.at(size)
        soft = soft_labels(teacher, size, "logits", temperature)
        tempered = logits / temperature if self.config.temper_student else logits
        terms = {
            "ce": cross_entropy(logits, target, keep),
            "kl": soft_kl(logits, soft, heed, temperature=temperature),
            "jaccard_hard": self.jaccard(logits, target, keep),
            "jaccard_soft": self.jaccard(tempered, soft, heed),
        }
        if self.config.aux:
            aux = student.at(size, "aux_logits")
            terms["ce_aux"] = cross_entropy(aux, target, keep)
            soft_aux = soft_labels(teacher, size, "aux_logits", temperature)
            terms["kl_aux"] = soft_kl(aux, soft_aux, heed, temperature=temperature)
        return terms

    def _by_blocks(self, student: Outputs, teacher: Outputs, target: Tensor) -> dict[str, Tensor]:
        """The same without maps of the labels' resolution. At T = 1 one look at the pixels serves all terms of a head, if all
        have labels."""
        config, terms, labelled = self.config, dict[str, Tensor](), (target, target != IGNORE)
        every = labelled
        if teacher.unlabelled is not None:
            every = target.where(labelled[1], 0), heeded(target, teacher, (int(target.shape[-2]), int(target.shape[-1])))
        tempered = {"kl", "kl_aux", *(["jaccard_soft"] if config.temper_student else [])}
        for field in ("logits", "aux_logits") if config.aux else ("logits",):
            names = [name for name in self.terms if name.endswith("_aux") == (field == "aux_logits")]
            looks: dict[tuple[float, bool], list[str]] = {}
            for name in names:
                own = config.temperature if name in tempered else 1.0
                looks.setdefault((own, name in self.hard or every is labelled), []).append(name)
            for (own, hard), seen_together in looks.items():
                wanted = frozenset[str]().union(*(self._wanted(name) for name in seen_together))
                knobs = {"temperature": config.temperature, "student_temperature": own}
                seen = sums(student, *(labelled if hard else every), wanted, field=field, soft=teacher, **knobs)
                terms |= {name: self._loss(name).from_sums(seen, name in self.hard) for name in seen_together}
        return {name: terms[name] for name in self.terms}

    def _wanted(self, term: str) -> frozenset[str]:
        return self._loss(term).wanted(term in self.hard) or frozenset()

    def _loss(self, term: str) -> Loss:
        return self.jaccard if term.startswith("jaccard") else self.kl if term.startswith("kl") else self.ce


def soft_labels(teacher: Outputs, size: tuple[int, int], field: str, temperature: float) -> Tensor:
    """The teacher's probabilities at the labels' size, ``B K H W``."""
    return (teacher.at(size, field).detach() / temperature).softmax(1)
