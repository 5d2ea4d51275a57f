"""What the published code does, item by item, beside what the recipes here do (Markdown)."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd protocols                      all families
  kd protocols jdt
  kd protocols --output PROTOCOLS.md
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="only these (default: all)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it here instead of printing it")


def run(options: argparse.Namespace) -> None:
    """Print or write."""
    from kd.config import InputError
    from kd.files import write_text
    from kd.recipe.protocols import Protocols, markdown, read_protocols

    known = read_protocols().families
    if unknown := [name for name in options.families if name not in known]:
        raise InputError(f"{unknown[0]}: is no family whose protocol is written down; families: {', '.join(known)}")
    text = markdown(Protocols(families={name: known[name] for name in options.families or known}))
    if options.output:
        write_text(options.output, text)
    else:
        print(text, end="")
