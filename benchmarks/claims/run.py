"""`bench claims`: what the papers and Loupe's pages claim, measured on the mini world with 95 % intervals.

A claim compares two arms on the same held-out scenes and seeds; the interval is the bootstrap's, of the paired differences.
Shown: it lies on the claimed side of zero. Reversed: on the other. Not resolvable: on neither, at this n. What is measured is
kept (benchmarks/cache.py), and the command goes on from there; --page writes the tables of the pages from it.

--quick draws scene 0 of as many arms as four minutes allow, cheapest first, and names those that no longer give what is kept.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import torch

from ..cache import Cache, arrays, name_of, read
from ..labs import fill, images
from ..world import write_sheet
from .page import claims, write
from .registry import CLAIMS, WORLDS, arms, lab_of
from .tables import TABLES

ROUNDS = (8, 24, 48, 96)  # scenes: all arms get as many before any gets more
QUICK_SECONDS = 240
TOLERANCE = {"rows": 0.5, "extra": 0.5, "right": 0.01}  # others: .3 % of what is kept, rounding noise of processors


def needed(world: str) -> dict[int, list[object]]:
    """Arms of the claims and tables of a world, by scale."""
    found = arms(world)
    for table in TABLES.values():
        if table.world == world:
            known = found.setdefault(table.scale, [])
            known += [arm for arm in table.arms.values() if arm not in known]
    return found


def measure(worlds: list[str], count: int, only: str) -> None:
    for most in [n for n in ROUNDS if n < count] + [count]:
        for world in worlds:
            for scale, found in needed(world).items():
                lab = lab_of(world, scale)
                fill(lab, Cache(world, lab.weights), [arm for arm in found if only in name_of(arm, scale)], most)


@torch.inference_mode()
def changed(worlds: list[str]) -> list[str]:
    """Arms whose image of scene 0 has other metrics than what is kept."""
    until, other = time.monotonic() + QUICK_SECONDS, []
    known = read()
    todo = [(world, scale, arm) for world in worlds for scale, found in needed(world).items() for arm in found]

    def kept(item):
        world, scale, arm = item
        return arrays(known.get(world, {}).get("results", {}), arm, scale, lab_of(world, scale).metrics)

    todo = sorted((item for item in todo if len(next(iter(kept(item).values())))), key=lambda item: kept(item).get("rows", [0])[0])
    for world, scale, arm in itertools.takewhile(lambda _: time.monotonic() < until, todo):
        _, values = lab_of(world, scale).measure(arm, 0)
        for metric, past in kept((world, scale, arm)).items():
            if abs(values[metric] - past[0]) > TOLERANCE.get(metric, 0.003 * abs(past[0]) + 1e-3):
                other.append(f"{world}: {name_of(arm, scale)}: {metric} is {values[metric]:.4f}, kept is {past[0]:.4f}")
    return other


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", nargs="+", choices=WORLDS, default=WORLDS, help="default: all")
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--only", default="", help="arms whose name holds this, such as demofusion")
    parser.add_argument("--quick", action="store_true", help="check that the code of today gives what is kept, in under five minutes")
    parser.add_argument("--sheet", nargs=2, metavar=("TABLE", "FILE"), help="draw the arms of a table, a row each, and measure nothing; --scenes says how many")
    parser.add_argument("--page", action="store_true", help="write the tables of the pages, and measure nothing")
    parser.add_argument("--table", action="store_true", help="print the claims, and measure nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.quick:
        found = changed(options.world)
        print("\n".join(found) or "all as kept")
        sys.exit(bool(found))
    if options.page:
        write()
        return
    if options.sheet:
        table = TABLES[options.sheet[0]]
        write_sheet(Path(options.sheet[1]), images(lab_of(table.world, table.scale), table.arms.values(), options.scenes))
        return
    if not options.table:
        measure(options.world, options.scenes, options.only)
    for method in dict.fromkeys(claim.method for claim in CLAIMS):
        print(f"\n{method}\n" + "\n".join(claims(read(), method)))
