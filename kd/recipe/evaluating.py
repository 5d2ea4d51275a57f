"""The part of a recipe on what is measured."""

from __future__ import annotations

from pydantic import Field, model_validator

from kd.config import Config
from kd.lookup import named

NONE = "none"
"""In place of a split: there is none."""


class Evaluating(Config):
    """``select`` is the split that chooses the best checkpoint, ``report`` the one whose numbers are the result; ``none`` for
    both where nothing has labels, so that nothing can be measured.

    ``every`` steps (0: only at the end); ``limit`` images of ``select`` between (0: all), the final evaluation is always whole.
    What is reported is computed in float32; ``quick`` lets the evaluations in between compute as training does.
    """

    predictor: named("kd.evaluate", "Predictor") = Field(default={"name": "whole"})  # type: ignore[valid-type]
    select: str = "val"
    report: str = "val"
    every: int = Field(0, ge=0)
    limit: int = Field(0, ge=0)
    quick: bool = False
    batch: int = Field(1, ge=1)
    calibration: bool = True

    @model_validator(mode="after")
    def _measures(self) -> Evaluating:
        if (self.select == NONE) != (self.report == NONE):
            raise ValueError(f"select is {self.select} and report {self.report}; name a split for both, or set both to {NONE}")
        if not self.measures and self.every:
            raise ValueError(f"every is {self.every}, but select is {NONE}, so that there is nothing to measure; set every=0")
        return self

    @property
    def measures(self) -> bool:
        """Whether there is a split to measure on."""
        return self.select != NONE
