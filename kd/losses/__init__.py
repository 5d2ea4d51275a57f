"""Losses, one a file; usable in any code base, no trainer needed: ``JaccardMetricLoss(smooth=1.0)(logits, labels)``."""

from kd.losses.build import build_loss
from kd.losses.cross_entropy import CrossEntropy
from kd.losses.kl import KL
from kd.losses.label_smoothing import LabelSmoothing, soften
from kd.losses.loss import Loss
from kd.losses.lovasz import LovaszSoftmax
from kd.losses.mixture import Mixture, weighted_sum
from kd.losses.overlap import JaccardMetricLoss

__all__ = [
    "KL",
    "CrossEntropy",
    "JaccardMetricLoss",
    "LabelSmoothing",
    "Loss",
    "LovaszSoftmax",
    "Mixture",
    "build_loss",
    "soften",
    "weighted_sum",
]
