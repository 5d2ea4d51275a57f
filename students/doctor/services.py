"""What training needs from outside the machine's own packages: data sets, pretrained weights, Weights & Biases."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kd.files import at_home
from kd.reachability import reachable
from students.doctor.finding import Finding

OR = "or give data.root=DIRECTORY to each run"


def datasets() -> Iterator[Finding]:
    """Which data sets lie below ``$KD_DATA``, and whether they open."""
    from kd.lookup import lookup, options

    base = os.environ.get("KD_DATA")
    if not base:
        yield Finding("note", "data", "KD_DATA is not set", f"set it to the folder of your data sets, {OR}")
        return
    if not at_home(base).is_dir():
        yield Finding("note", "data", f"KD_DATA is {base}, which is no directory", f"correct it, {OR}")
        return
    for name in options("kd.data", "Dataset"):
        cls = lookup("kd.data", name, "Dataset")
        named = isinstance(getattr(cls, "classes", None), tuple)  # a folder's classes are its configuration's
        if named and "root" in cls.Config.model_fields:
            yield _dataset(name, cls)


def _dataset(name: str, cls: Any) -> Finding:
    from kd.config import InputError
    from kd.data.build import open_split

    try:
        config = cls.Config(name=name)
        sizes = [f"{split} {len(open_split(config, split))}" for split in cls.offers(config)]
    except (InputError, OSError, ValueError) as error:
        return Finding("note", "data", f"{name}: {error}")
    return Finding("ok", "data", f"{name}: {', '.join(sizes)} images")


def hub() -> Iterator[Finding]:
    """Where pretrained weights come from."""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    cache = at_home(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")
    cached = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*"))
    shown = f"{len(cached)} models in {cache}" + (f" ({', '.join(cached[:4])}{', ...' * (len(cached) > 4)})" if cached else "")
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        state = "HF_HUB_OFFLINE is set"
    elif reachable(server):
        yield Finding("ok", "hub", f"{server} answers; {shown}")
        return
    else:
        state = f"{server} does not answer within 2 s"
    remedy = "weights beyond these: fill the cache on a machine with network, or give student.pretrained=FILE (or false)"
    yield Finding("note", "hub", f"{state}; {shown}", remedy)


def wandb() -> Iterator[Finding]:
    """Weights & Biases: mode, key, server. Only runs with run.wandb.mode=online need them."""
    from students.tracking import wandb_view

    mode = os.environ.get("WANDB_MODE", "").lower()
    server = wandb_view.server()
    key = "WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else _netrc(urlsplit(server).hostname or "")
    if mode in ("disabled", "offline"):
        yield Finding("note", "wandb", f"WANDB_MODE={mode}: nothing is sent, whatever a recipe says")
    elif not key:
        yield Finding("note", "wandb", f"no key for {server}", "run `wandb login` if runs are to be sent; they work without")
    elif not reachable(server):
        yield Finding("note", "wandb", f"key from {key}, but {server} does not answer", "runs are recorded offline meanwhile")
    else:
        yield Finding("ok", "wandb", f"key from {key}, {server} answers")


def _netrc(host: str) -> str:
    """The netrc file that holds a key for a host, or nothing."""
    usual = [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else usual:
        try:
            if host in netrc.netrc(file).hosts:
                return str(file)
        except (OSError, netrc.NetrcParseError):
            continue
    return ""
