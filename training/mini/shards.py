"""`train mini-scenes`: render the training images once, as shards that the other commands read.

Writes `base_NNNNN.npy` (128 px) and `large_NNNNN.npy` (512 px), uint8 RGB, one scene seed a row, in order.
A shard that exists is kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .render import render
from .scenes import BASE_SEED, LARGE_SEED, sample_scene

KINDS = {"base": (BASE_SEED, 128, 2, 500), "large": (LARGE_SEED, 512, 1, 50)}


def shard_path(folder: Path, kind: str, index: int) -> Path:
    return folder / f"{kind}_{index:05d}.npy"


def render_shard(job: tuple[Path, str, int]) -> Path:
    folder, kind, index = job
    first, size, supersample, rows = KINDS[kind]
    path = shard_path(folder, kind, index)
    if not path.exists():
        images = np.stack([render(sample_scene(first + index * rows + i), size, supersample) for i in range(rows)])
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as f:
            np.save(f, images)
        os.replace(partial, path)
    return path


class Images:
    """The rendered scenes of one kind that exist by now: image `i` belongs to scene seed `self.seed(i)`."""

    def __init__(self, folder: Path, kind: str):
        self.first, self.size, _, self.rows = KINDS[kind]
        self.shards = []
        while (path := shard_path(folder, kind, len(self.shards))).exists():
            self.shards.append(np.load(path, mmap_mode="r"))
        if not self.shards:
            raise FileNotFoundError(f"no {kind} images in {folder}: run `python dev.py train mini-scenes` first")

    def __len__(self) -> int:
        return len(self.shards) * self.rows

    def __getitem__(self, i: int) -> np.ndarray:
        return np.asarray(self.shards[i // self.rows][i % self.rows])

    def seed(self, i: int) -> int:
        return self.first + i


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py train mini-scenes", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/mini"))
    parser.add_argument("--base", type=int, default=24000, help="images at 128 px (default %(default)s)")
    parser.add_argument("--large", type=int, default=2000, help="images at 512 px (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args(argv)
    folder = options.out / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder, kind, i) for kind, count in (("large", options.large), ("base", options.base)) for i in range(count // KINDS[kind][3])]
    with multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Pool(options.workers) as pool:
        for _ in tqdm(pool.imap_unordered(render_shard, jobs), total=len(jobs), unit="shard"):
            pass
