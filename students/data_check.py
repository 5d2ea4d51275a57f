"""A look at the data before a run begins: what can be read, and what can be learned and measured."""

from __future__ import annotations

from collections.abc import Mapping

from kd import distributed
from kd.config import ConfigError, InputError
from kd.data.dataset import Dataset
from kd.data.joined import Joined
from kd.data.presence import check_training, is_unlabelled
from kd.recipe.schema import Recipe
from students.progress import bar, say


def look_at_data(recipe: Recipe, train_data: Dataset, splits: Mapping[str, Dataset]) -> None:
    """Read the first and the last pair of each split, where wrong classes and formats show; then rank 0 looks for classes.

    Raises:
        InputError: a pair cannot be read, or no training image shows one of the classes.
    """
    takes = getattr(recipe.student, "channels", 3)
    for data in (train_data, *splits.values()):
        if (count := len(data.read(0)[0])) != takes:
            raise ConfigError(f"data: images have {count} channels, the student takes {takes}; set student.channels={count}")
        data.read(len(data) - 1)  # of joined data an image without labels
    if getattr(recipe.data, "unlabelled", None) and recipe.unlabelled is None and recipe.method is not None:
        say("note: nothing is learnt from the images of data.unlabelled; unlabelled.share=0.5 makes them half of each batch")
    if problem := distributed.gather(_problem(recipe, train_data, splits) if distributed.is_main() else "")[0]:
        raise ConfigError(problem)


def _problem(recipe: Recipe, train_data: Dataset, splits: Mapping[str, Dataset]) -> str:
    try:
        labelled = train_data.labels if isinstance(train_data, Joined) else train_data
        if recipe.run.absent_classes == "refuse" and labelled is not None:
            check_training(labelled, bar)
        for split, data in splits.items():
            if is_unlabelled(data, bar):
                say(f"note: no pixel of {split} has a label, so nothing can be measured on it: its mIoU will be undefined")
    except InputError as error:
        return str(error)
    return ""
