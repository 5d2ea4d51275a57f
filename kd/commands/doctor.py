"""Look at this machine: packages, GPU, disk, data sets, pretrained weights, W&B; say what is missing and what to do."""

from __future__ import annotations

import argparse

EPILOG = """ok: fine; note: something optional is missing, or worth knowing; problem: training cannot work before it is mended.
Exit codes: 0 no problem, 2 a problem. Set KD_DATA to the folder of your data sets to have them looked at.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line: no options."""


def run(options: argparse.Namespace) -> int:  # noqa: ARG001
    """0, or 2 where something essential is broken."""
    from students.doctor.machine import diagnose

    problems = 0
    for finding in diagnose():
        print(finding, flush=True)
        problems += finding.state == "problem"
    print(f"\n{problems} problems to mend" if problems else "\nfit to train")
    return 2 if problems else 0
