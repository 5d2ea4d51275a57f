"""From a network and a data set to scores: predictors (one a file, found by file name) and the evaluator."""

from kd.evaluate.build import build_predictor
from kd.evaluate.evaluator import Evaluation, evaluate
from kd.evaluate.multi_scale import MultiScale
from kd.evaluate.predictor import Predictor
from kd.evaluate.sliding import Sliding
from kd.evaluate.tiled import Tiled
from kd.evaluate.whole import Whole

__all__ = [
    "Evaluation",
    "MultiScale",
    "Predictor",
    "Sliding",
    "Tiled",
    "Whole",
    "build_predictor",
    "evaluate",
]
