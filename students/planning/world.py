"""The devices of a plan and the links between them: how long a ring takes to add up gradients."""

from __future__ import annotations

import math

from pydantic import Field

from kd.config import Config, ConfigError, validate

BUCKET, FIRST_BUCKET = 25 * 2**20, 2**20
"""Bytes of gradients that DistributedDataParallel sends at once, and of its first message."""
UNITS = {"within": "GB/s", "between": "GB/s", "latency": "us", "memory": "GiB"}
EXAMPLE = "write e.g. --plan gpus=8,nodes=4,between=11"


class World(Config):
    """``gpus`` processes on each of ``nodes`` machines.

    ``within`` and ``between`` GB/s of the links in a machine and from one to the next, in each direction: 100 is NVLink (PCIe 4
    gives about 12), 3 is 25 GbE (100 GbE gives about 11). ``latency`` us from one process to the next (null: 10 in a machine,
    30 between machines). ``memory`` GiB of a device (null: of the GPU here).
    """

    gpus: int = Field(1, ge=1, le=1024)
    nodes: int = Field(1, ge=1, le=65_536)
    within: float = Field(100.0, gt=0)
    between: float = Field(3.0, gt=0)
    latency: float | None = Field(None, ge=0)
    memory: float | None = Field(None, gt=0)

    @property
    def processes(self) -> int:
        """All of them, a device each."""
        return self.gpus * self.nodes

    @property
    def bandwidth(self) -> float:
        """GB/s of the slowest link of the ring, which all wait for."""
        return self.within if self.nodes == 1 else self.between if self.gpus == 1 else min(self.within, self.between)

    @property
    def delay(self) -> float:
        """Microseconds of a hop."""
        return self.latency if self.latency is not None else 10.0 if self.nodes == 1 else 30.0

    def all_reduce(self, size: float, messages: float = 1) -> float:
        """Seconds in which a ring of ``W`` processes adds up ``size`` bytes, sent in ``messages``.

        ``2 (W - 1) / W * size / bandwidth + 2 (W - 1) * delay * messages``: a message goes around the ring once to be added up
        and once to be handed out, a ``W``-th of it at a time.
        """
        hops = 2 * (self.processes - 1)
        return hops / self.processes * size / (self.bandwidth * 1e9) + hops * self.delay * 1e-6 * messages


def buckets(size: int) -> int:
    """Messages that so many bytes of gradients are sent in."""
    return 0 if not size else 1 + math.ceil(max(0, size - FIRST_BUCKET) / BUCKET)


def parsed(text: str) -> World:
    """A world from ``gpus=8,nodes=4``; numbers may have their unit behind them.

    Raises:
        ConfigError: a key is unknown, twice there or without value, or a value wrong.
    """
    values: dict[str, str] = {}
    for word in text.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"--plan: is '{text}', where '{word}' is no key=value; {EXAMPLE}")
        if key in values:
            raise ConfigError(f"--plan: is '{text}', which says {key} twice; {EXAMPLE}")
        values[key] = value.removesuffix(UNITS.get(key, "")).strip()
    try:
        return validate(World, values, "plan")
    except ConfigError as error:
        raise ConfigError(f"{error}\n{EXAMPLE}") from None
