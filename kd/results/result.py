"""What ``result.json`` may hold: numbers that can be, under the names that tables and reports read."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kd.config import shown

Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0)]
Percent = Annotated[float, Field(strict=True, ge=0, le=100 + 1e-6, allow_inf_nan=False)]
Word = Annotated[str, Field(strict=True)]


class Open(BaseModel):
    """Further keys may stand there, which came later or belong to nobody."""

    model_config = ConfigDict(extra="allow")


class Reliability(Open):
    """Of each bin of confidence the pixels, and in percent how many are right and how sure the network is."""

    pixels: list[Count]
    accuracy: list[Percent | None]
    confidence: list[Percent | None]

    @model_validator(mode="after")
    def _fits(self) -> Reliability:
        if not len(self.pixels) == len(self.accuracy) == len(self.confidence):
            raise ValueError("has lists of different lengths")
        return self


class Scores(Open):
    """Scores of a split. All that are no whole number are percent; of SCE, a sum over classes, there may be more than 100."""

    miou: Percent | None = Field(alias="mIoU")
    iou: dict[Word, Percent | None] = {}
    absent_but_predicted: Word = ""
    reliability: Reliability | None = None

    @model_validator(mode="after")
    def _are_percentages(self) -> Scores:
        for key, value in (self.model_extra or {}).items():
            most = math.inf if key.startswith("SCE") else 100 + 1e-6
            if isinstance(value, bool) or (isinstance(value, float) and not 0 <= value <= most):
                raise ValueError(f"{key} is {value}, no percentage")
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{key} is {value}, no number of things")
        return self


class Best(Open):
    """The best checkpoint on the selecting split; further keys are splits with its scores."""

    step: Count
    miou: Percent | None = Field(alias="mIoU")
    __pydantic_extra__: dict[str, Scores]


class Told(Open):
    """The teacher, with its scores where it knows the classes."""

    source: Word
    miou: Percent | None = Field(None, alias="mIoU")
    iou: dict[Word, Percent | None] = {}


class Right(Open):
    """Pixels of a class by who is right."""

    both: Count
    teacher: Count
    student: Count
    neither: Count


class Agreement(Open):
    """Where teacher and student are right, on a split."""

    split: Word
    same: Percent | None
    classes: dict[Word, Right]


class Cost(Open):
    """What training has taken."""

    seconds_per_step: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    accelerator_hours: Amount
    peak_memory_mb: Amount
    __pydantic_extra__: dict[str, Amount | None]


class Environment(Open):
    """Where it ran."""

    device: Word
    device_type: Word
    processes: Count
    threads: Count
    revision: Word | None = None
    __pydantic_extra__: dict[str, str | int | float | bool | list[Any] | None]


class Planned(Open):
    """A point as its sweep has noted it."""

    role: Word = ""
    choices: dict[Word, Word] = {}
    budget_steps: Count | None = None
    calibrated_seconds_per_step: Amount | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Planned:
        if self.calibrated_seconds_per_step and self.budget_steps is None:
            raise ValueError("budget_steps is missing")
        return self


class Result(Open):
    """Of a finished run."""

    status: Literal["finished"]
    fingerprint: Word
    seed: Count
    parts: dict[Word, Word]
    steps: Annotated[int, Field(strict=True, ge=1)]
    selected_on: Word | None
    reported_on: Word | None
    last: dict[Word, Scores]
    best: Best | None
    teacher: Told | None
    agreement: Agreement | None = None
    cost: Cost
    environment: Environment
    code: dict[Word, Word] = {}
    asked: Word = ""

    @model_validator(mode="after")
    def _is_reported(self) -> Result:
        for split in {self.selected_on, self.reported_on} - {None}:
            if split not in self.last:
                raise ValueError(f"last has no scores on {split}")
            if self.best is not None and split not in (self.best.model_extra or {}):
                raise ValueError(f"best has no scores on {split}")
        return self


def problem_of(values: Any, model: type[BaseModel] = Result) -> str:
    """What is wrong with the content of a ``result.json``, or of another file by its model, in a line; "" where nothing is."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        told = "is missing" if first["type"] == "missing" else f"is {shown(first['input'])}, {first['msg']}"
        told = str(first["ctx"]["error"]) if first["type"] == "value_error" else told
        return " ".join(f"{path} {told}".split())
    return ""
