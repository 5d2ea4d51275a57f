"""Networks from their configuration, and from a pair of files without any trainer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from kd.config import InputError
from kd.files import write_text
from kd.lookup import configured, lookup
from kd.networks.network import Network
from kd.plain_yaml import load_yaml
from kd.sealed import KEY, load_tensors, save_tensors, sealed, unsealed


def network_config(values: Any) -> Any:
    """The configuration of a network: plain values as a recipe writes them under ``student``, or a configuration already.

    Raises:
        ConfigError: the name or a key is unknown, or a value wrong.
    """
    return configured(values, "kd.networks", "Network", "network")


def build_network(config: Any, classes: int) -> Network:
    """The network that a configuration names; plain values as a recipe writes them under ``student`` do too.

    Raises:
        ConfigError: a value is wrong, or the backbone, its weights or its stride are not to be had.
    """
    config = network_config(config)
    return lookup("kd.networks", config.name, "Network")(config, classes)


def save_network(network: Network, folder: str | Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write ``name.safetensors`` (weights) and ``name.yaml`` (configuration and facts, of which ``classes`` is a must).

    Raises:
        InputError: it is no network of :mod:`kd.networks` (wrapped by torch.compile or for several devices or not), or the
            facts could not be read again. Nothing is written then.
    """
    network, folder = _unwrapped(network), Path(folder)
    text = _card_text(network, facts)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(network.state_dict(), folder / f"{name}.safetensors")
    write_text(folder / f"{name}.yaml", text)


def _unwrapped(network: Any) -> Network:
    """What torch.compile, DataParallel and DistributedDataParallel wrap."""
    while not isinstance(network, Network):
        inner = getattr(network, "_orig_mod", None) or getattr(network, "module", None)
        if inner is None:
            raise InputError(
                f"network: is a {type(network).__name__}, and only networks of kd.networks can be loaded again by their card; "
                "save others by torch.save(network.state_dict(), path)"
            )
        network = inner
    return network


def _card_text(network: Network, facts: Mapping[str, Any]) -> str:
    """The card as YAML, once it is clear that it can be loaded again."""
    names = facts.get("classes")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InputError(f"facts: classes is {names!r}; give the names of the classes, in order: {{'classes': [...]}}")
    if len(set(names)) != network.classes or len(names) != network.classes:
        raise InputError(f"facts: classes are {list(names)}; the network has {network.classes}, each with a name of its own")
    if "network" in facts:
        raise InputError("facts: has the key network, which is the card's own; call it otherwise")
    card = {"network": network.config.model_dump(mode="json"), **facts, "classes": list(names)}
    try:
        return yaml.safe_dump(sealed(yaml.safe_load(yaml.safe_dump(card, sort_keys=False))), sort_keys=False)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"facts: cannot be written as YAML ({reason}); give numbers, texts, lists and mappings") from None


def read_card(file: Path) -> dict[str, Any]:
    """The card of a saved network: ``network``, ``classes`` and other facts.

    Raises:
        InputError: the file is damaged, or no card.
    """
    try:
        card = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{file}: is damaged ({next(iter(str(error).splitlines()))}); copy it again from the run") from None
    if not isinstance(card, dict) or not isinstance(card.get("network"), dict) or not isinstance(card.get("classes"), list):
        raise InputError(f"{file}: is damaged or no card of a network; it must hold 'network' and 'classes'. Copy it again")
    return unsealed(card, file, f"copy it again from the run, or, where you have changed it on purpose, delete its line {KEY}")


HELD = {
    "student": "a finished run directory holds student.safetensors and student.yaml",
    "best": "a finished run directory holds best.safetensors and best.yaml where evaluation.every was set; else take the last",
}
"""When the files of a name are there."""


VARIANTS: dict[str, tuple[Any, ...]] = {
    "projection": ("1x1", "3x3"),
    "separable": (False, True),
    "pixels": (False, True),
    "normed": (False, True),
}
"""Keys that make a head another one of the same name, with their values."""


def _remedy(network: Network, weights: Path, error: Exception) -> str:
    """What to do about weights that do not fit: the keys of the head that they are of, where that is a variant of this one."""
    reason = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and (changes := _variant(network, load_tensors(weights))):
        own = network.config.model_dump()
        theirs, ours = (" and ".join(_told(key, of[key]) for key in changes) for of in (changes, own))
        keys = ", ".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
        remedy = f"set {keys} under network: there, or copy both files of one run again"
        return f"they are of a head with {theirs}, it has {ours}; {remedy}"
    return f"copy both files of one run again ({reason[:400]}{' ...' if len(reason) > 400 else ''})"


def _told(key: str, value: Any) -> str:
    return f"a {value} projection" if key == "projection" else f"{key} {str(value).lower()}"


def _variant(network: Network, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fewest keys by which a network becomes one that these weights fit; none where no variant does."""
    config = network.config.model_dump(mode="json")
    keys = [key for key in VARIANTS if key in config]
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    options = [dict(zip(keys, values, strict=True)) for values in product(*(VARIANTS[key] for key in keys))]
    changes = [{key: value for key, value in option.items() if config[key] != value} for option in options]
    for change in sorted((change for change in changes if change), key=len):
        with torch.device("meta"):
            other = build_network(network_config({**config, **change, "pretrained": False}), network.classes)
        if shapes == {name: tuple(value.shape) for name, value in other.state_dict().items()}:
            return change
    return {}


def load_network(folder: str | Path, name: str = "student") -> tuple[Network, dict[str, Any]]:
    """A saved network, in eval mode, and its card (``classes`` and other facts). Needs no trainer and no recipe.

    Raises:
        InputError: a file is missing or damaged, or weights and configuration do not fit.
    """
    weights, card_file = Path(folder) / f"{name}.safetensors", Path(folder) / f"{name}.yaml"
    for file in (weights, card_file):
        if not file.is_file():
            raise InputError(f"{file}: is missing; {HELD[name]}")
    card = read_card(card_file)
    network = build_network(network_config({**card["network"], "pretrained": False}), len(card["classes"]))
    try:
        network.load_state_dict(load_tensors(weights, "copy both files of the run again"))
    except (SafetensorError, RuntimeError) as error:
        remedy = _remedy(network, weights, error)
        raise InputError(f"{weights}: does not hold the weights of {card_file.name}; {remedy}") from None
    return network.eval(), card
