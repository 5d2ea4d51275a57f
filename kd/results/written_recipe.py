"""What tables and reports read of a run's ``recipe.yaml``: as much of its form as they rely on, whoever wrote it and when."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from kd.results.result import Count, Open, Word

Table = dict[Word, Any]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Chosen(Open):
    """Something that is chosen by its name."""

    name: Word
    field: Word = "logits"
    tokens: Word | None = None


class Method(Chosen):
    """A method, or several."""

    members: list[Chosen] = Field(default_factory=list)


class Teacher(Chosen):
    """Where its weights are from; teachers inside it alike."""

    path: Word | None = None
    model: Word | None = None
    backbone: Word | None = None
    checkpoint: Word | None = None
    cache: Word | None = None
    members: list[Teacher] = Field(default_factory=list)
    teacher: Teacher | None = None
    logits: Teacher | None = None
    features: Teacher | None = None

    @model_validator(mode="after")
    def _has_its_parts(self) -> Teacher:
        wanted = {"run": ("path",), "pair": ("logits", "features")}.get(self.name, ())
        if missing := [key for key in wanted if getattr(self, key) is None]:
            raise ValueError(f"{missing[0]} is missing")
        return self


class Student(Chosen):
    """The student's network."""

    backbone: Word | None = None


class Schedule(Open):
    """How long, and of what."""

    steps: Count
    batch: Count
    optimizer: Table = Field(default_factory=dict)


class Augmentation(Open):
    """The crop."""

    crop: list[Count] = Field([], max_length=2)


class Evaluation(Open):
    """What is measured, and how."""

    predictor: Chosen
    limit: Count | None = None
    select: Word
    report: Word


class Unlabelled(Open):
    """Images without labels."""

    splits: list[Word]
    share: Number


class WrittenRecipe(Open):
    """See the module."""

    seed: Count
    data: Chosen
    student: Student
    teacher: Teacher | None = None
    method: Method | None = None
    loss: dict[Word, Chosen] | None = None
    weights: dict[Word, Number] = Field(default_factory=dict)
    labels: Table | None = None
    unlabelled: Unlabelled | None = None
    schedule: Schedule
    augmentation: Augmentation
    evaluation: Evaluation
    run: Table = Field(default_factory=dict)
