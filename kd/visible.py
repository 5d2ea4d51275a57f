"""Text in which nothing acts: names may be anybody's, and a terminal obeys what it is shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, colour or rename a terminal, end lines where none is seen to end, or turn the writing round;
and halves of characters, of file names that are no UTF-8. Line feeds and tabs are not among them."""


def visible(text: str) -> str:
    """The text with such characters written out, ``\\u001b``, as JSON does."""
    return ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextmanager
def only_visible() -> Iterator[None]:
    """Within the block what is printed is visible."""
    with redirect_stdout(sys.stdout and Shown(sys.stdout)):
        yield


class Shown:
    """A stream that is written to in visible text, and else is what it was."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """As the stream does."""
        self.stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
