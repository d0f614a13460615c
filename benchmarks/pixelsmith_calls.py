"""`bench pixelsmith-calls`: network calls of PixelSmith's planned execution on SDXL's sizes, counted without a network."""

from __future__ import annotations

import argparse

import numpy as np

from ..methods.pixelsmith_plan import plan

CANVASES = {"2048 x 2048": (256, 256), "3072 x 3072": (384, 384), "4096 x 4096": (512, 512), "8192 x 8192": (1024, 1024)}
RUNS = (("50 steps, 20 guided", 50, 20), ("50 steps, 30 guided", 50, 30), ("30 steps, 10 guided", 30, 10))


def count_calls(batch: int, runs: int, size: int = 128) -> None:
    """Patches one by one against planned calls, for the whole run, mean of `runs` seeds."""
    print(f"Patches of {size} cells, at most {batch} in a call, mean of {runs} runs\n")
    print(f"{'canvas':14} {'run':22} {'one by one':>10} {'planned':>8} {'share':>6} {'a sweep':>9} {'waves of a guided sweep':>25}")
    for canvas, (height, width) in CANVASES.items():
        for name, steps, guided_steps in RUNS:
            sweeps = [sweep for seed in range(runs) for sweep in plan(height, width, size, steps, guided_steps, seed)]
            patches, calls = sum(len(sweep.patches) for sweep in sweeps) / runs, sum(sweep.calls(batch) for sweep in sweeps) / runs
            guided = [len(sweep.waves) for i, sweep in enumerate(sweeps) if 0 < i % steps < guided_steps]
            print(f"{canvas:14} {name:22} {patches:10.0f} {calls:8.0f} {calls / patches:6.1%} {patches / steps:9.1f} {np.mean(guided):25.1f}")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench pixelsmith-calls", description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="most patches in a network call")
    parser.add_argument("--runs", type=int, default=4, help="seeds to average the calls over")
    options = parser.parse_args(argv)
    count_calls(options.batch, options.runs)
