"""Read all files of runs, sweeps and caches: does each hold what was written to it, or has it been damaged since?"""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd verify runs
  kd verify runs/camvid/r18_jml_kd/seed0 runs/sweeps/camvid --json verdict.json

Every file of a run is looked at when it is read, too; this finds damage before it is needed. What to do: a run goes on from the
checkpoint before a damaged one by itself; a finished run whose files are damaged is trained anew, or restored from a copy.
Exit codes: 0 all is as it was written, 2 something is damaged (or bad input).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run directories, or folders of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the verdict here")


def run(options: argparse.Namespace) -> None:
    """Read all, tell."""
    from kd.config import InputError
    from kd.files import write_json
    from students.progress import bar
    from students.verifying import files_below, lines, plain, verify

    files = files_below(options.paths)
    found = verify(bar(files, "verifying"))
    if options.json:
        write_json(options.json, plain(found))
    print("\n".join(lines(found)))
    if found.damaged:
        raise InputError(f"{len(found.damaged)} files are damaged, see above")
