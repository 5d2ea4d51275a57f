"""A saved network small enough to know, and how a user calls a tool."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from kd.commands.main import main
from kd.networks.build import build_network, network_config, save_network
from kd.networks.network import Network

ROOT = Path(__file__).parent.parent
NAMES = ("road", "car", "tree", "sky", "sign")
COLOURS = ((128, 64, 128), (0, 0, 142), (107, 142, 35), (70, 130, 180), (220, 220, 0))


def small(classes: int = len(NAMES), seed: int = 0, **knobs: Any) -> Network:
    """An untrained network whose predictions vary over an image."""
    torch.manual_seed(seed)
    values = {"name": "deeplabv3", "backbone": "test_resnet", "pretrained": False, "width": 8, "rates": [1, 2], **knobs}
    network = build_network(network_config(values), classes)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
        network.eval()
        noise = torch.rand(4, network.channels, 8, 8).repeat_interleave(12, 2).repeat_interleave(12, 3)
        network.head.classifier.conv.bias -= network(noise).logits.mean((0, 2, 3))  # no class wins everywhere
    return network


def saved(folder: Path, name: str = "student", **knobs: Any) -> Network:
    """A small network, and its two files in a folder."""
    network = small(**knobs)
    facts = {"classes": list(NAMES[: network.classes]), "colours": [list(colour) for colour in COLOURS[: network.classes]]}
    folder.mkdir(parents=True, exist_ok=True)
    save_network(network, folder, name, {**facts, "fingerprint": "0123456789ab", "step": 7})
    return network


def call(command: str, *words: object, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a command of ``kd`` answers, in this process: imports take longer than most commands run."""
    out, err, here = io.StringIO(), io.StringIO(), Path.cwd()
    with redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ, environment):
        os.chdir(folder or here)
        try:
            code = inside(command, *words)
        finally:
            os.chdir(here)
    return subprocess.CompletedProcess([command, *map(str, words)], code, out.getvalue(), err.getvalue())


def apart(command: str, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for what an environment sets once and for all."""
    line = [sys.executable, "-m", "kd", command, *map(str, words)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(line, capture_output=True, text=True, timeout=200, env=surroundings, check=False)


def inside(command: str, *words: object) -> int:
    """Run a command of ``kd`` in this process; its exit code."""
    return main([command, *map(str, words)])
