"""Claims of LSRNA, DemoFusion, PixelSmith, C-Upscale and Latent Adjustment on enlarging an image twice.

On the UNet each is varied around its paper's settings; the flow transformer, which people run in few steps, around 8 steps.
"""

from __future__ import annotations

from dataclasses import replace

from ...methods.creativity import PRESETS, alpha, settings
from ..settings import DEMOFUSION, NEVER, PAPERS, PIXELSMITH, REGIONS, Setting
from .claim import FEW, FLOW, UNET, Claim, Comparison

CLAIMS: list[Claim] = []
PAPER = "ddim (paper)"
NO_ATTENTION = {FLOW: "no Attention Prior where one softmax attends to text and image"}

LSRNA = {UNET: PAPERS["LSRNA-DemoFusion, paper"], FLOW: replace(DEMOFUSION, guide="lsr", edge_noise=1.2)}
FROM_NOISE = {UNET: PAPERS["DemoFusion, paper"], FLOW: replace(DEMOFUSION, strength=1.0, guide="latent")}
PIXELS = {UNET: PAPERS["PixelSmith, paper"], FLOW: PIXELSMITH}
TILES = {UNET: Setting("regions", 22, 0.44, PAPER, 0.5, "uniform", 0.0), FLOW: replace(REGIONS, structure=0.0)}
GSP = {UNET: {"structure": 0.2, "structure_mode": "paper"}, FLOW: {"structure": 0.3}}
OUT = {"dilated": NEVER}


def claim(method: str, text: str, source: str, worlds: tuple[str, ...] = (UNET, FLOW), absent: dict[str, str] | None = None):
    def add(measure):
        CLAIMS.append(Claim(method, text, source, worlds, measure, absent or {}))
        return measure

    return add


def enlarged(guide: str) -> Setting:
    return Setting("encoded", guide=guide)


def tiles(world: str, *priors: dict, **changed) -> Setting:
    for prior in priors:
        changed = {**prior, **changed}
    return replace(TILES[world], **changed)


# LSR and region-wise noise

@claim("LSRNA", "LSR enlarges a latent more faithfully than bicubic interpolation.", "LSRNA, section 3.2", (UNET,))
def lsr_over_bicubic(world):
    return Comparison(enlarged("lsr"), enlarged("latent"), "truth")


@claim("LSRNA", "LSR's latents are sharper than bicubic ones.", "LSRNA, section 3.2", (UNET,))
def lsr_sharper(world):
    return Comparison(enlarged("lsr"), enlarged("latent"), "sharp")


@claim("LSRNA", "LSR is as faithful as enlarging the pixels.", "LSRNA, section 3.1, says that pixels lose detail", (UNET,))
def lsr_over_pixels(world):
    return Comparison(enlarged("lsr"), enlarged("pixels"), "truth")


@claim("LSRNA", "As DemoFusion's guide, LSR keeps more of the image than a bicubic latent.", "LSRNA, ablation of LSR")
def lsr_guides_over_bicubic(world):
    return Comparison(replace(LSRNA[world], edge_noise=0.0), replace(LSRNA[world], edge_noise=0.0, guide="latent"), "base")


@claim("LSRNA", "As DemoFusion's guide, LSR keeps more of the image than enlarging in pixels.", "LSRNA, section 3.1")
def lsr_guides_over_pixels(world):
    return Comparison(replace(LSRNA[world], edge_noise=0.0), replace(LSRNA[world], edge_noise=0.0, guide="pixels"), "base")


@claim("LSRNA", "As DemoFusion's guide, LSR gives sharper results than enlarging in pixels.", "LSRNA, section 3.1")
def lsr_guides_sharper_than_pixels(world):
    return Comparison(replace(LSRNA[world], edge_noise=0.0), replace(LSRNA[world], edge_noise=0.0, guide="pixels"), "sharp")


@claim("LSRNA", "Region-wise noise adds detail.", "LSRNA, ablation of RNA")
def region_noise_adds_detail(world):
    return Comparison(LSRNA[world], replace(LSRNA[world], edge_noise=0.0), "sharp")


@claim("LSRNA", "Region-wise noise costs no fidelity (within .25 dB).", "LSRNA, ablation of RNA")
def region_noise_keeps_fidelity(world):
    return Comparison(LSRNA[world], replace(LSRNA[world], edge_noise=0.0), "base", within=0.25)


@claim("LSRNA", "Noise at edges keeps more than as much noise everywhere.", "LSRNA, ablation of RNA", (UNET,))
def edges_over_uniform(world):
    return Comparison(LSRNA[world], replace(LSRNA[world], edge_map="uniform"), "base")


@claim("LSRNA", "Canny's thresholds hardly matter (0, 255 against 100, 200: within .25 dB).", "LSRNA, Table C", (UNET,))
def canny_hardly_matters(world):
    return Comparison(LSRNA[world], replace(LSRNA[world], canny=(100, 200)), "base", within=0.25)


@claim("LSRNA", "A shallower start keeps more of the image (20 against 30 of 50 steps).", "LSRNA, depth", (UNET,))
def shallower_keeps_more(world):
    return Comparison(replace(LSRNA[world], steps=20, strength=0.4), LSRNA[world], "base")


@claim("LSRNA", "A deeper start adds detail (40 against 30 of 50 steps).", "LSRNA, depth", (UNET,))
def deeper_adds_detail(world):
    return Comparison(replace(LSRNA[world], steps=40, strength=0.8), LSRNA[world], "sharp")


@claim("LSRNA", "LSRNA-DemoFusion keeps more of the image than progressive DemoFusion.", "LSRNA, Table 1", (UNET,))
def lsrna_over_demofusion(world):
    return Comparison(LSRNA[world], FROM_NOISE[world], "base")


@claim("LSRNA", "LSRNA-DemoFusion needs fewer network rows than progressive DemoFusion.", "LSRNA, Table 1", (UNET,))
def lsrna_needs_fewer_rows(world):
    return Comparison(LSRNA[world], FROM_NOISE[world], "rows", less=True)


@claim("LSRNA", "LSRNA-PixelSmith keeps more of the image than PixelSmith.", "LSRNA, Table 1", (UNET,))
def lsrna_pixelsmith(world):
    return Comparison(LSRNA_PIXELSMITH, PIXELS[world], "base")


@claim("LSRNA", "LSRNA-PixelSmith needs fewer network rows than PixelSmith.", "LSRNA, Table 1", (UNET,))
def lsrna_pixelsmith_rows(world):
    return Comparison(LSRNA_PIXELSMITH, PIXELS[world], "rows", less=True)


LSRNA_PIXELSMITH = Setting("pixelsmith", 30, 0.6, PAPER, order="random", guided_until=0.4, guide="lsr", edge_noise=0.8, edge_least=0.4)


# DemoFusion

@claim("DemoFusion", "Skip residual and dilated pass keep regions from repeating things.", "DemoFusion, Figure 3")
def demofusion_stops_repetition(world):
    return Comparison(FROM_NOISE[world], replace(FROM_NOISE[world], skip=False, **OUT), "extra", less=True)


@claim("DemoFusion", "The skip residual keeps the image.", "DemoFusion, ablation")
def skip_residual_keeps(world):
    return Comparison(FROM_NOISE[world], replace(FROM_NOISE[world], skip=False), "base")


@claim("DemoFusion", "The dilated pass keeps things from being repeated.", "DemoFusion, ablation")
def dilated_pass_stops_repetition(world):
    return Comparison(FROM_NOISE[world], replace(FROM_NOISE[world], **OUT), "extra", less=True)


@claim("DemoFusion", "DemoFusion repeats fewer things than sampling the whole canvas at once.", "DemoFusion, Figure 1", (UNET,))
def demofusion_over_canvas(world):
    return Comparison(FROM_NOISE[world], Setting("canvas", 50, 1.0, PAPER), "extra", less=True)


# PixelSmith

@claim("PixelSmith", "More guided steps keep more of the image (.2 against .6).", "PixelSmith, section 4, slider")
def slider_keeps(world):
    return Comparison(replace(PIXELS[world], guided_until=0.2), replace(PIXELS[world], guided_until=0.6), "base")


@claim("PixelSmith", "Fewer guided steps draw more detail (.6 against .2).", "PixelSmith, section 4, slider")
def slider_frees_detail(world):
    return Comparison(replace(PIXELS[world], guided_until=0.6), replace(PIXELS[world], guided_until=0.2), "sharp")


@claim("PixelSmith", "More guided steps keep things from being repeated (.2 against .6).", "PixelSmith, section 4, slider")
def slider_stops_repetition(world):
    return Comparison(replace(PIXELS[world], guided_until=0.2), replace(PIXELS[world], guided_until=0.6), "extra", less=True)


@claim("PixelSmith", "Loupe's order *cover* is as faithful as the random one (within .5 dB).", "docs/pixelsmith.md")
def cover_is_as_faithful(world):
    return Comparison(replace(PIXELS[world], order="cover"), replace(PIXELS[world], order="random"), "base", within=0.5)


@claim("PixelSmith", "*cover* needs fewer network rows than the random order.", "docs/pixelsmith.md")
def cover_needs_fewer_rows(world):
    return Comparison(replace(PIXELS[world], order="cover"), replace(PIXELS[world], order="random"), "rows", less=True)


# C-Upscale

@claim("C-Upscale", "The Structure Prior (GSP) keeps more of the image.", "C-Upscale, ablation of GSP")
def gsp_keeps(world):
    return Comparison(tiles(world, GSP[world]), tiles(world), "base")


@claim("C-Upscale", "GSP keeps things from being repeated.", "C-Upscale, ablation of GSP")
def gsp_stops_repetition(world):
    return Comparison(tiles(world, GSP[world]), tiles(world), "extra", less=True)


@claim("C-Upscale", "GSP costs no sharpness.", "C-Upscale, ablation of GSP")
def gsp_keeps_sharpness(world):
    return Comparison(tiles(world, GSP[world]), tiles(world), "sharp", within=5.0)


@claim("C-Upscale", "Weight 1.0 overshoots: it keeps less than .2.", "C-Upscale, ablation of the step size", (UNET,))
def gsp_overshoots(world):
    return Comparison(tiles(world, GSP[world]), tiles(world, GSP[world], structure=1.0), "base")


@claim("C-Upscale", "The cosine schedule keeps more than the increasing one.", "C-Upscale, ablation of schedules", (UNET,))
def gsp_cosine_over_increasing(world):
    return Comparison(tiles(world, GSP[world]), tiles(world, GSP[world], structure_schedule="increasing"), "base")


@claim("C-Upscale", "The cosine schedule keeps more than the linear one.", "C-Upscale, ablation of schedules", (UNET,))
def gsp_cosine_over_linear(world):
    return Comparison(tiles(world, GSP[world]), tiles(world, GSP[world], structure_schedule="linear"), "base")


@claim("C-Upscale", "The Attention Prior (RAP) keeps things from being repeated.", "C-Upscale, ablation of RAP", (UNET,), NO_ATTENTION)
def rap_stops_repetition(world):
    return Comparison(tiles(world, attention=True), tiles(world), "extra", less=True)


@claim("C-Upscale", "RAP keeps more of the image.", "C-Upscale, ablation of RAP", (UNET,), NO_ATTENTION)
def rap_keeps(world):
    return Comparison(tiles(world, attention=True), tiles(world), "base")


@claim("C-Upscale", "RAP and GSP together repeat fewer things than GSP alone.", "C-Upscale, ablation", (UNET,), NO_ATTENTION)
def rap_adds_to_gsp(world):
    return Comparison(tiles(world, GSP[world], attention=True), tiles(world, GSP[world]), "extra", less=True)


@claim("C-Upscale", "Generated prompts of regions (RSP) keep things from being repeated.", "C-Upscale, ablation of RSP")
def rsp_stops_repetition(world):
    return Comparison(tiles(world, prompts="captions"), tiles(world), "extra", less=True)


@claim("C-Upscale", "RSP adds detail.", "C-Upscale, ablation of RSP")
def rsp_adds_detail(world):
    return Comparison(tiles(world, prompts="captions"), tiles(world), "sharp")


@claim("C-Upscale", "Generated captions are as good as true ones (within .25 dB).", "C-Upscale, section 3.4")
def captions_as_good_as_true(world):
    return Comparison(tiles(world, prompts="captions"), tiles(world, prompts="scene"), "base", within=0.25)


@claim("C-Upscale", "All three together keep more than RAP and GSP.", "C-Upscale, ablation", (UNET,), NO_ATTENTION)
def all_three(world):
    return Comparison(tiles(world, GSP[world], attention=True, prompts="captions"), tiles(world, GSP[world], attention=True), "base")


@claim("C-Upscale", "An overlap of one half shows fewer seams than none.", "C-Upscale, section 4")
def overlap_hides_seams(world):
    return Comparison(tiles(world, overlap=0.5), tiles(world, overlap=0.0), "seam", less=True)


@claim("C-Upscale", "GSP keeps the image in 4 steps as well.", "C-Upscale, Hyper-SDXL")
def gsp_in_few_steps(world):
    return Comparison(replace(REGIONS, steps=4), replace(REGIONS, steps=4, structure=0.0), "base")


# Latent Adjustment

ADJUSTED = {UNET: Setting("regions", 22, 0.44, PAPER, 0.5, "uniform", 0.0, sampler="ddpm", adjusted=(0.2, 0.8)), FLOW: replace(REGIONS, structure=0.0, adjusted=(0.2, 0.8))}


@claim("Latent Adjustment", "Early adjustment (alpha .01) keeps more of the image.", "ClearSR, Table of LSA")
def early_adjustment_keeps(world):
    return Comparison(replace(ADJUSTED[world], alpha=0.01), ADJUSTED[world], "base")


@claim("Latent Adjustment", "Late adjustment (beta .01) adds detail.", "ClearSR, Table of LSA")
def late_adjustment_adds_detail(world):
    return Comparison(replace(ADJUSTED[world], beta=0.01), ADJUSTED[world], "sharp")


@claim("Latent Adjustment", "Late adjustment pays for it in fidelity.", "ClearSR, Table of LSA")
def late_adjustment_costs_fidelity(world):
    return Comparison(replace(ADJUSTED[world], beta=0.01), ADJUSTED[world], "base", less=True)


@claim("Latent Adjustment", "alpha .03 keeps more than .01.", "ClearSR*, fidelity")
def larger_alpha_keeps(world):
    return Comparison(replace(ADJUSTED[world], alpha=0.03, beta=0.01), replace(ADJUSTED[world], alpha=0.01, beta=0.01), "base")


@claim("Latent Adjustment", "In the first half of the steps alpha keeps more than in the first fifth.", "docs/one-dial.md")
def half_over_fifth(world):
    return Comparison(replace(ADJUSTED[world], alpha=0.05, adjusted=(0.5, 1.0)), replace(ADJUSTED[world], alpha=0.05), "base")


# Loupe's own dial

def dial(creativity: float, preset: str = "balanced") -> Setting:
    """What *Upscale your image* runs."""
    strength, structure, fidelity = settings(creativity)
    steps = PRESETS[preset]
    return Setting("regions", steps, strength, jitter=0.0, structure=structure, alpha=alpha(fidelity, steps) if fidelity else 0.0)


@claim("Creativity", "The Structure Prior and Latent Adjustment together keep more than the prior alone.", "docs/one-dial.md")
def both_priors(world):
    return Comparison(replace(REGIONS, alpha=0.05), REGIONS, "base")


# A shallow start

BOTH = (UNET, FEW)


def shallow(steps: int, injected: float = 0.0, structure: float = 0.0, strength: float = 0.25) -> Setting:
    return Setting("regions", steps, strength, jitter=0.0, structure=structure, injected=injected)


@claim("Shallow start", "Injected noise sharpens a single step.", "PixelRush, ablation", BOTH)
def injected_noise_sharpens(world):
    return Comparison(shallow(1, 0.05), shallow(1), "sharp")


@claim("Shallow start", "Injected noise costs no fidelity (within .1 dB).", "PixelRush, ablation", BOTH)
def injected_noise_keeps_fidelity(world):
    return Comparison(shallow(1, 0.05), shallow(1), "base", within=0.1)


@claim("Shallow start", "A single step is as sharp as 8 steps of the dial that starts there (within 5 %).", "docs/shallow-start.md", BOTH)
def one_step_is_sharp(world):
    return Comparison(shallow(1), dial(0.125), "sharp", within=5.0)


@claim("Shallow start", "The Structure Prior lets a single step keep more.", "docs/shallow-start.md", BOTH)
def prior_in_one_step(world):
    return Comparison(shallow(1, structure=0.4), shallow(1), "base")


@claim("Shallow start", "Two steps from strength .15 keep what the dial at 0 keeps in 4 (within .5 dB).", "docs/shallow-start.md", BOTH)
def two_steps_are_enough(world):
    return Comparison(shallow(2, strength=0.15), dial(0.0, "fast"), "base", within=0.5)


@claim("Shallow start", "One and two steps draw no more than 8 (within .1 extra things).", "docs/shallow-start.md", BOTH)
def few_steps_draw_no_more(world):
    return Comparison(shallow(2), dial(0.125), "extra", within=0.1)
