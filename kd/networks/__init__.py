"""Networks, one a file: a timm backbone, a head, an auxiliary head. ``DeepLabV3(19, backbone="resnet18d", aux=64)``."""

from kd.networks.build import build_network, load_network, save_network
from kd.networks.deeplabv3 import DeepLabV3
from kd.networks.deeplabv3plus import DeepLabV3Plus
from kd.networks.network import Network
from kd.networks.pspnet import PSPNet
from kd.networks.segformer_mlp import SegFormerMLP
from kd.networks.unet import UNet
from kd.networks.upernet import UPerNet

__all__ = [
    "DeepLabV3",
    "DeepLabV3Plus",
    "Network",
    "PSPNet",
    "SegFormerMLP",
    "UNet",
    "UPerNet",
    "build_network",
    "load_network",
    "save_network",
]
