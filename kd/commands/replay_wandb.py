"""Show a run directory in Weights & Biases as one clean run, however often its training was cut or its upload failed."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """examples:
  kd replay-wandb runs/camvid/r18_jml_kd/seed0
  kd replay-wandb runs/camvid/r18_jml_kd/seed0 --mode online --project distillation

Everything comes from the run's own files: config, name, group and tags from recipe.yaml, the history from metrics.jsonl, the
final pictures and the results. Unfinished runs are shown as far as they are. Offline, W&B's files go to RUN/wandb, and the
command that uploads them is printed.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="default: offline")
    parser.add_argument("--project", help="W&B's project (default: the recipe's)")
    parser.add_argument("--entity", help="W&B's user or team (default: the recipe's, or your own)")
    parser.add_argument("--id", help="W&B's id of the replayed run (default: the run's own and -replay)")


def run(options: argparse.Namespace) -> None:
    """Replay, and say how to go on."""
    from students.tracking.wandb_replay import replay

    print(replay(options.run, options.mode, options.project, options.entity, options.id))
