"""The number format that a device computes in."""

from __future__ import annotations

import torch

from kd.config import ConfigError


def precision(choice: str, device: torch.device) -> torch.dtype:
    """The type that autocast computes in. ``auto``: bf16 on GPUs that have it, fp16 on others, fp32 on the CPU.

    Raises:
        ConfigError: fp16 on the CPU, which has no use for it.
    """
    if choice == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if choice == "fp16" and device.type == "cpu":
        raise ConfigError("schedule.precision: fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]
