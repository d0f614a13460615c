"""The pack's nodes, one topic a file.

A file that this version of ComfyUI cannot import costs its own nodes only; FAILED says why.
"""

from contextlib import contextmanager

NODES: list[type] = []
FAILED: dict[str, Exception] = {}


@contextmanager
def topic(file: str):
    try:
        yield
    except Exception as error:  # a module that asks ComfyUI for what it lacks may raise anything
        FAILED[file] = error


with topic("nodes/mini.py"):
    from . import mini

    NODES += mini.NODES

with topic("nodes/lsr.py"):
    from . import lsr

    NODES += lsr.NODES

with topic("nodes/region_noise.py"):
    from . import region_noise

    NODES += region_noise.NODES

with topic("nodes/region_layout.py"):
    from . import region_layout

    NODES += region_layout.NODES

with topic("nodes/estimate.py"):
    from . import estimate

    NODES += estimate.NODES

with topic("nodes/region_prompts.py"):
    from . import region_prompts

    NODES += region_prompts.NODES

with topic("nodes/regional_denoise.py"):
    from . import regional_denoise

    NODES += regional_denoise.NODES

with topic("nodes/structure_prior.py"):
    from . import structure_prior

    NODES += structure_prior.NODES

with topic("nodes/attention_prior.py"):
    from . import attention_prior

    NODES += attention_prior.NODES

with topic("nodes/latent_adjustment.py"):
    from . import latent_adjustment

    NODES += latent_adjustment.NODES

with topic("nodes/guidance_interval.py"):
    from . import guidance_interval

    NODES += guidance_interval.NODES

with topic("nodes/inject_noise.py"):
    from . import inject_noise

    NODES += inject_noise.NODES

with topic("nodes/upscale_image.py"):
    from . import upscale_image

    NODES += upscale_image.NODES

with topic("nodes/clearsr.py"):
    from . import clearsr

    NODES += clearsr.NODES

with topic("nodes/demofusion.py"):
    from . import demofusion

    NODES += demofusion.NODES

with topic("nodes/pixelsmith.py"):
    from . import pixelsmith

    NODES += pixelsmith.NODES

with topic("nodes/implicit_decoder.py"):
    from . import implicit_decoder

    NODES += implicit_decoder.NODES
