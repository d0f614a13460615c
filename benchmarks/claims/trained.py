"""Claims of ClearSR and of arbitrary scales, which come with networks of their own. ClearSR: x4 degradations at full strength."""

from __future__ import annotations

from dataclasses import replace

from ..decoding import Decoded, Drawn
from ..restoring import Restored
from .claim import Claim, Comparison

CLAIMS: list[Claim] = []
CLEARSR = Restored("clearsr")
ADJUSTED = replace(CLEARSR, alpha=0.01, beta=0.01)


def claim(world: str, method: str, text: str, source: str):
    def add(measure):
        CLAIMS.append(Claim(method, text, source, (world,), measure, {}))
        return measure

    return add


def clearsr(text: str, source: str):
    return claim("restoring", "ClearSR", text, source)


@clearsr("ClearSR restores more of the true image than enlarging (bicubic).", "ClearSR, Table 1")
def over_enlarged(world):
    return Comparison(CLEARSR, Restored("enlarged"), "truth", scale=4)


@clearsr("With ClearSR, things are recognized that the enlarged image has lost.", "ClearSR, Table 1")
def recognized(world):
    return Comparison(CLEARSR, Restored("enlarged"), "right", scale=4)


@clearsr("ClearSR restores more than the base model alone at its best start (denoise .3).", "ClearSR, Table 1")
def over_the_base(world):
    return Comparison(CLEARSR, Restored("alone", denoise=0.3), "truth", scale=4)


@clearsr("ClearSR is sharper than enlarging.", "ClearSR, Table 1")
def sharper(world):
    return Comparison(CLEARSR, Restored("enlarged"), "sharp", scale=4)


@clearsr("The DPM's window attention to the image adds fidelity (switched off after training).", "ClearSR, ablation of DPM, which finds -.13 dB and better looks")
def windows(world):
    return Comparison(CLEARSR, replace(CLEARSR, windows=False), "truth", scale=4)


@clearsr("The DPM's windows look at what they show (mirrored, they cost fidelity).", "docs/clearsr.md")
def mirrored_windows(world):
    return Comparison(CLEARSR, replace(CLEARSR, mirrored=True), "truth", scale=4)


@clearsr("GSPM adds fidelity (switched off).", "ClearSR, ablation: +.36 dB")
def gspm(world):
    return Comparison(CLEARSR, replace(CLEARSR, gspm=False), "truth", scale=4)


@clearsr("The decoder's LoRA adds fidelity (switched off).", "ClearSR, ablation: +.55 dB")
def decoder_lora(world):
    return Comparison(CLEARSR, replace(CLEARSR, decoder_lora=False), "truth", scale=4)


@clearsr("The encoder's LoRA costs fidelity (switched off).", "ClearSR, ablation: -.94 dB for better looks")
def encoder_lora(world):
    return Comparison(CLEARSR, replace(CLEARSR, encoder_lora=False), "truth", less=True, scale=4)


@clearsr("Early adjustment (alpha .01) adds fidelity.", "ClearSR, Table of LSA: +.33 dB")
def early_adjustment(world):
    return Comparison(replace(CLEARSR, alpha=0.01), CLEARSR, "truth", scale=4)


@clearsr("Late adjustment (beta .01) costs fidelity.", "ClearSR, Table of LSA: -.26 dB")
def late_adjustment(world):
    return Comparison(replace(CLEARSR, beta=0.01), CLEARSR, "truth", less=True, scale=4)


@clearsr("Late adjustment adds detail.", "ClearSR, Table of LSA")
def late_adjustment_adds_detail(world):
    return Comparison(replace(CLEARSR, beta=0.01), CLEARSR, "detail", scale=4)


@clearsr("Both together add fidelity.", "ClearSR, Table of LSA: +.11 dB")
def both_adjustments(world):
    return Comparison(ADJUSTED, CLEARSR, "truth", scale=4)


@clearsr("alpha .03 adds more than .01.", "ClearSR, Table of LSA: +.78 dB")
def larger_alpha(world):
    return Comparison(replace(ADJUSTED, alpha=0.03), ADJUSTED, "truth", scale=4)


@clearsr("Latent Adjustment by the plain encoder's latent is as good (within .1 dB).", "docs/clearsr.md")
def plain_reference(world):
    return Comparison(replace(ADJUSTED, plain=True), ADJUSTED, "truth", within=0.1, scale=4)


def any_scale(text: str, source: str, world: str = "decoding"):
    return claim(world, "Arbitrary scales", text, source)


def decoded(metric: str, scale: int, other: str = "lanczos", less: bool = False) -> Comparison:
    return Comparison(Decoded("implicit"), Decoded(other), metric, less, scale=scale)


@any_scale("At 2x the implicit decoder is nearer to the true image than a resize.", "Kim and Kim, Table 2")
def decoder_at_2x(world):
    return decoded("truth", 2)


@any_scale("At 3x the implicit decoder is.", "Kim and Kim, Table 2")
def decoder_at_3x(world):
    return decoded("truth", 3)


@any_scale("At 4x the implicit decoder is.", "Kim and Kim, Table 2")
def decoder_at_4x(world):
    return decoded("truth", 4)


@any_scale("At 8x the implicit decoder is.", "Kim and Kim, Table 2")
def decoder_at_8x(world):
    return decoded("truth", 8)


@any_scale("The implicit decoder's edges are truer at 4x.", "Kim and Kim, Figure 4")
def decoder_edges(world):
    return decoded("gradient", 4, less=True)


@any_scale("One latent's images at two sizes agree (SelfSSIM above .95).", "Kim and Kim, Table 5")
def sizes_agree(world):
    return Comparison(Decoded("implicit"), 0.95, "similar", scale=4)


@any_scale("A denoiser that starts from the small image beats enlarging it (64 to 256 px).", "docs/any-scale.md", "drawing")
def drawn_over_bicubic(world):
    return Comparison(Drawn("image"), Drawn("bicubic"), "truth", scale=4)


@any_scale("From noise alone, as in the paper, the denoiser beats enlarging (64 to 256 px).", "Kim and Kim, Table 3", "drawing")
def drawn_from_noise(world):
    return Comparison(Drawn("noise"), Drawn("bicubic"), "truth", scale=4)


@any_scale("From noise alone it beats enlarging once both have the true image's mean color.", "docs/any-scale.md", "drawing")
def drawn_from_noise_even(world):
    return Comparison(Drawn("noise"), Drawn("bicubic"), "even", scale=4)


@any_scale("At twice that size (512 px) the implicit decoder is nearer to the true image than a resize of the same latent's image.", "Kim and Kim, Table 3", "drawing")
def drawn_at_512(world):
    return Comparison(Drawn("image"), Drawn("image", "lanczos"), "truth", scale=8)
