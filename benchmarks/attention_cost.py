"""`bench attention-cost`: what C-Upscale's attention prior (RAP) costs on a network of SDXL's layout.

The network is a tenth as wide as SDXL, with random weights; a canvas of 3 x 3 regions is evaluated with and without
the prior, in turn. Processor time of whole evaluations.
"""

from __future__ import annotations

import argparse
import time

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch

from ..engine import with_parts
from ..patches.attention_prior import AttentionPrior
from ..patches.regional_denoise import RegionalDenoise

SDXL_LAYOUT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_spatial_transformer": True, "use_linear_in_transformer": True, "context_dim": 2048, "num_heads": -1, "num_head_channels": 32,
    "num_classes": "sequential", "adm_in_channels": 2816, "use_temporal_attention": False, "legacy": False,
}


def random_model():
    """MODEL of SDXL's layout on the CPU."""
    config = comfy.supported_models.SDXL({**SDXL_LAYOUT})
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "")
    for parameter in network.diffusion_model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return comfy.model_patcher.CoreModelPatcher(network.eval(), torch.device("cpu"), torch.device("cpu"))


@torch.inference_mode()
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench attention-cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--region", type=int, default=64, help="side of a region, latent cells")
    parser.add_argument("--evaluations", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    region = options.region
    model = with_parts(random_model(), RegionalDenoise((region, region), regions_per_call=9))
    prior = with_parts(model, AttentionPrior(torch.zeros(1, 4, region, region)))
    latent, prompt = torch.zeros(1, 4, 2 * region, 2 * region), [[torch.zeros(1, 77, 2048), {"pooled_output": torch.zeros(1, 1280)}]]
    seconds = {model: 0.0, prior: 0.0}
    for number in range(options.evaluations + 1):
        for patched in seconds:
            start = time.process_time()
            comfy.sample.sample_custom(patched, latent, 4.0, comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0]), prompt, prompt, latent, disable_pbar=True, seed=0)
            if number:  # the first one warms up
                seconds[patched] += time.process_time() - start
    without, with_prior = (total / options.evaluations for total in seconds.values())
    print(f"SDXL's layout, {SDXL_LAYOUT['model_channels']} channels, 9 regions of {region} x {region} cells: {without:.1f} s an evaluation, with RAP {with_prior:.1f} s")
    print(f"RAP costs {9 * (with_prior / without - 1):.2f} times a region")
