"""What every training command shares on its command line: options, the start, and what a file says of its making."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

try:
    from .checkout import add_ranks, commit, launch
except ModuleNotFoundError:  # not in the archive

    def add_ranks(parser: argparse.ArgumentParser) -> None:
        parser.set_defaults(ranks=1)

    def launch(train, options: argparse.Namespace) -> None:
        train(0, options)

    def commit() -> str:
        return ""

__all__ = ["launch", "options_parser", "provenance"]


def options_parser(name: str, description: str | None, steps: int, batch: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"dev.py train {name}", description=description)
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="folder of data, checkpoints and logs")
    parser.add_argument("--save", type=Path, help="the finished file (default: where its loader node looks)")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, help="train for so long instead of --steps; the learning rate follows, and a resumed run counts what it had")
    parser.add_argument("--batch", type=int, default=batch, help="rows a step and rank")
    parser.add_argument("--seed", type=int, default=0)
    add_ranks(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=500)
    return parser


def provenance(command: str, options: argparse.Namespace, seconds: float) -> dict[str, str]:
    """Metadata that says how a file was made: command, commit, steps, wall time, license."""
    length = f"--minutes {options.minutes:g}" if getattr(options, "minutes", None) else f"--steps {options.steps}"
    return {
        "training": f"python dev.py train {command} {length} --batch {options.batch} --ranks {options.ranks} --seed {options.seed}",
        "commit": commit() or "unknown",
        "wall_minutes": f"{seconds / 60:.0f}",
        "device": options.device,
        "license": "GPL-3.0-only",
    }
