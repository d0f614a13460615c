"""Tables of arms on the pages: what each way reaches by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...methods.creativity import TABLE
from ..decoding import Decoded, Drawn
from ..restoring import Restored
from ..settings import Setting
from .claim import FEW, FLOW, UNET
from .regional import (
    FROM_NOISE,
    GSP,
    LSRNA,
    LSRNA_PIXELSMITH,
    PAPER,
    PIXELS,
    dial,
    enlarged,
    shallow,
    tiles,
)
from .trained import ADJUSTED, CLEARSR


@dataclass(frozen=True)
class Table:
    world: str
    arms: dict[str, object]
    columns: tuple[str, ...] = ("rows", "right", "extra", "base", "truth", "sharp")
    scale: int = 2


DIALED = ("truth", "base", "sharp", "extra")
PARTS = Setting("regions", 8, 0.55, jitter=0.0)
DIAL = {f"{creativity:g}": dial(creativity) for creativity in TABLE}
SHALLOW = {
    "enlarged, encoded and decoded": enlarged("pixels"),
    "1 step": shallow(1),
    "1 step, noise .05": shallow(1, 0.05),
    "1 step, noise .1": shallow(1, 0.1),
    "1 step, prior": shallow(1, structure=0.4),
    "1 step, prior, noise .05": shallow(1, 0.05, 0.4),
    "2 steps": shallow(2),
    "2 steps, noise .05": shallow(2, 0.05),
    "2 steps, prior": shallow(2, structure=0.4),
    "dial .125, 4 steps": dial(0.125, "fast"),
    "dial .125, 8 steps": dial(0.125),
}
SHALLOWEST = {
    "strength .15: 1 step": shallow(1, strength=0.15),
    "strength .15: 2 steps": shallow(2, strength=0.15),
    "dial 0, 4 steps": dial(0.0, "fast"),
    "dial 0, 8 steps": dial(0.0),
}
UPSCALED = ("truth", "gradient", "right")

TABLES = {
    "lsrna": Table(UNET, {
        "bicubic latent, decoded": enlarged("latent"),
        "LSR, decoded": enlarged("lsr"),
        "enlarged pixels (Lanczos), encoded and decoded": enlarged("pixels"),
        "whole canvas from noise, 50 steps": Setting("canvas", 50, 1.0, PAPER),
        "DemoFusion, 50 steps": FROM_NOISE[UNET],
        "LSRNA-DemoFusion": LSRNA[UNET],
        "without region-wise noise": replace(LSRNA[UNET], edge_noise=0.0),
        "with bicubic latents instead of LSR": replace(LSRNA[UNET], edge_noise=0.0, guide="latent"),
        "with pixels instead of LSR": replace(LSRNA[UNET], edge_noise=0.0, guide="pixels"),
    }),
    "pixelsmith": Table(UNET, {
        "PixelSmith, 50 steps, guided to .6": replace(PIXELS[UNET], guided_until=0.6),
        "guided to .2": replace(PIXELS[UNET], guided_until=0.2),
        "order *cover*": replace(PIXELS[UNET], order="cover"),
        "LSRNA-PixelSmith, 30 steps": LSRNA_PIXELSMITH,
        "DemoFusion, 50 steps": FROM_NOISE[UNET],
        "LSRNA-DemoFusion, 30 steps": LSRNA[UNET],
    }),
    "cupscale": Table(UNET, {
        "regions alone": tiles(UNET),
        "GSP .2": tiles(UNET, GSP[UNET]),
        "GSP 1.0": tiles(UNET, GSP[UNET], structure=1.0),
        "RAP": tiles(UNET, attention=True),
        "RAP + GSP": tiles(UNET, GSP[UNET], attention=True),
        "RSP (generated captions)": tiles(UNET, prompts="captions"),
        "RSP (true captions)": tiles(UNET, prompts="scene"),
        "RSP + RAP + GSP": tiles(UNET, GSP[UNET], attention=True, prompts="captions"),
    }, ("rows", "right", "extra", "base", "truth", "sharp", "seam")),
    "overlaps": Table(UNET, {f"overlap {overlap:g}": tiles(UNET, overlap=overlap) for overlap in (0.0, 0.25, 0.5, 0.75)}, ("rows", "base", "sharp", "seam")),
    "dial": Table(UNET, DIAL, DIALED),
    "dial, flow": Table(FLOW, DIAL, DIALED),
    "dial, parts": Table(UNET, {
        "regions alone": PARTS,
        "Structure Prior .2": replace(PARTS, structure=0.2),
        "Structure Prior .4": replace(PARTS, structure=0.4),
        "Structure Prior .8": replace(PARTS, structure=0.8),
        "alpha .1 in the first 4 steps": replace(PARTS, alpha=0.1),
        "Structure Prior .2, alpha .05": replace(PARTS, structure=0.2, alpha=0.05),
        "Structure Prior .2, alpha .1": replace(PARTS, structure=0.2, alpha=0.1),
        "Structure Prior .2, beta .01 in the late steps": replace(PARTS, structure=0.2, beta=0.01, adjusted=(0.5, 0.8)),
    }, DIALED),
    "shallow": Table(UNET, {**SHALLOW, **SHALLOWEST}, ("rows", *DIALED)),
    "shallow, 4x": Table(UNET, SHALLOW, ("rows", *DIALED), 4),
    "shallow, flow": Table(FEW, {**SHALLOW, **SHALLOWEST}, ("rows", *DIALED)),
    "clearsr": Table("restoring", {
        "enlarged (bicubic)": Restored("enlarged"),
        "enlarged, through the autoencoder": Restored("autoencoder"),
        "base model alone, denoise .3": Restored("alone", denoise=0.3),
        "base model alone, denoise 1": Restored("alone"),
        "**ClearSR**": CLEARSR,
        "ClearSR, denoise .6": replace(CLEARSR, denoise=0.6),
        "true image through the autoencoder": Restored("true"),
    }, ("truth", "right", "extra", "detail", "sharp"), 4),
    "clearsr, adjusted": Table("restoring", {
        "off": CLEARSR,
        "ELA .01": replace(CLEARSR, alpha=0.01),
        "LLA .01": replace(CLEARSR, beta=0.01),
        "both .01 (ClearSR)": ADJUSTED,
        "ELA .03, LLA .01 (fidelity)": replace(ADJUSTED, alpha=0.03),
        "both .01, by the plain encoder": replace(ADJUSTED, plain=True),
    }, ("truth", "right", "detail", "sharp"), 4),
    **{f"decoder, {scale}x": Table("decoding", {
        "VAE decode, Lanczos": Decoded("lanczos"),
        "VAE decode, bicubic": Decoded("bicubic"),
        "implicit decoder": Decoded("implicit"),
        "LSR, VAE decode": Decoded("lsr"),
    }, UPSCALED, scale) for scale in (2, 4, 8)},
    **{f"drawn, {side} px": Table("drawing", {
        "bicubic": Drawn("bicubic"),
        "through the autoencoder": Drawn("autoencoder"),
        "denoiser from noise": Drawn("noise"),
        "denoiser from the image": Drawn("image"),
        "true image through the autoencoder": Drawn("true"),
    }, ("truth", "even", "gradient", "right"), scale) for side, scale in ((256, 4), (512, 8))},
}
