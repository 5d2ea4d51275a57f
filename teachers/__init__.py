"""Teachers, one source a file: they answer a batch with outputs, without gradient, in the data set's order of classes."""

from teachers.augmented import AugmentedTeacher
from teachers.cirkd import CirkdTeacher
from teachers.ensemble import EnsembleTeacher
from teachers.features import FeaturesTeacher
from teachers.fresh import FreshTeacher
from teachers.hf import HfTeacher
from teachers.load import load_teacher
from teachers.pair import PairTeacher
from teachers.run import RunTeacher
from teachers.smp import SmpTeacher
from teachers.teacher import Teacher
from teachers.torchvision import TorchvisionTeacher

__all__ = [
    "AugmentedTeacher",
    "CirkdTeacher",
    "EnsembleTeacher",
    "FeaturesTeacher",
    "FreshTeacher",
    "HfTeacher",
    "PairTeacher",
    "RunTeacher",
    "SmpTeacher",
    "Teacher",
    "TorchvisionTeacher",
    "load_teacher",
]
