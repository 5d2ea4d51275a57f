"""``kd COMMAND ...``: finds the command's file, reads its command line, runs it."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

COMMANDS = (
    "init",
    "train",
    "launch",
    "evaluate",
    "predict",
    "export",
    "sweep",
    "table",
    "report",
    "verify",
    "demo",
    "recipes",
    "compare-recipes",
    "protocols",
    "methods",
    "check-method",
    "new-method",
    "check-data",
    "prepare",
    "cost",
    "calibrate",
    "cache-teacher",
    "benchmark",
    "doctor",
    "replay-wandb",
    "schema",
)
"""In the order of ``kd --help``. Each is a file of this folder with ``configure(parser)`` and ``run(options)``."""
EPILOG = """`kd COMMAND --help` tells the options of each, with examples. Exit codes: 0 done, 2 bad input (the message says what
to do), 75 stopped by a signal or Ctrl-C and resumed by the same command, 130 stopped by Ctrl-C with nothing to resume.

Completion of commands, recipes, methods and keys in bash: eval "$(register-python-argcomplete kd)"; zsh and fish: see
https://kislyuk.github.io/argcomplete.
"""
FORMATTER = partial(argparse.RawDescriptionHelpFormatter, max_help_position=24, width=120)


def main(words: Sequence[str] | None = None) -> int:
    """The exit code."""
    words = sys.argv[1:] if words is None else list(words)
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    if not words or words[0] in ("-h", "--help"):
        overview().print_help()
        return 0 if words else 2
    if words[0] == "--version":
        print(_version())
        return 0
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`kd --help` tells what each does."
        print(f"error: {words[0]} is no command; {hint} Commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = _module(words[0])
    parser = _described(argparse.ArgumentParser, module, prog=f"kd {words[0]}")
    parse = parser.parse_args if getattr(module, "VERBATIM", False) else parser.parse_intermixed_args
    return _run(module, parse(words[1:]))


def overview(whole: bool = False) -> argparse.ArgumentParser:
    """Of all commands, for the help and, ``whole``, for completion; parses nothing: sub-commands mix no words and options."""
    about = "Knowledge distillation for semantic segmentation: train, compare, deploy."
    parser = argparse.ArgumentParser(prog="kd", description=about, epilog=EPILOG, formatter_class=FORMATTER)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name in COMMANDS:
        module = _module(name)
        add = partial(_described, commands.add_parser, module) if whole else commands.add_parser
        add(name=name, help=re.split(r"[:;]", module.__doc__.strip())[0].rstrip("."))
    return parser


def _described(make: Any, module: Any, **facts: Any) -> Any:
    parser = make(**facts, description=module.__doc__, epilog=getattr(module, "EPILOG", None), formatter_class=FORMATTER)
    module.configure(parser)
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(f"kd.commands.{name.replace('-', '_')}")


def _complete() -> None:
    import argcomplete

    argcomplete.autocomplete(overview(whole=True), always_complete_options=False)


def _version() -> str:
    try:
        from importlib import metadata

        return f"kd {metadata.version('segmentation-kd')}"
    except ModuleNotFoundError:
        return "kd (not installed)"


def _run(module: Any, options: argparse.Namespace) -> int:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # so that package.module:Class is found beside the user; last, it hides nothing
    from kd.config import exit_code

    codes: list[int | None] = []
    return exit_code(lambda: codes.append(module.run(options))) or codes.pop() or 0
