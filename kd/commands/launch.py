"""Run a command on several processes or machines by torchrun, and end with its exit code: stopped runs are requeued."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

EPILOG = """examples:
  kd launch --nproc-per-node 4 train camvid/r18 jml_kd
  kd launch --nproc-per-node gpu train cityscapes/dl3_r18 jml_kd data.root=~/cityscapes
  kd launch --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500 --rdzv-id JOB train cityscapes/dl3_r18 jml_kd   on both

Options before the command are torchrun's. SIGTERM, SIGUSR1 and Ctrl-C, sent to this process, reach all ranks, which
save a checkpoint; the exit code is 75 as without launcher (torchrun itself ends with 1). Other codes are those of the rank that
failed first: 2 bad input, 128 + N killed by signal N.
"""
VERBATIM = True
"""What follows the command's own options is another command line."""
OPTIONS = {
    "nproc-per-node": "processes on this machine: a number, or gpu",
    "nnodes": "machines, or MIN:MAX (default: 1)",
    "node-rank": "of this machine, where there is no rendezvous",
    "rdzv-backend": "how machines meet (default: c10d)",
    "rdzv-endpoint": "where: HOST:PORT, one for all machines",
    "rdzv-id": "what the run is called there",
    "rdzv-conf": "KEY=VALUE,... of the rendezvous",
    "max-restarts": "how often all ranks begin anew, from the last checkpoint, where one is lost (default: 0)",
    "local-addr": "the address of this machine",
}
ASKED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
GRACE = 600
"""Seconds for a step and a checkpoint, before ranks that were asked to stop are killed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    for name, about in OPTIONS.items():
        parser.add_argument(f"--{name}", help=about)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="e.g. train RECIPE METHOD")


def run(options: argparse.Namespace) -> int:
    """Hand over to torchrun; the exit code of the rank that failed first."""
    from kd.config import ConfigError, InputError

    if not options.words:
        raise InputError("give a command to run, e.g. kd launch --nproc-per-node 4 train camvid/r18 jml_kd")
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # else ranks that begin anew look for the dead
    for name in (*logging.root.manager.loggerDict, "torch.distributed"):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        torchrun.run(torchrun.parse_args(arguments(options, torchrun.get_args_parser())))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        if code not in (2, 75):
            print(f"rank {rank} failed first, with exit code {code}; what it said stands above", file=sys.stderr)
        return code
    except SignalException as error:
        return 75 if error.sigval in ASKED else 128 + error.sigval  # no rank saves a checkpoint for others
    except (ValueError, AssertionError) as error:
        raise ConfigError(f"launch: {error or 'torchrun takes no such numbers'}; see kd launch --help") from None
    return 0


def arguments(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[str]:
    """What torchrun is called with."""
    given = {name: getattr(options, name.replace("-", "_")) for name in OPTIONS}
    if given["nnodes"] in (None, "1") and given["rdzv-endpoint"] is None:
        extra = ["--standalone"]
    else:
        extra = [] if given["rdzv-backend"] or given["node-rank"] else ["--rdzv-backend=c10d"]
    known = {text for action in parser._actions for text in action.option_strings}
    extra += [f"--signals-to-handle={SIGNALS}"] if "--signals-to-handle" in known else []
    extra += [f"--shutdown_timeout={GRACE}"] if "--shutdown_timeout" in known else []
    passed = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return [*passed, *extra, "-m", "kd", *options.words]
