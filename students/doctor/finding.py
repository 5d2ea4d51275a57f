"""What an examination of the machine finds."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """``state`` is ok, note (something optional is missing or worth knowing) or problem (training cannot work)."""

    state: str
    topic: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.state:8s} {self.topic:10s} {self.text}"
        return f"{line}\n{'':20s}-> {self.remedy}" if self.remedy else line
