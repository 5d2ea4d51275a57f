"""Look at this machine: packages, GPU, disk, data sets, pretrained weights, W&B; say what is missing and what to do."""

from __future__ import annotations

import argparse
import sys

EPILOG = """ok: fine; note: something optional is missing, or worth knowing; problem: training cannot work before it is mended.
Exit codes: 0 no problem, 2 a problem. Set KD_DATA to the folder of your data sets to have them looked at.
"""


def main() -> int:
    """0, or 2 where something essential is broken."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=formatter)
    parser.parse_intermixed_args()
    from students.diagnosis import diagnose

    problems = 0
    for finding in diagnose():
        print(finding, flush=True)
        problems += finding.state == "problem"
    print(f"\n{problems} problems to mend" if problems else "\nfit to train")
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
