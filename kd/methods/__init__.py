"""Distillation methods, one a file, and the protocol: ``CWD(student.sizes, teacher.sizes, temperature=4.0)``."""

from kd.methods.afdcd import AfDCD
from kd.methods.at import AT
from kd.methods.attnfd import AttnFD
from kd.methods.build import build_method
from kd.methods.cirkd import CIRKD
from kd.methods.cwd import CWD
from kd.methods.dist import DIST
from kd.methods.fitnet import FitNet
from kd.methods.ifvd import IFVD
from kd.methods.jml_kd import JmlKd
from kd.methods.kd import KD
from kd.methods.maskd import MasKD
from kd.methods.method import Method
from kd.methods.several import Several
from kd.methods.skd import SKD

__all__ = [
    "AT",
    "CIRKD",
    "CWD",
    "DIST",
    "IFVD",
    "KD",
    "SKD",
    "AfDCD",
    "AttnFD",
    "FitNet",
    "JmlKd",
    "MasKD",
    "Method",
    "Several",
    "build_method",
]
