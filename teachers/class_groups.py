"""Classes of the data set made of a teacher's: which of its channels make each, and their logits."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import Tensor, cat

from kd.config import ConfigError
from kd.types import full_precision
from teachers.foreign import canonical

SHOWN = 20
"""So many of a teacher's classes are offered where a name is wrong."""


def _as_names(value: Any) -> Any:
    """One name stands for a list of one; numbers are the names of channels that have no other."""
    names = value if isinstance(value, (list, tuple)) else [value]
    return tuple(str(name) if isinstance(name, int) else name for name in names)


Names: Any = Annotated[tuple[str, ...], BeforeValidator(_as_names, str | int | list[str | int])]
Groups: Any = dict[str, Names]
"""Classes of the data set, each with the teacher's that make it."""


def channels_of(own: Sequence[str], wanted: Sequence[str], groups: Mapping[str, Sequence[str]], source: str) -> list[list[int]]:
    """For each class of the data set the teacher's channels; of one without an entry the channel of its own name.

    Names agree when they are :func:`teachers.foreign.canonical`-ly equal; a name that several channels have means them all.

    Raises:
        ConfigError: a name is unknown on either side, or a channel would be in two classes.
    """
    for name, theirs in groups.items():
        if name not in wanted:
            close = ", ".join(difflib.get_close_matches(name, wanted, len(wanted), 0.0))
            raise ConfigError(f"teacher.classes: the data set has no class '{name}'; its classes are {close}")
        if not theirs:
            raise ConfigError(f"teacher.classes.{name}: lists nothing; name one or more of the teacher's classes")
    found = [_channels(name, groups.get(name), own, source) for name in wanted]
    _check_once(found, own, wanted)
    return found


def _channels(name: str, listed: Sequence[str] | None, own: Sequence[str], source: str) -> list[int]:
    channels: list[int] = []
    for their in [name] if listed is None else listed:
        same = [number for number, known in enumerate(own) if known == their]
        same = same or [number for number, known in enumerate(own) if canonical(known) == canonical(their)]
        if not same:
            rule = "has no entry and" if listed is None else f"lists '{their}', which"
            options = _closest(their, own)
            raise ConfigError(f"teacher.classes.{name}: {rule} is none of the teacher's ({source}); list some of {options}")
        channels += same
    return channels


def _closest(name: str, own: Sequence[str]) -> str:
    by_letters = {known: difflib.SequenceMatcher(None, canonical(name), canonical(known)).ratio() for known in own}
    names = sorted(by_letters, key=lambda known: -by_letters[known])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _check_once(found: Sequence[Sequence[int]], own: Sequence[str], wanted: Sequence[str]) -> None:
    times = Counter(channel for channels in found for channel in channels)
    channel = next((channel for channel, count in times.items() if count > 1), None)
    if channel is None:
        return
    users = [name for name, channels in zip(wanted, found, strict=True) if channel in channels]
    where = f"twice in {users[0]}" if len(users) == 1 else f"in {' and in '.join(users)}"
    raise ConfigError(
        f"teacher.classes: the teacher's class '{own[channel]}' would be counted {where}; list each once (a class without an "
        "entry takes the teacher's of its own name)"
    )


def merged(logits: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """``B C h w`` to ``B K h w``: the logarithm of the summed exponentials of each group, whose softmax is the sum of the
    groups' probabilities, renormalised where channels are in no group."""
    logits = full_precision(logits)
    return cat([logits[:, group].logsumexp(1, keepdim=True) if len(group) > 1 else logits[:, group] for group in groups], 1)
