"""Which library code answers for which golden files. Adapters hold no formulas, only names and conversions of units."""

from golden_adapters import losses, methods, metrics, newer_methods, protocol

ADAPTERS = losses.ADAPTERS | methods.ADAPTERS | metrics.ADAPTERS | newer_methods.ADAPTERS | protocol.ADAPTERS
FRESH = protocol.FRESH
DIFFERS = metrics.DIFFERS
