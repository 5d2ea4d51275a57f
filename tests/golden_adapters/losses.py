"""Adapters for the losses, the task losses and the objectives."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kd.losses.cross_entropy import CrossEntropy, cross_entropy
from kd.losses.kl import KL, soft_kl
from kd.losses.label_smoothing import LabelSmoothing, boundary, soften
from kd.losses.mixture import Mixture, weighted_sum
from kd.losses.overlap import JaccardMetricLoss
from kd.methods.jml_kd import JmlKd
from kd.methods.kd import KD
from kd.types import IGNORE, Outputs, Sizes

Inputs = dict[str, Tensor]
HP = dict[str, Any]

JML_NAMES = {
    "mIoUD": "per_batch",
    "mIoUI": "per_image",
    "mIoUC": "per_class",
    "log_loss": "log",
    "active_classes_mode_hard": "active_hard",
    "active_classes_mode_soft": "active_soft",
}


def _jml_knobs(hp: HP) -> dict[str, Any]:
    knobs = {JML_NAMES.get(name, name): value for name, value in hp.items()}
    known = JaccardMetricLoss.Config.model_fields
    knobs = {name: value for name, value in knobs.items() if name in known}
    return {name: value.lower() if isinstance(value, str) else value for name, value in knobs.items()}


def jml(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """JDTLoss."""
    loss = JaccardMetricLoss(**_jml_knobs(hp))
    return {"loss": loss(inputs["logits"], inputs["label"], inputs.get("keep_mask"))}


def _labels(inputs: Inputs, hp: HP) -> Tensor:
    return inputs["label"].where(inputs["label"] != hp["ignore_index"], IGNORE)


def _objective_weights(hp: HP) -> dict[str, float]:
    return {
        "ce": hp["ce_weight"] * hp["main_weight"],
        "ce_aux": hp["ce_weight"] * hp["aux_weight"],
        "jaccard": hp["jdt_weight"],
    }


def _split(terms: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Any]:
    groups = {
        "loss_jdt": [n for n in terms if n.startswith("jaccard")],
        "loss_ce": [n for n in terms if "jaccard" not in n],
    }
    parts = {
        group: weighted_sum({n: terms[n] for n in names}, {n: weights[n] for n in names}) for group, names in groups.items()
    }
    return {"loss": weighted_sum(terms, weights), **parts}


def task_objective(inputs: Inputs, hp: HP, smoothed: bool = False) -> dict[str, Any]:
    """Baseline objective on hard labels, or the teacher's on boundary-smoothed ones."""
    target, keep = _labels(inputs, hp), None
    kind: Any = CrossEntropy
    if smoothed:
        config = LabelSmoothing(epsilon=hp["bls_epsilon"], window=hp["bls_k"])
        target, keep = soften(target, inputs["logits"].shape[1], config)
        kind = KL
    losses = {
        "ce": kind(),
        "ce_aux": kind(field="aux_logits"),
        "jaccard": JaccardMetricLoss(**_jml_knobs(hp | {"ignore_index": IGNORE})),
    }
    outputs = Outputs(inputs["logits"], inputs["aux_logits"])
    return _split(Mixture(losses).terms(outputs, target, keep), _objective_weights(hp))


def jml_kd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The whole JML-KD objective."""
    classes = inputs["logits"].shape[1]
    sizes = Sizes(classes=classes, stride=1, embedding=1, aux=hp["aux"])
    jaccard = {name: value for name, value in _jml_knobs(hp).items() if name != "ignore_index"}
    method = JmlKd(JmlKd.Config(temperature=hp["T"], aux=hp["aux"], jaccard=jaccard), sizes, sizes)
    student = Outputs(inputs["logits"], inputs.get("aux_logits"))
    teacher = Outputs(inputs["teacher_logits"], inputs.get("teacher_aux_logits"))
    hard, soft = hp["label_weight"], hp["teacher_weight"]
    base = _objective_weights(hp)
    weights = {"ce": base["ce"] * hard, "kl": base["ce"] * soft}
    weights |= {"jaccard_hard": base["jaccard"] * hard, "jaccard_soft": base["jaccard"] * soft}
    if hp["aux"]:
        weights |= {"ce_aux": base["ce_aux"] * hard, "kl_aux": base["ce_aux"] * soft}
    return _split(method(student, teacher, _labels(inputs, hp)), weights)


def focal(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """JDT's focal cross-entropy."""
    loss = CrossEntropy(gamma=hp["gamma"], ignore_index=hp["ignore_index"])
    return {"loss": loss(inputs["logits"], inputs["label"])}


def jdt_kl(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """JDT's KL against given probabilities."""
    return {"loss": soft_kl(inputs["logits"], inputs["label"], inputs["keep_mask"], temperature=hp["T"])}


def bls(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Boundary label smoothing."""
    config = LabelSmoothing(epsilon=hp["epsilon"], window=hp["k"])
    ignore = hp["num_classes"]
    soft, _ = soften(inputs["label"], hp["num_classes"], config, ignore)
    return {"boundary": boundary(inputs["label"], hp["k"], ignore), "soft_label": soft}


def task(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Cross-entropy on upsampled logits, with the auxiliary head where there is one."""
    losses = {"ce": CrossEntropy(ignore_index=hp["ignore_index"])}
    weights = {"ce": 1.0}
    if "aux_logits" in inputs:
        losses["ce_aux"] = CrossEntropy(ignore_index=hp["ignore_index"], field="aux_logits")
        weights["ce_aux"] = hp["aux_weight"]
    outputs = Outputs(inputs["logits"], inputs.get("aux_logits"), align_corners=True)
    return {"loss": weighted_sum(Mixture(losses).terms(outputs, inputs["label"]), weights)}


def _kd(inputs: Inputs, temperature: float) -> Tensor:
    classes = inputs["student"].shape[1]
    sizes = Sizes(classes=classes, stride=1, embedding=1, aux=False)
    target = torch.full_like(inputs["student"][:, 0], IGNORE).long()
    method = KD(KD.Config(temperature=temperature), sizes, sizes)
    return method(Outputs(inputs["student"]), Outputs(inputs["teacher"]), target)["kl"]


def kd_cirkd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """The library's own definition."""
    return {"loss": _kd(inputs, hp["temperature"])}


def kd_ifvd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Mean over classes too, no T^2."""
    return {"loss": _kd(inputs, hp["temperature"]) / (inputs["student"].shape[1] * hp["temperature"] ** 2)}


def kd_mmrazor(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Sum over pixels."""
    return {"loss": _kd(inputs, hp["tau"]) * inputs["student"][0, 0].numel()}


def kd_skd(inputs: Inputs, hp: HP) -> dict[str, Any]:
    """Soft cross-entropy, summed over the batch."""
    return {"loss": cross_entropy(inputs["student"], inputs["teacher"].softmax(1)) * len(inputs["student"])}


ADAPTERS = {
    "jml_": jml,
    "jml_objective_hard": task_objective,
    "jml_objective_bls": partial(task_objective, smoothed=True),
    "jmlkd_objective_": jml_kd,
    "jdt_focalce_": focal,
    "jdt_kl_": jdt_kl,
    "bls_": bls,
    "task_": task,
    "kd_cirkd_": kd_cirkd,
    "kd_ifvd_": kd_ifvd,
    "kd_mmrazor_": kd_mmrazor,
    "kd_skd_": kd_skd,
}
