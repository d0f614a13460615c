"""`bench frontier`: what settings of the regional samplers give for their network rows, on held-out scenes.

The true 128 px image of a scene is enlarged and drawn again. Results are kept (benchmarks/cache.py); what is there is
not computed again. Columns, each with its 95 % interval over images:

  rows    network rows an image (one view and one guidance branch each)
  extra   things that nobody asked for
  base    PSNR of the shrunk result to the small image (dB)
  truth   PSNR to the true image of that size (dB)
  sharp   mean absolute Laplacian over that of the autoencoder's image of the true one; geometric mean
  miss    mean |log2 sharp|: too much is a fault as well
  seam    steps across the borders of the regions over those of the autoencoder's image
  border  saturation of the outer 8 px against 16 to 48 px in, over the same of the autoencoder's image
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import frontier_page
from .cache import Cache
from .labs import Enlarging, fill, images
from .settings import all_settings
from .world import write_sheet


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench frontier", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(Enlarging.WEIGHTS), default=next(iter(Enlarging.WEIGHTS)))
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--settings", nargs="+", choices=list(all_settings()), help="default: all")
    parser.add_argument("--table", action="store_true", help="print what the cache holds, and measure nothing")
    parser.add_argument("--page", action="store_true", help="write the tables and the plot of docs/cost.md, and measure nothing")
    parser.add_argument("--sheet", type=Path, help="write the images as a contact sheet, one row a setting, and measure nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = {name: setting for name, setting in all_settings().items() if not options.settings or name in options.settings}
    lab = Enlarging(options.variant, options.scale)
    cache = Cache(lab.world, lab.weights)
    if options.page:
        frontier_page.write()
    elif options.sheet:
        write_sheet(options.sheet, images(lab, settings.values(), options.captions))
    else:
        if not options.table:
            fill(lab, cache, settings.values(), options.captions)
        print("\n".join(frontier_page.absolute(cache, options.scale, settings, options.captions)))
