"""`bench soak`: what a server holds after hundreds of runs.

Bundled workflows of the mini world take turns on one real ComfyUI server, shortened, each time with another seed and every
second time at another size; one in four is interrupted, and every tenth time all models are unloaded through /free. The
server's resident memory is read after every unloading, when nothing of a run should be left. The growth is the slope of a
straight line through the later half of those readings, with its 95 % interval; the command fails where it is certainly
more than 20 MiB a hundred runs.

What is leaked grows with every run. What the C library keeps of freed memory would hide it: the server hands buffers above
64 KiB back to the system at once, unless --keeping asks for the library's own ways, as a user's server has them. --plain
leaves Loupe's methods out (the mini world's loader stays), so that the two can be told from what ComfyUI itself keeps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import comfy
import numpy as np
import psutil

from ..headless.client import Client, WorkflowError
from ..tools.graph import is_link, is_ours
from ..tools.server import PACK, Server
from .graph import Graph

WORKFLOWS = ("cupscale", "lsrna_demofusion", "pixelsmith", "upscale_flow", "clearsr", "arbitrary_scale", "latent_adjustment")
INTERRUPTED, FREED = 4, 10  # one run in so many
MOST = 20.0  # MiB a hundred runs
LATEST = 3.0  # seconds before an interrupt
EXACT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16), "MALLOC_ARENA_MAX": "1"}  # of glibc


def shortened(workflow: Mapping[str, dict], number: int, plain: bool) -> dict[str, dict]:
    """The workflow in 2 or 3 steps, at a small scale, with seeds of its own; `plain`: what needs no node of Loupe but its loader."""
    random_number = random.Random(number)
    found = {key: {**node, "inputs": dict(node["inputs"])} for key, node in workflow.items()}
    for node in found.values():
        inputs = node["inputs"]
        for name in inputs.keys() & {"seed", "noise_seed"}:
            inputs[name] = random_number.randrange(2**32)
        if "start_at_step" in inputs:
            inputs["start_at_step"] = inputs["steps"] - 2
        elif "steps" in inputs:
            inputs["steps"] = 3
            if "preset" in inputs:
                inputs["preset"] = "custom"
        if "scale_by" in inputs and not is_link(inputs["scale_by"]):
            inputs["scale_by"] = 1.5 + number % 2 / 2
    if not plain:
        return found
    kept = {}
    for key, node in found.items():
        loads = node["class_type"] == "LoupeLoadMini"
        if (loads or not is_ours(node)) and all(value[0] in kept for value in node["inputs"].values() if is_link(value)):
            kept[key] = node
    return kept


def slope(readings: list[tuple[int, float]]) -> tuple[float, float, float]:
    """MiB a hundred runs, and its 95 % interval, of the later half of (run, MiB)."""
    x, y = np.array(readings[len(readings) // 2 :], float).T
    draws = np.random.default_rng(0).integers(len(x), size=(2000, len(x)))
    draws = draws[[len(set(draw)) > 1 for draw in draws]]
    found = [100 * np.polyfit(x[draw], y[draw], 1)[0] for draw in draws]
    return 100 * np.polyfit(x, y, 1)[0], *np.percentile(found, [2.5, 97.5])


def soak(client: Client, server: psutil.Process, runs: int, plain: bool) -> list[tuple[int, float]]:
    """[(run, MiB that the server holds)] after each unloading of all models."""
    workflows = [json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8")) for name in WORKFLOWS]
    readings, interrupted = [], 0
    for number in range(1, runs + 1):
        timer = threading.Timer(random.Random(number).uniform(0.1, LATEST), client.interrupt)
        if number % INTERRUPTED == 0:
            timer.start()
        try:
            client.run(shortened(workflows[number % len(workflows)], number, plain))
        except WorkflowError as error:
            if not error.interrupted:
                raise
            interrupted += 1
        finally:
            timer.cancel()
        if number % FREED == 0:
            client.post_json("/free", {"unload_models": True, "free_memory": True})
            idle = Graph()
            idle.add("SaveLatent", samples=idle.add("EmptyLatentImage", width=16, height=16, batch_size=1), filename_prefix=f"after_{number}")
            client.run(idle.nodes)
            readings.append((number, server.memory_info().rss / 2**20))
            print(f"run {number}: {readings[-1][1]:.0f} MiB, {interrupted} interrupted", flush=True)
    return readings


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--plain", action="store_true", help="without Loupe's methods, for comparison")
    parser.add_argument("--keeping", action="store_true", help="let the C library keep freed memory, as it does by itself")
    options = parser.parse_args(argv)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        del os.environ[name]
    os.environ.update({} if options.keeping else EXACT)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base, Server(Path(comfy.__path__[0]).parent, base) as server:
        readings = soak(Client(server.url), psutil.Process(server.process.pid), options.runs, options.plain)
    each, low, high = slope(readings)
    word = "grows" if low > MOST else "flat"
    print(f"{options.runs} runs: {readings[0][1]:.0f} MiB after {readings[0][0]}, {readings[-1][1]:.0f} at the end; in the later half {each:+.1f} MiB a hundred runs [{low:+.1f}, {high:+.1f}]: {word}")
    sys.exit(word == "grows")
