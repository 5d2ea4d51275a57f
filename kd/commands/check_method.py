"""Test a distillation method, your own or one of the library, on the contract that all methods keep."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kd.commands._completion import methods

EPILOG = """examples:
  kd check-method my_methods:CosineMethod
  kd check-method my_methods:CosineMethod power=2
  kd check-method cosine                            by the name of its preset, _parts/method/cosine.yaml
  kd check-method cwd@cirkd temperature=1

What is looked at, in seconds and on the CPU: terms, gradients, the teacher, ignored pixels, sizes and half precision on random
outputs of two networks; a run of four steps that is resumed after each; two processes. `kd new-method NAME` writes a method to
begin with.
Exit codes: 0 the method keeps the contract, 2 it does not (the last lines say what to do).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    method = parser.add_argument("method", metavar="METHOD", help="package.module:Class, or what may stand beside a recipe")
    method.completer = methods  # type: ignore[attr-defined]
    parser.add_argument("knobs", nargs="*", metavar="key=value", help="knobs of the method, e.g. temperature=4")


def run(options: argparse.Namespace) -> int:
    """Print a line for each rule, those that are broken last."""
    import torch

    from students.contract.contract import examine
    from teachers.load import load_teacher

    torch.set_num_threads(1)  # the maps are tiny
    subject, failed = built(options.method, options.knobs), []
    for verdict in examine(subject, load_teacher):
        if verdict.state == "ok":
            print(verdict, flush=True)
        else:
            failed.append(verdict)
    for verdict in sorted(failed, key=lambda verdict: verdict.state, reverse=True):
        print(verdict)
    broken = sum(verdict.state == "FAILED" for verdict in failed)
    print(f"\n{options.method} breaks {broken} of the rules" if broken else f"\n{options.method} keeps the contract")
    return 2 if broken else 0


def built(word: str, knobs: list[str]) -> Any:
    """What is to be tested.

    Raises:
        InputError: there is no such method or knob, or it cannot be built.
    """
    from kd.blame import blame
    from kd.config import InputError
    from kd.recipe.schema import method_config
    from students.contract.subject import subject

    config = method_config(values(word, knobs))
    try:
        return subject(config)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{word} cannot be built for a pair of networks: {blame(error)}") from error


def values(word: str, knobs: list[str]) -> Any:
    """A method as a recipe writes it."""
    from kd.config import InputError
    from kd.recipe.merging import Tree, merge, override
    from kd.recipe.method_words import spelled_out

    file, _, cls = word.partition(":")
    if file.endswith(".py"):
        module = ".".join(Path(file).with_suffix("").parts)
        raise InputError(
            f"{word}: name the class as Python imports it, {module}:{cls or 'CLASS'}, from a folder above the file"
        )
    tree: Tree = {"method": {"name": word}} if ":" in word else spelled_out(word)[0]
    if not tree.get("method"):
        raise InputError(f"{word}: is a task loss, which needs no teacher; name a method, `kd methods` lists them")
    if knobs and isinstance(tree["method"], list):
        members = ", ".join(member["name"] for member in tree["method"])
        raise InputError(f"{word}: stands for several methods; set knobs of one alone: {members}")
    for knob in knobs:
        merge(tree, override(f"method.{knob.removeprefix('method.')}"), {}, "command line")
    return tree["method"]
