"""DemoFusion and LSRNA-DemoFusion on ComfyUI's sampler against the reference data.

The reference picks its jitter from a generator of its own; the recorded views are replayed.
"""

from dataclasses import dataclass

import pytest
import tiny
import torch
from loupe.engine.sigmas import schedule
from loupe.methods.regions import Region
from loupe.patches.demofusion_sampler import phase_sizes, sample_phase
from loupe.patches.regional_denoise import RegionalDenoise

pytestmark = pytest.mark.numerics


@dataclass(frozen=True)
class Replayed(RegionalDenoise):
    views: tuple = ()
    border: int = 4

    def jitter_of(self, layout):
        return self.border

    def draw(self, layout, jitter, step):
        return [Region(y, x, y1 - y, x1 - x) for y, y1, x, x1 in self.views[step]]


def run(model, tensors, info, views, guidance, noise, sigmas, cfg=1.0, **regional):
    latent = model.model.process_latent_out
    regional = Replayed((info["window"],) * 2, info["stride"] / info["window"], views=views.tolist(), border=info["jitter_range"], **regional)
    positive, negative = tiny.conditioning(pooled=0.1), tiny.conditioning(pooled=-0.05)
    out = sample_phase(model, positive, negative, latent(tensors["ref"]), latent(guidance), noise, sigmas, cfg, 0, regional)
    return model.model.process_latent_in(out)


def check(out, expected, info):
    tolerance = info["tolerance"]
    assert tiny.relative(out, expected) < tolerance["rel_l2_fp32"]
    assert (out - expected).abs().max() < tolerance["max_abs_fp32"]


@pytest.mark.parametrize("name", ["lsrna_df_s32_2x_jitter", "lsrna_df_s32_pad_nojitter", "lsrna_df_s32_cond"])
def test_lsrna(name, golden):
    tensors, info = golden(name)
    model = tiny.toy(tensors, sizes="cond" in info)
    sigmas = schedule(model, "ddim (paper)", 30, 0.6, end_at_zero=False)
    # the reference has 32 pixels per latent cell
    pixels = {"sizes": "canvas", "canvas_pixels": (info["config"]["height"], info["config"]["width"])}
    if "cond" in info:
        model.model.latent_format.spacial_downscale_ratio = 32
    out = run(model, tensors, info, tensors["views"], tensors["guidance"], tensors["noise"], sigmas, info["guidance_scale"], **pixels)
    check(out, tensors["final"], info)


@pytest.mark.parametrize("name", ["df_s32_3x_jitter", "df_s32_rect_pad_30steps", "df_s32_2x_nojitter_imglr", "df_s32_2x_euler"])
def test_demofusion(name, golden):
    tensors, info = golden(name)
    model = tiny.toy(tensors)
    sigmas = schedule(model, "ddim (paper)", len(info["timesteps"]), end_at_zero="sigmas" in info)
    if "sigmas" in info:
        torch.testing.assert_close(sigmas, torch.tensor(info["sigmas"]), rtol=2e-5, atol=0)
    phases = [phase for phase in info["phases"] if phase["scale"] > 1]
    assert phase_sizes(tuple(tensors["ref"].shape[-2:]), tuple(phases[-1]["hr_hw"]), progressive=True) == [tuple(phase["hr_hw"]) for phase in phases]
    for phase in info["phases"]:
        p = f"p{phase['scale']}"
        out = run(model, tensors, info, tensors[f"{p}.views"], tensors[f"{p}.up"], tensors[f"{p}.noise"], sigmas)
        check(out, tensors[f"{p}.out"], info)
