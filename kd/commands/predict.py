"""Predict images without labels: index PNGs (palette of the class colours), overlays, and probabilities if wanted."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd predict runs/camvid/r18_jml_kd/seed0 photos --output predictions
  kd predict runs/camvid/r18_jml_kd/seed0 'photos/**/*_left.png' --checkpoint best --probabilities
  kd predict runs/cityscapes/r18/seed0 ~/cityscapes/leftImg8bit/test --submission cityscapes
  kd predict runs/cracks/r18_ce/seed0 photos --threshold 0.35    kd evaluate RUN --thresholds tells which one is good
  kd predict runs/fields/r18/seed0 orthophoto.tif --tile 1024
  kd predict exported photo.jpg --predictor '{name: multi_scale, scales: [0.75, 1.0, 1.25]}'

written: OUTPUT/labels/NAME.png (mode P: values are class numbers; OpenCV would turn them into colours, read them with
Pillow), of two classes also masks/NAME.png (0 and 255), overlay/NAME.jpg, legend.png, probabilities/NAME.npz (array
`probabilities`, float16 K H W), predictions.yaml.
All are upright as EXIF says, and as large as the image. Names keep the folders below INPUT. The network computes in float32.
The same command goes on where it was stopped. Exit codes: 0, 2 bad input or some images unreadable (the rest is written).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("model", type=Path, help="a run directory, or one with student.safetensors and student.yaml")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder (searched below) or quoted pattern")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="default: predictions")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--predictor", metavar="YAML", help="e.g. multi_scale; default: the run's own, else whole")
    parser.add_argument("--tile", type=int, metavar="SIDE", help="by overlapping tiles of SIDE pixels: images of any size")
    parser.add_argument("--overlay", action=argparse.BooleanOptionalAction, default=True, help="draw overlays (default: yes)")
    parser.add_argument("--threshold", type=float, metavar="P", help="two classes: the second from this probability on")
    parser.add_argument("--masks", action=argparse.BooleanOptionalAction, help="masks of 0 and 255 (default: for two classes)")
    parser.add_argument("--probabilities", action="store_true", help="also write softmax probabilities (large)")
    parser.add_argument("--submission", metavar="DATA", help="also pack OUTPUT/submission.zip for this data set's server")
    parser.add_argument("--overwrite", action="store_true", help="predict anew what is there; default: skip it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(options: argparse.Namespace) -> None:
    """Load, find the images, predict, report."""
    from kd.config import InputError
    from kd.content import file_mark
    from kd.data.bands import Bands
    from kd.distributed import local_device
    from kd.networks.build import load_network
    from kd.networks.folding import resting
    from students.examining.image_paths import find
    from students.examining.prediction_files import Writer
    from students.examining.predictions import chosen_predictor, predict, server, submit

    items = find(options.inputs, options.output)
    name = "student" if options.checkpoint == "last" else "best"
    network, card = load_network(options.model, name)
    data = server(options.submission, card["classes"], items) if options.submission else None
    device, chosen = local_device(options.device), chosen_predictor(asked(options), options.model)
    mark = file_mark(options.model / f"{name}.safetensors")
    facts = {"model": str(options.model), "checkpoint": options.checkpoint, "weights": mark, "step": card.get("step")}
    facts |= {"predictor": chosen.config.model_dump(mode="json"), "classes": card["classes"], "colours": card.get("colours")}
    binary = check_binary(options, len(card["classes"]))
    facts |= {} if options.threshold is None else {"threshold": options.threshold}
    extras = {
        "masks": binary if options.masks is None else options.masks,
        "overlay": options.overlay,
        "probabilities": options.probabilities,
    }
    kinds = ["labels", *(kind for kind, wanted in extras.items() if wanted)]
    writer = Writer(options.output, facts, kinds, options.overwrite)
    report = predict(resting(network).to(device), chosen, items, writer, device, Bands.of(card))
    skipped = f", {len(report.finished)} were finished before (--overwrite predicts them anew)" if report.finished else ""
    anew = f", {len(report.changed)} of them anew, since the image has changed" if report.changed else ""
    done = f"{len(report.written)} of {len(items)} images predicted{anew}{skipped}"
    print(f"{options.output}: {done}; predictor {chosen.config.name}")
    if report.broken:
        raise InputError(f"{len(report.broken)} of {len(items)} images could not be read, see above; the rest is written")
    if data is not None:
        print(f"{submit(data, items, writer)}: upload this to the server of {options.submission}")


def asked(options: argparse.Namespace) -> str | None:
    """The predictor that the options ask for."""
    from kd.config import InputError

    if options.tile is None:
        return options.predictor
    if options.predictor is not None:
        raise InputError(
            "--tile and --predictor: two ways to look at an image; give one, or '{name: tiled, tile: 1024, overlap: 0.5}'"
        )
    return f"{{name: tiled, tile: {options.tile}}}"


def check_binary(options: argparse.Namespace, classes: int) -> bool:
    """Whether there are two classes, which thresholds and masks of 0 and 255 need."""
    from kd.config import InputError

    asked = [word for word, given in (("--threshold", options.threshold is not None), ("--masks", options.masks)) if given]
    if asked and classes != 2:
        raise InputError(f"{asked[0]}: the network knows {classes} classes, and this is for two; labels/ holds class numbers")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise InputError(f"--threshold: is {options.threshold:g}; it is a probability between 0 and 1, e.g. 0.35")
    return classes == 2
