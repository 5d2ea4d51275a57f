"""A teacher from the published weights of CIRKD (https://github.com/winycg/CIRKD) and its relatives, as a network of ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kd.config import ConfigError
from kd.content import ContentPath, file_mark
from kd.files import at_home
from kd.keywords import keywords
from kd.networks.build import build_network, network_config
from kd.networks.weight_files import read_state_dict
from kd.types import Outputs
from teachers.cirkd_names import Weights, architecture, ours
from teachers.class_groups import Groups
from teachers.foreign import by_number
from teachers.teacher import Teacher

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)


class CirkdTeacher(Teacher):
    """A state dict such as ``deeplabv3_resnet101_citys_best_model.pth``; what it is, is read from its names and shapes.

    DeepLabV3 or PSPNet on a ResNet with three convolutions as stem (``_original``: one) or on MobileNetV2, at output stride 8
    and with ``align_corners``. The authors train on BGR images in 0..255 minus a mean, undivided: the first convolution's input
    channels are turned round, and our networks' own normalisation does the rest. Channels have numbers only: Cityscapes' train
    ids, VOC with the background first, that is the data set's order.

    Raises:
        ConfigError: the file is missing, no state dict, of another family, or has another number of classes.
    """

    class Config(Teacher.Config):
        """``path``: the weight file. ``classes`` names the channels in its order (default: the data set's order), or says
        which, by number, make each of the data set's.
        """

        path: ContentPath
        classes: Groups | tuple[str, ...] | None = None

    @keywords(Config)
    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        path = at_home(config.path)
        weights = read_state_dict(path, "teacher.path")
        network, channels = _network(weights, str(path))
        super().__init__(config, by_number(channels, classes, config.classes, str(path)), classes, network.sizes, str(path))
        self.mark = file_mark(path)
        self.network = network.requires_grad_(False)
        self.train(False)

    def answer(self, image: Tensor) -> Outputs:
        """The network's outputs at stride 8."""
        return self.network(image)


def _network(weights: Weights, source: str) -> tuple[Any, int]:
    """Our network with their weights, and its number of classes."""
    try:
        values, channels = architecture(weights)
        scaled = {"mean": [value / 255 for value in reversed(MEAN_BGR)], "std": [1 / 255] * 3}
        network = build_network(network_config({**values, **scaled}), channels)
        renamed = ours(weights)
        stem = next(name for name in network.state_dict() if name.startswith("backbone."))
        renamed[stem] = renamed[stem].flip(1)
        missing, surplus = network.load_state_dict(renamed, strict=False)
    except KeyError as error:
        raise _foreign(source, f"it lacks {error.args[0]}") from None
    except (ValueError, RuntimeError) as error:
        raise _foreign(source, " ".join(str(error).split())[:200]) from None
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or surplus:
        lacking, unknown = (", ".join(names[:2]) or "none" for names in (missing, surplus))
        raise _foreign(source, f"missing: {lacking}; unknown: {unknown}")
    return network, channels


def _foreign(source: str, reason: str) -> ConfigError:
    return ConfigError(
        f"teacher.path: {source} holds no DeepLabV3 or PSPNet of CIRKD on a ResNet or MobileNetV2 ({reason}); give one of its "
        "published weight files, or use another kind of teacher"
    )
