"""Run the production code on golden files: ``python tests/check_golden.py DIRECTORY... [PATTERN]``.

A golden file is an ``.npz`` with ``in_*`` inputs, ``out_*`` outputs computed by published code and a JSON ``meta`` that holds
the hyper-parameters ``hp``. An adapter maps one family of files onto the library. It gets the inputs and ``hp`` and returns the
outputs by name; gradients are taken here: of ``loss`` for every input that has an ``out_grad_<input>``, and of any other scalar
among the outputs for an ``out_grad_<output>_<input>``. A ``.json`` holds the spread of each tensor of a fresh network.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Callable, Collection
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

RECORDED = "out_enqueue_perm_"
"""Random draws of the published code stand among the outputs; for us they are given."""

VALUE, GRADIENT, DOUBLE, SPREAD = 1e-5, 1e-4, 1e-7, 0.03
LOOSER = {"skd_pairwise_official_even": 2e-5, "dsd_even": 5e-5, "dsd_odd": 5e-5}
"""Files with a value that is a difference of nearly equal numbers: DSD's ``csd`` in float32 is 1.3e-5 off its own float64."""
GREY_LEVEL = ("resize_*/image", "resize_*/padded")
"""Outputs where one grey level is no difference: OpenCV interpolates with weights of 11 bits."""


class Result(NamedTuple):
    """Largest differences of one file: relative for values, relative to the largest entry for gradients."""

    name: str
    value: float
    gradient: float
    double: float
    compared: int
    problem: str = ""


def adapter_for(name: str) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None:
    """The adapter with the longest matching prefix."""
    from golden_adapters import ADAPTERS

    fitting = [prefix for prefix in ADAPTERS if name.startswith(prefix)]
    return ADAPTERS[max(fitting, key=len)] if fitting else None


def load(path: Path, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, np.ndarray], dict[str, Any]]:
    """Inputs as tensors (floats of ``dtype``, integers as int64), expected outputs, hyper-parameters."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    given = {key: value for key, value in arrays.items() if key.startswith(("in_", "p_", RECORDED))}
    inputs = {key.removeprefix("in_").removeprefix("out_"): torch.from_numpy(value) for key, value in given.items()}
    expected = {key[4:]: value for key, value in arrays.items() if key.startswith("out_") and key not in given}
    varied = {name for names in slopes(expected, inputs).values() for name in names.values()}
    for name, value in inputs.items():
        if value.is_floating_point():
            inputs[name] = value.to(dtype).requires_grad_(name in varied)
        elif value.dtype != torch.bool:
            inputs[name] = value.long()
    meta = json.loads(str(arrays["meta"]))
    return inputs, expected, {**meta, **meta.get("hp", {})}


def slopes(expected: Collection[str], inputs: Collection[str]) -> dict[str, dict[str, str]]:
    """The gradients among the outputs: for each output that is differentiated, their names, and of each the input."""
    found: dict[str, dict[str, str]] = {}
    for term, name in product(expected, inputs):
        for key in (f"grad_{term}_{name}", f"grad_{name}" if term == "loss" else ""):
            if key in expected:
                found.setdefault(term, {})[key] = name
    return found


def outputs(
    adapter: Callable[..., dict[str, Any]], inputs: dict[str, Tensor], hp: dict[str, Any], expected: Collection[str]
) -> dict[str, Any]:
    """What the library says, gradients included."""
    found = dict(adapter(inputs, hp))
    for term, names in slopes(expected, inputs).items():
        grads = torch.autograd.grad(found[term], [inputs[name] for name in names.values()], retain_graph=True)
        found |= zip(names, grads, strict=True)
    return {name: np.asarray(value.detach() if isinstance(value, Tensor) else value) for name, value in found.items()}


def difference(found: np.ndarray, expected: np.ndarray, allowed: float = 0.0) -> float:
    """Largest difference relative to the largest expected entry; inf for other shapes or a NaN on one side.

    ``allowed`` is what an entry may differ by without being counted.
    """
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    if (np.isnan(found) != np.isnan(expected)).any():
        return float("inf")
    gap = np.abs(np.nan_to_num(found) - np.nan_to_num(expected)).max(initial=0.0)
    gap = 0.0 if gap <= allowed else gap
    scale = np.abs(np.nan_to_num(expected)).max(initial=0.0)
    return 0.0 if gap == 0 else float(gap / scale) if scale else float("inf")


def rounding(slope: np.ndarray, value: np.ndarray) -> float:
    """What a gradient may differ by without being counted: nothing, unless all of it is less than its value is rounded by, as
    where summands cancel."""
    least = float(np.finfo(np.float32).eps * np.abs(value))
    return least if np.abs(slope).max(initial=0.0) <= least else 0.0


def check_spread(path: Path) -> Result:
    """Compare the spread of freshly drawn tensors: standard deviation and largest entry."""
    from golden_adapters import FRESH

    expected = json.loads(path.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    fresh = FRESH[path.stem.rpartition("_")[2]](expected)
    gaps = []
    for name, told in expected.items():
        value = fresh[name].detach()
        found = {"std": value.std(correction=0), "bound": value.abs().max()}
        gaps += [difference(np.asarray(number), np.asarray(told[key])) for key, number in found.items()]
    return Result(path.stem, max(gaps), 0, 0, len(gaps), "beyond tolerance" if max(gaps) > SPREAD else "")


def check(path: Path) -> Result:
    """Compare one file. ``problem`` says what is wrong, if anything."""
    name = path.stem
    if path.suffix == ".json":
        return check_spread(path)
    adapter = adapter_for(name)
    if adapter is None:
        return Result(name, 0, 0, 0, 0, "no adapter: tests/golden_adapters has no prefix for this file")
    inputs, expected, hp = load(path, torch.float32)
    found = outputs(adapter, inputs, hp, expected)
    from golden_adapters import DIFFERS

    keys = [key for key in expected if key in found]
    lacking = [k for k in expected if k not in found and k.removesuffix("_f64") not in found and not _differs(name, k, DIFFERS)]
    if lacking or not keys:
        return Result(name, 0, 0, 0, 0, f"the adapter gives no {', '.join(lacking) or 'output at all'}")
    allowed = {k: float(any(fnmatch.fnmatch(f"{name}/{k}", pattern) for pattern in GREY_LEVEL)) for k in keys}
    value = max((difference(found[k], expected[k], allowed[k]) for k in keys if not k.startswith("grad_")), default=0.0)
    of = {key: term for term, names in slopes(expected, inputs).items() for key in names}
    free = {k: rounding(expected[k], found[of[k]]) if k in of else 0.0 for k in keys}
    gradient = max((difference(found[k], expected[k], free[k]) for k in keys if k.startswith("grad_")), default=0.0)
    double = double_difference(path, adapter, expected)
    limit = LOOSER.get(name, VALUE)
    bad = value > limit or gradient > GRADIENT or double > DOUBLE
    return Result(name, value, gradient, double, len(keys), "beyond tolerance" if bad else "")


def double_difference(path: Path, adapter: Callable[..., dict[str, Any]], expected: dict[str, np.ndarray]) -> float:
    """Largest difference of what was computed in double precision, and kept in it."""
    exact = {key: value for key, value in expected.items() if key.endswith("_f64") and value.dtype == np.float64}
    if not exact:
        return 0.0
    inputs, _, hp = load(path, torch.float64)
    found = adapter(inputs, hp)
    return max(difference(np.asarray(found[key.removesuffix("_f64")].detach()), value) for key, value in exact.items())


def checked(path: Path) -> Result:
    """The same; what cannot be read or computed is a problem of this file alone."""
    try:
        return check(path)
    except Exception as error:  # damage is reported by many types
        return Result(path.stem, 0, 0, 0, 0, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _differs(name: str, key: str, differs: dict[str, str]) -> bool:
    """Whether an output may be left out, because the library defines it otherwise on purpose."""
    return any(fnmatch.fnmatch(f"{name}/{key}", pattern) for pattern in differs)


def main() -> int:
    """Print a line per file; 1 if any failed or none was found."""
    parser = argparse.ArgumentParser(description="Check the library against golden files.")
    parser.add_argument("words", nargs="+", metavar="DIRECTORY... [PATTERN]", help="PATTERN: names of files, e.g. 'jml_*'")
    words = parser.parse_args().words
    pattern = words.pop() if len(words) > 1 and not ("/" in words[-1] or Path(words[-1]).is_dir()) else "*"
    for folder in words:
        if not Path(folder).is_dir():
            print(f"{folder}: is no directory", file=sys.stderr)
            return 1
    found = [path for folder in words for path in sorted(Path(folder).glob("*")) if path.suffix in (".npz", ".json")]
    files = [path for path in found if fnmatch.fnmatch(path.stem, Path(pattern).stem if "." in pattern else pattern)]
    if not files:
        print(f"no golden file {pattern} in {' '.join(words)}", file=sys.stderr)
        return 1
    print(f"{'file':38s} {'value':>9s} {'gradient':>9s} {'float64':>9s} {'outputs':>8s}")
    results = [checked(path) for path in files]
    for result in results:
        numbers = f"{result.value:9.1e} {result.gradient:9.1e} {result.double:9.1e} {result.compared:8d}"
        print(f"{result.name:38s} {numbers} {'FAIL: ' + result.problem if result.problem else 'ok'}")
    failed = [result for result in results if result.problem]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
