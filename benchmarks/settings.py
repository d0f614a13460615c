"""What regional samplers can be set to, and the settings that `bench frontier` compares, one factor at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Setting:
    """One way to enlarge an image that is drawn again.

    method: "regions", "demofusion", "pixelsmith", "canvas" (the whole canvas at once), "encoded" (the enlarged image
    through the autoencoder) or "none" (in pixels, as it is). steps from the noise level of `strength`.

    Regions. overlap: fraction of a region. jitter: share of the steps in which regions move. shift: the whole grid moves.
    Enlarging. guide: "pixels" (Lanczos), "lsr" or "latent" (bicubic). progressive: 2x, 3x, ... up to the size.
    Region-wise noise. edge_noise, edge_least: e_max and e_min at strength .6. edge_map: "edges" (`canny` thresholds), or "uniform" for as much noise everywhere.
    DemoFusion. dilated: weight below which the dilated pass is left out, above 1 always. skip: the skip residual.
    PixelSmith. order, guided_until.
    Structure Prior. structure: its weight, in its mode structure_mode.
    Latent Adjustment. alpha until the first share of the steps in `adjusted`, beta from the second one on.
    Further. attention: the Attention Prior. prompts: of regions, "scene" (the true captions) or "captions" (generated).
    guidance: lowest and highest strength between which CFG acts. injected: weight of noise injected into the last step.
    """

    method: str
    steps: int = 0
    strength: float = 0.0
    scheduler: str = "simple"
    overlap: float = 0.25
    blend: str = "gaussian"
    jitter: float = 0.5
    shift: bool = False
    structure: float = 0.0
    guide: str = "pixels"
    edge_noise: float = 0.0
    dilated: float = 0.0
    guidance: tuple[float, float] = (0.0, 1.0)
    progressive: bool = False
    order: str = "cover"
    guided_until: float = 0.4
    edge_map: str = "edges"
    canny: tuple[float, float] = (0, 255)
    skip: bool = True
    structure_mode: str = "kappa"
    structure_schedule: str = "cosine"
    attention: bool = False
    prompts: str = ""
    alpha: float = 0.0
    beta: float = 0.0
    adjusted: tuple[float, float] = (0.5, 1.0)
    injected: float = 0.0
    edge_least: float = 0.0
    sampler: str = "euler"


NEVER = 2.0
SHIFT = {"overlap": 0.0, "shift": True, "jitter": 0.0}

REGIONS = Setting("regions", 8, 0.45, structure=0.3)
DEMOFUSION = Setting("demofusion", 8, 0.6)
PIXELSMITH = Setting("pixelsmith", 8, 0.6)

PAPERS = {
    "LSRNA-DemoFusion, paper": Setting("demofusion", 30, 0.6, "ddim (paper)", 0.5, "uniform", 1.0, guide="lsr", edge_noise=1.2),
    "DemoFusion, paper": Setting("demofusion", 50, 1.0, "ddim (paper)", 0.5, "uniform", 1.0, guide="latent", progressive=True),
    "PixelSmith, paper": Setting("pixelsmith", 50, 1.0, "ddim (paper)", order="random", guided_until=0.6),
    "C-Upscale, GSP alone": Setting("regions", 22, 0.44, "ddim (paper)", 0.5, "uniform", 0.0, structure=0.2),
}

PRESETS = {
    "DemoFusion, balanced": replace(DEMOFUSION, strength=0.5, overlap=0.5),
    "DemoFusion, fast": replace(DEMOFUSION, steps=4, strength=0.5),
    "PixelSmith, balanced": replace(PIXELSMITH, strength=0.5),
    "PixelSmith, fast": replace(PIXELSMITH, steps=4, strength=0.5),
}

OVERLAPS = {
    "overlap 1/2": {"overlap": 0.5},
    "overlap 0": {"overlap": 0.0, "jitter": 0.0},
    "grid shift": SHIFT,
    "uniform blend": {"blend": "uniform"},
    "no jitter": {"jitter": 0.0},
    "jitter in every step": {"jitter": 1.0},
}
GUIDANCES = {
    "CFG below .4": {"guidance": (0.0, 0.4)},
    "CFG above .2": {"guidance": (0.2, 1.0)},
    "CFG above .3": {"guidance": (0.3, 1.0)},
    "CFG above .45": {"guidance": (0.45, 1.0)},
}
GUIDES = {"guide from LSR": {"guide": "lsr"}, "guide from LSR with RNA": {"guide": "lsr", "edge_noise": 1.2}}

VARIATIONS = {
    "regions": {
        **{f"{steps} steps": {"steps": steps} for steps in (4, 6, 16)},
        **{f"strength {strength}": {"strength": strength} for strength in (0.25, 0.35, 0.55, 0.7)},
        **OVERLAPS, **GUIDANCES, "guide from LSR": {"guide": "lsr"},
        "no structure prior": {"structure": 0.0}, "structure .15": {"structure": 0.15},
        "4 steps, grid shift": {"steps": 4, **SHIFT}, "4 steps, strength .35": {"steps": 4, "strength": 0.35},
    },
    "demofusion": {
        **{f"{steps} steps": {"steps": steps} for steps in (4, 16)},
        **{f"strength {strength}": {"strength": strength} for strength in (0.35, 0.45, 0.74)},
        **OVERLAPS, **GUIDANCES, **GUIDES,
        "dilated pass above .5": {"dilated": 0.5}, "no dilated pass": {"dilated": NEVER},
        "16 steps, strength .74": {"steps": 16, "strength": 0.74}, "30 steps, strength .74": {"steps": 30, "strength": 0.74},
        "strength .45, dilated pass above .3": {"strength": 0.45, "dilated": 0.3}, "strength .45, grid shift": {"strength": 0.45, **SHIFT},
        "4 steps, strength .45": {"steps": 4, "strength": 0.45},
        "strength .5": {"strength": 0.5},
        "overlap 1/2, jitter in every step": {"overlap": 0.5, "jitter": 1.0},
        "strength .5, overlap 1/2, jitter in every step": {"strength": 0.5, "overlap": 0.5, "jitter": 1.0},
    },
    "pixelsmith": {
        **{f"{steps} steps": {"steps": steps} for steps in (4, 16)},
        **{f"strength {strength}": {"strength": strength} for strength in (0.45, 0.8, 1.0)},
        "random order": {"order": "random"}, "guided to .2": {"guided_until": 0.2}, "guided to .5": {"guided_until": 0.5},
        "guide from LSR with RNA": GUIDES["guide from LSR with RNA"],
    },
}


# what docs/cost.md names, measured on more images
CONFIRMED = [*PAPERS, *PRESETS, "regions", "regions, 4 steps"]


def all_settings() -> dict[str, Setting]:
    """By name: the papers', a center for each method, and each center with one factor changed."""
    found = {"enlarged image": Setting("none"), **PAPERS, **PRESETS}
    for center in (REGIONS, DEMOFUSION, PIXELSMITH):
        found[center.method] = center
        found |= {f"{center.method}, {name}": replace(center, **changed) for name, changed in VARIATIONS[center.method].items()}
    return found


def confirmed() -> dict[str, Setting]:
    return {name: setting for name, setting in all_settings().items() if name in CONFIRMED}
