"""Data sets from their configuration."""

from __future__ import annotations

from typing import Any

from kd.config import ConfigError
from kd.data.dataset import Dataset
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
    if split in cls.unlabelled:
        raise ConfigError(
            f"evaluation: the labels of {config.name}'s split '{split}' are secret, so it has no scores; evaluate "
            f"{' or '.join(splits)}. To submit {split} to the data set's server, predict its images with `kd predict`"
        )
    if split not in splits:
        other = "val" if "val" in splits else splits[-1] if splits else "SPLIT"
        raise ConfigError(
            f"evaluation: {config.name} has no split '{split}'; its splits are {', '.join(splits)}. Say "
            f"evaluation.report={other} (and evaluation.select={other}) to measure on one that is there"
        )
    data: Dataset = cls(config, split)
    if len(data) == 0:
        raise ConfigError(f"data: the split '{split}' of {config.name} is empty; check data.root and the split's list")
    return data if getattr(config, "store", None) is None else from_store(data, config, split)
