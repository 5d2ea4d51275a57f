"""What folders of splits are called, and what for."""

from __future__ import annotations

import re

SPLIT = "{split}"
"""Stands for the folder of a split in a configuration."""
SPLITS = {
    "train": "train training trn",
    "val": "val valid validation dev eval evaluation",
    "test": "test testing tst holdout",
}
"""What folders of splits are called, by what they are for."""


def spelled(words: str) -> str:
    """A pattern of these words, also as in ``01_train`` and ``train_set``; longer ones first."""
    longest = "|".join(sorted(words.split(), key=len, reverse=True))
    return rf"(?:\d+[_-]?)?(?:{longest})(?:[_-]?(?:set|data|split))?"


def purpose(split: str) -> str:
    """``train``, ``val``, ``test``, or "" for the name of a split."""
    return next((role for role, words in SPLITS.items() if re.fullmatch(spelled(words), split.lower())), "")
