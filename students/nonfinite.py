"""What happens when a loss is not finite: stop before the step, leave evidence, name the likely cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd.config import InputError
from kd.distributed import is_main
from kd.files import write_json
from kd.types import IGNORE, Batch, Outputs


class NonFiniteLossError(InputError):
    """A loss became NaN or infinite. The last checkpoint is untouched."""


def diagnose(
    folder: Path,
    step: int,
    terms: Mapping[str, Tensor],
    batch: Batch,
    student: torch.nn.Module,
    teacher: Outputs | None,
    rates: Mapping[str, float],
) -> NonFiniteLossError:
    """Write ``diagnosis.json`` and ``diagnosis_batch.pt`` into the run directory; returns the error to raise."""
    gradients = _gradient_norms(student)
    with torch.no_grad():
        outputs = student.eval()(batch.image)
    report: dict[str, Any] = {
        "step": step,
        "terms": {name: _number(term) for name, term in terms.items()},
        "learning_rates": dict(rates),
        "student_logits": _range(outputs.logits),
        "teacher_logits": None if teacher is None else _range(teacher.logits),
        "parameters": {name: _range(p) for name, p in student.named_parameters() if not torch.isfinite(p).all()},
        "gradient_norms": gradients,
        "label_histogram": _histogram(batch.target),
        "ids": list(batch.ids),
    }
    report["likely_cause"] = _cause(report)
    if is_main():
        write_json(folder / "diagnosis.json", report)
        torch.save(
            {"image": batch.image.cpu(), "target": batch.target.cpu(), "ids": list(batch.ids)},
            folder / "diagnosis_batch.pt",
        )
    bad = ", ".join(name for name, value in report["terms"].items() if isinstance(value, str))
    return NonFiniteLossError(
        f"step {step}: the loss is not finite (terms: {bad or 'all finite, so their sum or its gradient is not'}); "
        f"no step was taken on it. Likely cause: {report['likely_cause']}. Evidence: {folder / 'diagnosis.json'}; "
        "checkpoints are kept"
    )


def _number(value: Tensor) -> float | str:
    number = float(value.detach())
    return number if math.isfinite(number) else str(number)


def _range(values: Tensor) -> dict[str, Any]:
    flat = values.detach().float().flatten()
    finite = flat[flat.isfinite()]
    ends = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
    return {"min": ends[0], "max": ends[1], "not_finite": int((~flat.isfinite()).sum())}


def _gradient_norms(student: torch.nn.Module) -> dict[str, float | str]:
    parts = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in student.named_children()}
    return {name: _number(torch.nn.utils.get_total_norm(grads)) for name, grads in parts.items() if grads}


def _histogram(target: Tensor) -> dict[str, int]:
    values, counts = target.unique(return_counts=True)
    return {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}


def _cause(report: Mapping[str, Any]) -> str:
    """The first explanation that the evidence supports."""
    if report["teacher_logits"] is not None and report["teacher_logits"]["not_finite"]:
        return "the teacher's logits are not finite; check its weights and precision"
    if report["parameters"]:
        return "an earlier step broke the weights; lower the learning rate (schedule.optimizer.lr) or set schedule.clip"
    if report["student_logits"]["not_finite"]:
        return "activations overflow; use schedule.precision=bf16 or fp32, or lower the learning rate"
    if set(report["label_histogram"]) == {str(IGNORE)}:
        return "every pixel of the batch is ignored and a term divides by their number"
    largest = max(abs(report["student_logits"]["min"]), abs(report["student_logits"]["max"]))
    if largest > 1e4:
        return f"the student's logits reach {largest:.1e}; lower the learning rate or set schedule.clip"
    finite = all(not isinstance(value, str) for value in report["terms"].values())
    way = "its gradient (a root or logarithm at 0)" if finite else "its value (a division by 0, an overflow)"
    return f"a term of loss or method itself breaks on this batch, in {way}"
