"""What `bench peers` compares: families of ways, each from the least to the most that is drawn anew."""

from __future__ import annotations

from dataclasses import fields, replace

from .peer_ways import (
    Canvas,
    CUpscale,
    DemoFusion,
    Lanczos,
    PixelSmith,
    Regions,
    TiledDiffusion,
    TileList,
    UltimateSDUpscale,
    UpscaleYourImage,
    Way,
)

DENOISE = (0.2, 0.35, 0.45)
REFERENCE = "Ultimate SD Upscale .35"
FEW = 8  # steps of ordinary samplers on a few-step model


def number(value: float) -> str:
    return f"{value:g}".removeprefix("0")


def family(name: str, way: type, denoise=DENOISE, **settings) -> dict[str, Way]:
    return {f"{name} {number(value)}": way(denoise=value, **settings) for value in denoise}


# Loupe's families by their first words
LOUPE = ("Upscale your image", "Regional Denoise", "C-Upscale", "DemoFusion", "PixelSmith", "LSRNA-DemoFusion")

EVERYWHERE: dict[str, dict[str, Way]] = {
    "enlarged image": {"enlarged image (Lanczos)": Lanczos()},
    "whole canvas": family("whole canvas", Canvas),
    "whole canvas, latent enlarged": family("whole canvas, latent enlarged", Canvas, (0.35, 0.45, 0.6), latent=True),
    "tile list": family("tile list", TileList, (0.35,)),
    "Ultimate SD Upscale": family("Ultimate SD Upscale", UltimateSDUpscale),
    "Ultimate SD Upscale, padding in proportion": family("Ultimate SD Upscale, padding in proportion", UltimateSDUpscale, (0.35,), padding=8, blur=2),
    "Ultimate SD Upscale, seams fixed": family("Ultimate SD Upscale, seams fixed", UltimateSDUpscale, (0.35,), seams="Half Tile"),
    "MultiDiffusion": family("MultiDiffusion", TiledDiffusion, method="MultiDiffusion"),
    "Mixture of Diffusers": family("Mixture of Diffusers", TiledDiffusion, method="Mixture of Diffusers"),
    "SpotDiffusion": family("SpotDiffusion", TiledDiffusion, (0.35, 0.45), method="SpotDiffusion", overlap=0),
    "Regional Denoise": family("Regional Denoise", Regions, (0.35,)),
    "Upscale your image": {
        f"Upscale your image, creativity {number(creativity)}, {preset}": UpscaleYourImage(creativity, preset)
        for creativity in (0.2, 0.35) for preset in ("fast", "balanced")
    },
}

WITH_GUIDANCE: dict[str, dict[str, Way]] = {
    "DemoFusion Sampler": {f"DemoFusion Sampler, {preset}": DemoFusion(preset) for preset in ("fast", "balanced")},
    "PixelSmith Sampler": {f"PixelSmith Sampler, {preset}": PixelSmith(preset) for preset in ("fast", "balanced")},
}

UNET_ALONE: dict[str, dict[str, Way]] = {
    "Ultimate SD Upscale, ClearSR": family("Ultimate SD Upscale, ClearSR", UltimateSDUpscale, (0.35, 0.6), control=True),
    "Upscale your image, ClearSR": {"Upscale your image, ClearSR, creativity .35, balanced": UpscaleYourImage(control=True)},
    "C-Upscale": {f"C-Upscale {number(steps / 50)}": CUpscale(steps) for steps in (17, 22)},
    **WITH_GUIDANCE,
    "LSRNA-DemoFusion": {"LSRNA-DemoFusion, paper": DemoFusion("LSRNA paper", lsr=True)},
}

SLOW = ("LSRNA-DemoFusion, paper",)  # on eight images and no more


def families(variant: str) -> dict[str, dict[str, Way]]:
    if variant == "text to image":
        return {**EVERYWHERE, **UNET_ALONE}
    if variant == "flow":
        return {**EVERYWHERE, **WITH_GUIDANCE}
    return {name: {title: in_few_steps(way) for title, way in ways.items()} for name, ways in EVERYWHERE.items()}


def in_few_steps(way: Way) -> Way:
    return replace(way, steps=FEW) if any(field.name == "steps" for field in fields(way)) else way


def ways(variant: str) -> dict[str, Way]:
    return {title: way for found in families(variant).values() for title, way in found.items()}
