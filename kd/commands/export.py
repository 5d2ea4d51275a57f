"""Export a trained network: ONNX (compared with torch before it is kept), or its weights and card alone."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd export runs/camvid/r18_jml_kd/seed0 --onnx r18.onnx --size 360 480
  kd export runs/camvid/r18_jml_kd/seed0 --onnx r18.onnx --dynamic
  kd export runs/camvid/r18_jml_kd/seed0 --checkpoint best --safetensors deployed

ONNX: input `image` float32 B 3 H W, RGB, values 0 to 1 (the network normalises it itself), of images of other channels B C H W;
output `logits` float32 B K H W at the size of the image. Classes, colours, the range that became 0 to 1 where there is one, and
the recipe's fingerprint are in metadata_props. --onnx needs pip install 'segmentation-kd[export]'. Exit codes: 0, 2 bad input
or onnxruntime computes something else than torch.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("model", type=Path, help="a run directory, or one with student.safetensors and student.yaml")
    parser.add_argument("--onnx", type=Path, metavar="FILE")
    parser.add_argument("--safetensors", type=Path, metavar="DIR", help="write student.safetensors and student.yaml there")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="default: 512 512")
    parser.add_argument("--dynamic", action="store_true", help="any batch, height and width; else one image of --size")
    parser.add_argument("--binary-sigmoid", action="store_true", help="two classes: output the probability of class 1")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    from kd.config import InputError

    if options.onnx is None and options.safetensors is None:
        raise InputError("nothing to write; give --onnx FILE, --safetensors DIR, or both")
    if min(options.size) < 32:
        raise InputError(f"--size is {options.size[0]} {options.size[1]}; both sides must be at least 32 pixels")
    weights = options.safetensors / "student.safetensors" if options.safetensors else None
    for path in (options.onnx, weights):
        if path is not None and path.exists() and not options.overwrite:
            raise InputError(f"{path}: is there already; choose another path, or give --overwrite")
    if weights is not None and weights.parent.resolve() == options.model.resolve():
        raise InputError(f"--safetensors: {options.safetensors} is the model itself; choose another directory")


def run(options: argparse.Namespace) -> None:
    """Load, write, report."""
    check(options)
    from kd.networks.build import load_network, save_network
    from kd.networks.export import write_onnx
    from students.progress import say

    network, card = load_network(options.model, "student" if options.checkpoint == "last" else "best")
    facts = {key: value for key, value in card.items() if key != "network"}
    if options.safetensors:
        options.safetensors.mkdir(parents=True, exist_ok=True)
        save_network(network, options.safetensors, "student", facts)
        print(f"{options.safetensors}: student.safetensors and student.yaml, {len(card['classes'])} classes")
    if options.onnx:
        binary, size = options.binary_sigmoid, tuple(options.size)
        say(f"{options.model}: to ONNX, then onnxruntime is compared with torch; this may take a minute")
        parity = write_onnx(network, options.onnx, size, facts, dynamic=options.dynamic, binary=binary)
        shapes = ", ".join("x".join(map(str, shape)) for shape in parity.shapes)
        print(f"{options.onnx}: {options.onnx.stat().st_size / 1e6:.1f} MB, {'any size' if options.dynamic else 'fixed size'}")
        print(f"onnxruntime against torch on random images ({shapes}):")
        print(f"  largest difference {parity.difference:.2g}, same class at {100 * parity.agreement:.4f} % of the pixels")
