"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kd.types import Batch


def fed(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; on a GPU the next one is copied, from pinned memory, while the step on this one runs."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream, ahead = torch.cuda.Stream(device), None
    for batch in batches:
        current = ahead
        with torch.cuda.stream(stream):
            ahead = batch.to(device)
        if current is not None:
            yield current
        torch.cuda.current_stream(device).wait_stream(stream)
        for values in (ahead.image, ahead.target):
            values.record_stream(torch.cuda.current_stream(device))
    if ahead is not None:
        yield ahead
