"""Which library code answers for which golden files. Adapters hold no formulas, only names and conversions of units."""

from golden_adapters import losses, methods, metrics, newer_methods, protocol, similarity_methods

ADAPTERS = losses.ADAPTERS | methods.ADAPTERS | metrics.ADAPTERS | protocol.ADAPTERS
ADAPTERS |= newer_methods.ADAPTERS | similarity_methods.ADAPTERS
FRESH = protocol.FRESH
DIFFERS = metrics.DIFFERS
