"""What training has in a checkout of the repository only: several ranks, and the commit. Not in the archive."""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from .loop import STOPPED


def add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=1, help="data-parallel processes, one CPU thread each")


def launch(train, options: argparse.Namespace) -> None:
    """Run `train(rank, options)` in `options.ranks` processes, or as the rank that torchrun says this process is."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun(train, options)
        return
    if options.ranks == 1:
        train(0, options)
        return
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    workers = [context.Process(target=_worker, args=(rank, port, train, options)) for rank in range(options.ranks)]
    for worker in workers:
        worker.start()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the workers as well, and they stop together
    for worker in workers:
        worker.join()
    signal.signal(signal.SIGINT, interrupt)
    codes = {worker.exitcode for worker in workers} - {0}
    if codes == {STOPPED}:
        sys.exit(STOPPED)
    if codes:
        raise SystemExit("a training rank failed, see above")


def _worker(rank: int, port: int, train, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=options.ranks)
    train(rank, options)
    dist.destroy_process_group()


def _join_torchrun(train, options: argparse.Namespace) -> None:
    rank, local, options.ranks = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    cuda = torch.device(options.device).type == "cuda"
    if cuda:
        options.device = f"cuda:{local}"
        torch.cuda.set_device(local)
    # preparing data may keep one rank longer than the others
    dist.init_process_group("nccl" if cuda else "gloo", timeout=datetime.timedelta(days=1))
    train(rank, options)
    dist.destroy_process_group()


def commit() -> str:
    """The short name of the commit, or nothing where git says none."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parents[1], capture_output=True, text=True).stdout.strip()
