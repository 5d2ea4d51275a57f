"""Losses, one a file: ``from kd.losses.overlap import JaccardMetricLoss``. Usable in any code base; no trainer needed."""
