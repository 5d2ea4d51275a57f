"""What rows and blocks are called, read from resolved recipes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADS = {
    "deeplabv3": "DL3",
    "deeplabv3plus": "DL3+",
    "pspnet": "PSP",
    "unet": "UNet",
    "upernet": "UPer",
    "segformer_mlp": "SegF",
}
DATASETS = {
    "cityscapes": "Cityscapes",
    "voc": "PASCAL VOC",
    "camvid": "CamVid",
    "deepglobe": "DeepGlobe Land",
}
METHODS = {
    "kd": "KD",
    "at": "AT",
    "fitnet": "FitNet",
    "skd": "SKD",
    "ifvd": "IFVD",
    "cwd": "CWD",
    "cirkd": "CIRKD",
    "maskd": "MasKD",
    "dist": "DIST",
    "afdcd": "Af-DCD",
    "attnfd": "AttnFD",
    "dsd": "DSD",
    "nfd": "NFD",
    "cirkd_v2": "CIRKDV2",
    "jml_kd": "JML-KD",
}
"""How papers write them, in the order of the benchmark table's columns."""


def dataset_label(recipe: Mapping[str, Any]) -> str:
    """The name of the data set's file, of a folder that it reads, or of the user's class."""
    data = recipe["data"]
    return Path(data["root"]).name if data["name"] == "folder" and data.get("root") else _own(data["name"])


def student_label(recipe: Mapping[str, Any]) -> str:
    """Head and backbone as tables write them: ``DL3-R18``, ``PSP-R18``, ``DL3-MB2``; other backbones by their own name."""
    student = recipe["student"]
    backbone = str(student.get("backbone", "")).partition(".")[0]
    if matched := re.fullmatch(r"resnet(\d+)[a-z]*", backbone):
        backbone = f"R{matched[1]}"
    elif backbone.startswith("mobilenetv2"):
        backbone = "MB2"
    head = HEADS.get(student["name"], _own(student["name"]))
    return f"{head}-{backbone}" if backbone else head


def teacher_label(recipe: Mapping[str, Any]) -> str | None:
    """The teacher's path without its seed's folder, its model, its backbone, or its kind; None without a teacher. Of a pair the
    last part of whose features they are follows: ``runs/camvid/r50_teacher+vit_small_patch14_dinov2``."""
    teacher = recipe.get("teacher")
    if not teacher:
        return None
    if teacher["name"] == "pair":
        logits, features = (teacher_label({"teacher": teacher[part]}) for part in ("logits", "features"))
        return f"{logits}+{short_teacher(features)}"
    if path := teacher.get("path"):
        return str(Path(path).parent if re.fullmatch(r"seed\d+", Path(path).name) else Path(path))
    return str(teacher.get("model") or teacher.get("backbone") or teacher["name"])


def judged_teacher(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The teacher whose logits are learnt from and scored: of a pair the one that gives them; {} without a teacher."""
    teacher: Mapping[str, Any] = recipe.get("teacher") or {}
    return judged_teacher({"teacher": teacher["logits"]}) if teacher.get("name") == "pair" else teacher


def short_teacher(label: str | None) -> str:
    """The last part of a teacher's path, without fingerprint and seed where a sweep has named it; "" without a teacher."""
    return re.sub(r"-[0-9a-f]{12}-s\d+(?=$|\+)", "", (label or "").rpartition("/")[2])


def pair_label(recipe: Mapping[str, Any]) -> str:
    """Data set, teacher and student: ``camvid/r34_teacher->DL3-R18``; ``camvid/DL3-R18`` without a teacher.

    Of a path only the last part tells, and that without the fingerprint and seed that a sweep puts into it.
    """
    teacher = teacher_label(recipe)
    shown = "" if teacher is None else short_teacher(_own(teacher)) + "->"
    return f"{dataset_label(recipe)}/{shown}{student_label(recipe)}"


def row_label(recipe: Mapping[str, Any]) -> str:
    """The method, a stack as ``kd+cwd``; without one the terms of the loss on the main head: ``ce``, ``ce+jaccard``.

    ``, smoothed labels`` follows where the recipe softens the labels of its loss.
    """
    if method := recipe.get("method"):
        members = method["members"] if method["name"] == "several" else [method]
        label = "+".join(_own(member["name"]) for member in members)
    else:
        terms = recipe.get("loss") or {}
        label = "+".join(name for name, term in terms.items() if term.get("field") != "aux_logits") or "+".join(terms)
    return f"{label}, smoothed labels" if recipe.get("labels") else label


def rank(recipe: Mapping[str, Any]) -> tuple[int, int]:
    """Where a row stands: without a method first, then methods as ``METHODS`` lists them, then others."""
    method = recipe.get("method")
    known = list(METHODS)
    name = method["name"] if method else ""
    return int(bool(method)), known.index(name) if name in known else len(known)


def is_plain(recipe: Mapping[str, Any]) -> bool:
    """Whether nothing but cross-entropy on hard labels trains the student: no method, no other loss."""
    terms = (recipe.get("loss") or {}).values()
    alone = not recipe.get("method") and not recipe.get("labels")
    return alone and all(term["name"] == "cross_entropy" for term in terms)


def _own(name: str) -> str:
    return name.rpartition(":")[2]
