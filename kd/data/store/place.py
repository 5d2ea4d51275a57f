"""Where a store keeps what: ``DIR/store.json`` says of which data it is, ``DIR/SPLIT/NAME.MARK`` is a sample.

The mark changes with name, size and time of the files that a sample was read from, so what is there is valid.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from kd.config import ConfigError, shown
from kd.content import described
from kd.data.dataset import Dataset
from kd.sealed import read_sealed

NOTE = "store.json"
VERSION = 1
"""Of what is written; another one when data sets are read otherwise than before."""


def description(config: Any) -> dict[str, Any]:
    """What decides, beside the files themselves, which pixels and labels a data set holds."""
    return {"version": VERSION, **described(config)}


def differences(folder: Path, config: Any) -> str:
    """In which keys the store is of other data; "" where in none.

    Raises:
        InputError: its note is damaged.
    """
    found, wanted = read_sealed(folder / NOTE), description(config)
    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return ", ".join(f"data.{key} {shown(found.get(key))} instead of {shown(wanted.get(key))}" for key in keys)


def sample_file(folder: Path, split: str, data: Dataset, index: int) -> Path:
    """Where a sample is stored.

    Raises:
        ConfigError: the data set does not say which files it reads.
        OSError: one of them is missing.
    """
    files = [path for path in data.files(index)[:2] if path is not None]
    if not files:
        raise ConfigError(
            f"data.store: {type(data).__name__} does not say which files a sample is read from (Dataset.files), so a store "
            "could not be told from a stale one; leave data.store out"
        )
    facts = [(path.name, path.stat().st_size, int(path.stat().st_mtime)) for path in files]
    mark = hashlib.blake2b(repr(facts).encode(), digest_size=6).hexdigest()
    return folder / split / f"{data.identity(index)}.{mark}"
