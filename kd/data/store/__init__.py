"""Decoded samples in files that are mapped into memory: ``kd prepare RECIPE --store DIR``, then ``data.store=DIR``."""
