"""`bench speed`: LSR beside the code as its authors wrote it, and what every way to denoise spends outside the network.

The network of SDXL is replaced by one that costs nothing. Times are processor time on one thread; a ratio is the
median of pairs timed in turn, with the interval that holds it 19 times of 20. With --against, the same by the code of
another checkout: a ratio above 1 says that this one is faster.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

import comfy.utils
import torch

from ..models.lsr import LSR
from .idle import Paths, idle_model
from .pairs import Pairs
from .published_lsr import PublishedLSR

# at odd factors points lie on the centers of cells, where the published weights are rounding
LSR_SIZES = (((64, 64), (128, 128)), ((64, 96), (160, 240)), ((64, 64), (256, 256)))
OTHER = "loupe_before"


def import_checkout(root: Path) -> str:
    """The name under which the pack in `root` is imported beside this one."""
    spec = importlib.util.spec_from_file_location(OTHER, root / "__init__.py", submodule_search_locations=[str(root)])
    module = sys.modules[OTHER] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return OTHER


def lsr(pairs: int, other: str | None) -> None:
    torch.manual_seed(0)
    network = LSR()
    reference = PublishedLSR(network)
    if other:
        before = importlib.import_module(f"{other}.models.lsr").LSR()
        before.load_state_dict(network.state_dict())
    for (h, w), size in LSR_SIZES:
        z = torch.randn(1, 4, h, w)
        published = reference(z, size)
        error = (network(z, size) - published).abs().max() / (published - torch.nn.functional.interpolate(z, size, mode="bicubic")).abs().max()
        line = f"LSR, {h} x {w} to {size[0]} x {size[1]}: published / now {Pairs(lambda: reference(z, size), lambda: network(z, size), pairs)}, error {error:.1e} of the residual"
        if other:
            line += f"; before / now {Pairs(lambda: before(z, size), lambda: network(z, size), pairs)}, largest difference {(network(z, size) - before(z, size)).abs().max():.1e}"
        print(line, flush=True)


def overhead(pairs: int, side: int, region: int, steps: int, other: str | None) -> None:
    model = idle_model()
    idle = model.model.diffusion_model
    ways, before = Paths(model, region).ways(), Paths(model, region, other).ways() if other else {}
    print(f"{f'canvas {side}, regions {region}':24} {'ms a call':>10}" + "   before / now" * bool(other))
    for name, way in ways.items():
        idle.calls = 0
        samples = way(side, steps)
        calls, old = idle.calls, before.get(name, way)
        equal = "equal" if torch.equal(old(side, steps), samples) else "NOT EQUAL"
        found = Pairs(lambda: old(side, steps), lambda: way(side, steps), pairs)
        line = f"{name:24} {1000 * found.seconds[:, 1].min() / calls:10.2f}"
        print(f"{line}   {found}, {equal}" if other else line, flush=True)


@torch.inference_mode()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", choices=("lsr", "overhead"))
    parser.add_argument("--sides", type=int, nargs=2, action="append", metavar=("CANVAS", "REGION"), help="latent cells (default 512 128 and 64 16)")
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    other = options.against and import_checkout(options.against.resolve())
    if options.only != "overhead":
        lsr(options.pairs, other)
    if options.only != "lsr":
        comfy.utils.set_progress_bar_enabled(False)
        for side, region in options.sides or [(512, 128), (64, 16)]:
            overhead(options.pairs, side, region, options.steps, other)
