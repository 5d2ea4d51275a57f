"""Distillation methods, one a file, and the protocol: ``CWD(student.sizes, teacher.sizes, temperature=4.0)``."""

from kd.methods.afdcd import AfDCD
from kd.methods.at import AT
from kd.methods.attnfd import AttnFD
from kd.methods.build import build_method
from kd.methods.cirkd import CIRKD
from kd.methods.cirkd_v2 import CIRKDv2
from kd.methods.cwd import CWD
from kd.methods.dist import DIST
from kd.methods.dsd import DSD
from kd.methods.fitnet import FitNet
from kd.methods.ifvd import IFVD
from kd.methods.jml_kd import JmlKd
from kd.methods.kd import KD
from kd.methods.maskd import MasKD
from kd.methods.method import Method
from kd.methods.nfd import NFD
from kd.methods.several import Several
from kd.methods.skd import SKD

__all__ = [
    "AT",
    "CIRKD",
    "CWD",
    "DIST",
    "DSD",
    "IFVD",
    "KD",
    "NFD",
    "SKD",
    "AfDCD",
    "AttnFD",
    "CIRKDv2",
    "FitNet",
    "JmlKd",
    "MasKD",
    "Method",
    "Several",
    "build_method",
]
