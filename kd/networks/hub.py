"""What is fetched from the Hugging Face hub: a repository as a folder, at one commit; safetensors and settings, never code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kd.config import ConfigError
from kd.reachability import reachable

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
SETTINGS = ("*.json", "*.txt")
WEIGHTS = "*.safetensors"
SECONDS = 10.0
"""So long the hub may think about what a repository holds."""
OFFLINE = "fill the cache on a machine with network, then set HF_HUB_OFFLINE=1"


class Snapshot(NamedTuple):
    """A repository's files in the cache, and the whole name of what they are: ``owner/name@commit``."""

    folder: Path
    source: str


def snapshot(repository: str, revision: str | None = None, files: Sequence[str] = (*SETTINGS, WEIGHTS)) -> Snapshot:
    """A repository at a ``revision``: a commit, a tag or a branch (default: ``main`` as it is today, or is in the cache).

    Only ``files`` are fetched, and what is in the cache already is not fetched again. ``HF_HUB_OFFLINE=1`` uses the cache only,
    and so does a hub that does not answer within seconds.

    Raises:
        ConfigError: there is no such repository or revision, none can be reached, or it holds no safetensors.
    """
    from huggingface_hub import constants, snapshot_download

    if not REPOSITORY.fullmatch(repository):
        raise ConfigError("it is no directory, and no name of a repository on the hub, owner/name")
    apart = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    if not apart and not reachable(constants.ENDPOINT):
        apart = f"{constants.ENDPOINT} does not answer within seconds"
    try:
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(files),
                local_files_only=bool(apart),
                etag_timeout=SECONDS,
            )
        )
    except Exception as error:  # the hub has a class for each way to fail
        asked, told = f"{repository} at {revision or 'main'}", f"{type(error).__name__}: {_line(error)}"
        raise ConfigError(f"{apart}, and the cache does not hold {asked}" if apart else f"{asked}: {told}") from None
    if not any(folder.glob(WEIGHTS)):
        raise ConfigError(
            f"{repository} at {folder.name} holds no safetensors, and pickled weights are never fetched; name a revision that "
            "has them, or look at what you download and give its path"
        )
    return Snapshot(folder, f"{repository}@{folder.name}")


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:160]
