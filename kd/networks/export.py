"""Networks for deployment: ONNX, compared with torch by onnxruntime before the file gets its name."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.config import InputError
from kd.files import write_whole
from kd.networks.network import Network

TOLERANCE = 1e-3
"""The largest difference to torch that passes, in logits or in probability."""


INPUT = "Input 'image': float32 B {} H W{}, values 0 to 1{}; the network normalises it itself."
OUTPUT = (
    "Output 'logits': float32 B K H W, before softmax, at the size of the image.",
    "Output 'probability': float32 B 1 H W, of class 1 of two, at the size of the image.",
)


class Deployed(nn.Module):
    """What is exported: image in, logits at the image's size out; normalisation inside, auxiliary head left out.

    ``image`` float32 ``B 3 H W``, RGB in [0, 1] (or the network's other channels). Returns ``logits`` float32 ``B K H W``; with
    ``binary`` the probability of class 1 of two, ``B 1 H W``: the sigmoid of ``z1 - z0``, which is the softmax.
    """

    def __init__(self, network: Network, binary: bool = False) -> None:
        super().__init__()
        if binary and network.classes != 2:
            raise InputError(
                f"--binary-sigmoid: the network has {network.classes} classes; one channel stands for two: drop the option"
            )
        self.network, self.binary = network, binary

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        outputs = self.network(image)
        logits = outputs.logits
        if self.binary:
            logits = logits[:, 1:] - logits[:, :1]
        logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=outputs.align_corners)
        return logits.sigmoid() if self.binary else logits


class Parity(NamedTuple):
    """Torch and onnxruntime on random images: largest difference, share of pixels with the same class, shapes tried."""

    difference: float
    agreement: float
    shapes: tuple[tuple[int, ...], ...]


def write_onnx(
    network: Network,
    file: Path,
    size: tuple[int, int],
    facts: Mapping[str, Any],
    *,
    dynamic: bool = False,
    binary: bool = False,
) -> Parity:
    """Write ``file``, whose input is a batch of one image of ``size`` (H, W); any batch and size with ``dynamic``.

    ``facts`` (classes, colours, fingerprint ...) become ``metadata_props``; whatever is no text is written as JSON.

    Raises:
        InputError: a package is missing, the network cannot be exported like this, or onnxruntime computes something else.
    """
    onnx = _onnx()
    module = Deployed(network, binary).eval()
    model = _traced(module, size, dynamic)
    told = taken(network.channels, "range" in facts)
    model.doc_string = f"Semantic segmentation. {told} {OUTPUT[binary]}"
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces, with the paths of this machine
    props = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    onnx.helper.set_model_props(model, {**props, "input": told, "output": OUTPUT[binary]})
    onnx.checker.check_model(model)
    parity = compare(module, model.SerializeToString(), _shapes(size, dynamic, network.channels))
    if not parity.difference <= TOLERANCE:
        trouble = (
            "fails at a size tried" if parity.difference == float("inf") else f"is {parity.difference:.2g} off torch's result"
        )
        raise InputError(
            f"{file}: onnxruntime {trouble} (at most {TOLERANCE} passes); nothing is written. Try a fixed --size "
            "without --dynamic, or other versions of torch and onnxruntime"
        )
    write_whole(file, lambda partial: onnx.save(model, partial))
    return parity


def taken(channels: int, ranged: bool = False) -> str:
    """What the input is; ``ranged``: what files hold becomes 0 to 1 by the range that metadata name."""
    return INPUT.format(channels, ", RGB" if channels == 3 and not ranged else "", " made by 'range'" if ranged else "")


def _shapes(size: tuple[int, int], dynamic: bool, channels: int) -> tuple[tuple[int, ...], ...]:
    """What is compared; of a dynamic network also odd sizes, a small one, and other batches."""
    height, width = size
    odd = ((1, height + 17, max(33, width - 31)), (2, height // 2 + 33, width // 2 + 64), (1, 33, 47))
    shapes = ((1, height, width), *(((3, height, width), *odd) if dynamic else ()))
    return tuple((batch, channels, *sides) for batch, *sides in shapes)


def compare(module: nn.Module, model: bytes, shapes: tuple[tuple[int, ...], ...]) -> Parity:
    """Torch against onnxruntime on the CPU, on seeded random images of the shapes; infinity where it fails at one of them."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source = torch.Generator().manual_seed(0)
    difference, same, pixels = 0.0, 0, 0
    for shape in shapes:
        image = torch.rand(shape, generator=source)
        with torch.no_grad():
            expected = module(image)
        try:
            found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
        except Exception:  # onnxruntime fails by types of its own
            return Parity(float("inf"), 0.0, shapes)
        if found.shape != expected.shape:
            return Parity(float("inf"), 0.0, shapes)
        difference = max(difference, (found - expected).abs().max().item())
        classes = [(maps > 0.5) if maps.shape[1] == 1 else maps.argmax(1) for maps in (found, expected)]
        same, pixels = same + int((classes[0] == classes[1]).sum()), pixels + classes[0].numel()
    return Parity(difference, same / pixels, shapes)


def _onnx() -> Any:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--onnx needs {error.name}; install it with: pip install 'segmentation-kd[export]'") from None
    return onnx


def _traced(module: Deployed, size: tuple[int, int], dynamic: bool) -> Any:
    """The ONNX model of a module; the exporter's talk is kept, and told only where it fails."""
    names = {"input_names": ["image"], "output_names": ["probability" if module.binary else "logits"]}
    # an example batch of one would fix the batch
    image = torch.rand(2 if dynamic else 1, module.network.channels, *size, generator=torch.Generator().manual_seed(0))
    shapes = ({0: "batch", 2: "height", 3: "width"},) if dynamic else None
    try:
        with quiet():
            program = torch.onnx.export(module, (image,), dynamo=True, dynamic_shapes=shapes, **names)  # type: ignore[arg-type]
            assert program is not None
            return program.model_proto
    except Exception as error:  # the exporter fails by many types
        reason = " ".join(str(error).split())[:300]
        remedy = "export it for one --size, without --dynamic" if dynamic else "deploy the safetensors instead"
        raise InputError(f"--onnx: {module.network.config.backbone} cannot be exported ({reason}); {remedy}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Neither logging nor warnings nor prints."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
