"""Which library code answers for which golden files. Adapters hold no formulas, only names and conversions of units."""

from golden_adapters import losses, methods, metrics, protocol

ADAPTERS = losses.ADAPTERS | methods.ADAPTERS | metrics.ADAPTERS | protocol.ADAPTERS
FRESH = protocol.FRESH
DIFFERS = metrics.DIFFERS
