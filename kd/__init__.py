"""Knowledge distillation for semantic segmentation."""

from typing import Any


def __getattr__(name: str) -> Any:
    """``kd.__version__``, read when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module 'kd' has no attribute '{name}'")
    from importlib import metadata

    return metadata.version("segmentation-kd")
