"""How much is tried: a few faults in the suite, and with KD_FAULTS in the environment, which `make faults` sets, many more."""

from __future__ import annotations

import os

import pytest

FAULTS = bool(os.environ.get("KD_FAULTS"))
SLOW = pytest.mark.skipif(not FAULTS, reason="takes long: make faults")
