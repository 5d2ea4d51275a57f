"""Where the runs of a sweep stand in Weights & Biases."""

from __future__ import annotations

from collections.abc import Iterable

from kd.recipe.schema import Recipe, plain
from kd.results.names import dataset_label, pair_label, student_label


class Groups:
    """Puts a student without teacher into the group of the taught ones, so that a chart of theirs shows the baseline.

    All others stand where their own recipe puts them, see :func:`kd.results.names.pair_label`.
    """

    def __init__(self, students: Iterable[Recipe]) -> None:
        self._taught: dict[tuple[str, str], set[str]] = {}
        for recipe in students:
            if recipe.teacher is not None:
                group = recipe.run.wandb.group or pair_label(plain(recipe))
                self._taught.setdefault(_pupil(recipe), set()).add(group)

    def settings(self, recipe: Recipe, role: str) -> dict[str, str]:
        """Group or job type by dotted key, where the user has set none.

        The baseline stays by itself where students of its data set and network have several teachers, or none.
        """
        asked, groups = recipe.run.wandb, self._taught.get(_pupil(recipe), set())
        if role != "student":
            return {} if asked.job_type else {"run.wandb.job_type": role}
        if recipe.teacher is not None or asked.group or len(groups) != 1:
            return {}
        return {"run.wandb.group": next(iter(groups))}


def _pupil(recipe: Recipe) -> tuple[str, str]:
    values = plain(recipe)
    return dataset_label(values), student_label(values)
