"""Data sets from their configuration."""

from __future__ import annotations

from typing import Any

from kd.config import ConfigError
from kd.data.dataset import Dataset
from kd.data.joined import Joined
from kd.data.store.stored import from_store
from kd.lookup import configured, lookup


def open_split(config: Any, split: str) -> Dataset:
    """One split of the data set that a configuration names; plain values as a recipe writes them under ``data`` do too.

    Raises:
        ConfigError: the data set has no such split, holds nothing, its files are missing, or its store does not fit them.
    """
    config = configured(config, "kd.data", "Dataset", "data")
    cls = lookup("kd.data", config.name, "Dataset")
    splits = cls.offers(config)
    if split in cls.without_labels(config):
        raise ConfigError(
            f"evaluation: {config.name}'s split '{split}' has no labels, or secret ones, and so no scores; evaluate "
            f"{' or '.join(splits)}. `kd predict` predicts images (to be submitted, where the data set has a server); "
            f"unlabelled.splits=[{split}] learns from them"
        )
    if split not in splits:
        other = "val" if "val" in splits else splits[-1] if splits else "SPLIT"
        raise ConfigError(
            f"evaluation: {config.name} has no split '{split}'; its splits are {', '.join(splits)}. Say "
            f"evaluation.report={other} (and evaluation.select={other}) to measure on one that is there"
        )
    return _opened(config, split)


def named_splits(config: Any) -> tuple[str, ...]:
    """The splits with labels, and those without that the configuration itself asks for."""
    cls = lookup("kd.data", config.name, "Dataset")
    return (*cls.offers(config), *(split for split in cls.without_labels(config) if split not in cls.unlabelled))


def open_images(config: Any, split: str) -> Dataset:
    """As :func:`open_split`, also a split without labels, where all labels are 255."""
    config = configured(config, "kd.data", "Dataset", "data")
    free = lookup("kd.data", config.name, "Dataset").without_labels(config)
    return _opened(config, split) if split in free else open_split(config, split)


def _opened(config: Any, split: str) -> Dataset:
    data: Dataset = lookup("kd.data", config.name, "Dataset")(config, split)
    if len(data) == 0:
        raise ConfigError(f"data: the split '{split}' of {config.name} is empty; check data.root and the split's list")
    return data if getattr(config, "store", None) is None else from_store(data, config, split)


def open_training(config: Any, unlabelled: Any = None) -> Dataset:
    """What steps are made of: the split ``train``, and images without labels where the recipe has ``unlabelled``.

    Raises:
        ConfigError: as :func:`open_split`; or a split of unlabelled images is none.
    """
    config = configured(config, "kd.data", "Dataset", "data")
    if unlabelled is None:
        return open_split(config, "train")
    cls = lookup("kd.data", config.name, "Dataset")
    known = (*cls.without_labels(config), *cls.offers(config))
    for split in unlabelled.splits:
        if split not in known:
            hint = "; data.unlabelled=DIR makes one of a folder of images" if "unlabelled" in type(config).model_fields else ""
            told = f"{config.name} has no split '{split}'; its splits are {', '.join(known)}{hint}"
            raise ConfigError(f"unlabelled.splits: {told}")
    labelled = open_split(config, "train") if unlabelled.share < 1 else None
    return Joined(labelled, {split: open_images(config, split) for split in unlabelled.splits}, unlabelled.share)
