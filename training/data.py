"""What `train lsr` and `train implicit-decoder` share: options, the loop that they set, and squares cut from images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import folder_paths
import numpy as np
import torch

from ..methods.regions import axis_starts
from ..models.files import Metadata
from . import vae
from .command_line import provenance
from .images import ImageFile, report, scan, shrink_bicubic
from .loop import Loop, require_tensorboard
from .vae import FrozenVAE


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", required=True, help="a VAE file or a checkpoint, or `mini` for the bundled autoencoder")
    parser.add_argument("--images", type=Path, required=True, help="folder of images (its subfolders too; .npy stacks of uint8 RGB are read as well)")
    parser.add_argument("--latent-format", help="class in comfy.latent_formats, such as SDXL, where the VAE's file does not tell")
    parser.add_argument("--data", type=Path, help="folder of encoded data (default: OUT/NAME.data)")
    parser.add_argument("--name", help="name of checkpoint, log, plot and samples in --out")
    parser.add_argument("--octaves", type=int, default=1, help="2: learn from every image at half size too, 3: at a quarter, ...")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of the averaged weights that are saved; 0: save the last weights")
    parser.add_argument("--floor", type=float, default=5e-4, help="share of --lr that the cosine ends at")
    parser.add_argument("--warmup", type=int, default=1, help="steps of rising learning rate")
    parser.add_argument("--clip", type=float, help="largest norm of the gradient")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available(), help="bfloat16 autocast; the default on CUDA")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a rank")
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--sample-every", type=int, default=1000, help="steps between sample sheets")
    parser.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard too")


def finish_options(options: argparse.Namespace, command: str, folder: str) -> None:
    """Defaults that follow from other options; `folder` is the loader node's, as folder_paths names it."""
    if options.tensorboard:
        require_tensorboard()
    options.command = command
    options.name = options.name or f"{command}-{Path(options.vae).stem.lower()}"
    options.data = options.data or options.out / f"{options.name}.data"
    options.save = options.save or Path(folder_paths.get_folder_paths(folder)[0]) / f"{options.name.replace('-', '_')}.safetensors"
    options.out.mkdir(parents=True, exist_ok=True)


def begin(options: argparse.Namespace, smallest: int, rank: int) -> tuple[dict[str, ImageFile], vae.FrozenVAE]:
    """The images of --images with `smallest` pixels a side, by name, and the VAE on its device; says what is skipped."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    found = scan(options.images, smallest)
    if rank == 0:
        report(options.images, found, smallest)
    return found.usable, vae.load(options.vae, options.latent_format).to(options.device)


def samples_due(options: argparse.Namespace, rank: int, step: int) -> bool:
    """Whether this rank writes a sample sheet after `step`."""
    return rank == 0 and ((step + 1) % options.sample_every == 0 or step + 1 == options.steps)


def make_loop(modules: dict[str, torch.nn.Module], rank: int, options: argparse.Namespace) -> Loop:
    return Loop(options.name, modules, rank, options, lr=options.lr, weight_decay=0, warmup=options.warmup, floor=options.floor, ema=options.ema,
                betas=(0.9, 0.999), clip=options.clip, log_every=options.log_every, tensorboard=options.tensorboard)


def finished(loop: Loop, options: argparse.Namespace, frozen: FrozenVAE, **notes: str) -> Metadata:
    """Ends a training: the averaged weights are in the modules; returns what their file says."""
    loop.load_average()
    return Metadata(frozen.space, frozen.name, notes={**provenance(options.command, options, loop.seconds), **notes})


def halvings(image: np.ndarray, octaves: int) -> Iterator[np.ndarray]:
    """The image at full size, at half size, ..., `octaves` in all."""
    for octave in range(octaves):
        if octave:
            height, width = (side // 2 * 2 for side in image.shape[:2])
            image = shrink_bicubic(image[:height, :width], 2)
        yield image


def cut(image: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """(side, side, 3) squares that cover the image, none of one that is too small; the last ones overlap when they must."""
    height, width = image.shape[:2]
    if min(height, width) < side:
        return
    for y in axis_starts(height, side, side):
        for x in axis_starts(width, side, side):
            yield image[y:y + side, x:x + side]
