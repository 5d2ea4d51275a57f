"""What several data sets need to find their files: list files, files by stem, and the number of images that is official."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kd.config import ConfigError

Count = Literal["official", "any"]
"""Whether a split must have as many images as the published one, or may have any number."""


def read_list(file: Path, data: str, suffixes: Sequence[str]) -> list[str]:
    """The stems that a list file names, each once: its first column, folders and ``suffixes`` dropped.

    A byte order mark, blank lines, blanks around a line and foreign line ends are forgiven.

    Raises:
        ConfigError: the file is missing, no text, or empty.
    """
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in file.parent.glob("*.txt"))) or "none"
        raise ConfigError(f"{file}: is missing; {data} lists its splits in such files (found: {there})")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is no UTF-8 text; save it as UTF-8, one image name a line") from None
    found = stems(text, suffixes)
    if not found:
        raise ConfigError(f"{file}: is empty; it must hold one image name a line")
    return found


def stems(text: str, suffixes: Sequence[str]) -> list[str]:
    """The stems that the lines of a text begin with."""
    names = [Path(line.split()[0]) for line in text.splitlines() if line.strip()]
    return list(dict.fromkeys(name.stem if name.suffix.lower() in suffixes else name.name for name in names))


def by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder that end in one of ``suffixes`` (lower case; the files' case does not matter), by stem."""
    visible = (path for path in sorted(folder.glob("*")) if not path.name.startswith("."))
    return {path.stem: path for path in visible if path.suffix.lower() in suffixes}


def located(folder: Path, names: Sequence[str], suffixes: Sequence[str], what: str = "images") -> list[Path]:
    """The file of each stem.

    Raises:
        ConfigError: some are missing.
    """
    found = by_stem(folder, suffixes)
    missing = [name for name in names if name not in found]
    if missing:
        kinds = " or ".join(suffix for suffix in suffixes if suffix != ".jpeg")
        raise ConfigError(
            f"{folder}: {len(missing)} listed {what} are missing, first {missing[0]} ({kinds}); is the copy complete?"
        )
    return [found[name] for name in names]


def check_count(folder: Path, split: str, found: int, official: int, count: Count) -> None:
    """Refuse a split of another size than the published one.

    Raises:
        ConfigError: naming both numbers; data.count=any accepts the difference.
    """
    if count == "official" and found != official:
        raise ConfigError(
            f"{folder}: split '{split}' has {found} images, the published data set {official}; numbers would not compare. "
            "Complete the copy (`kd prepare`), or accept it with data.count=any"
        )
