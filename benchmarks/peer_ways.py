"""Ways to enlarge an image that is drawn again, Loupe's and others', each as nodes of ComfyUI and its node packs.

What a way does not name is the node's own default. Tiles are the model's native size, as on a large model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .graph import Graph, Node

NATIVE = 128  # px
REGION = {"region_width": NATIVE, "region_height": NATIVE}
STEPS = 20
OVERLAP = NATIVE // 8  # of TiledDiffusion: 128 of 1024 px


class Stage(Graph):
    """A graph with what every way begins with.

    image, model, vae, positive, negative: links behind the node that starts the count. Sampled with euler.
    """

    def __init__(self, variant: str, cfg: float, scheduler: str, scale: int, image: str, text: str, seed: int):
        super().__init__()
        self.cfg, self.scheduler, self.scale, self.seed = cfg, scheduler, scale, seed
        world = self.add("LoupeLoadMini", variant=variant)
        prompts = [self.add("CLIPTextEncode", text=words, clip=world[1]) for words in (text, "")]
        start = self.add("LoupeBenchmarkStart", image=self.add("LoadImage", image=image), model=world, vae=world[2], positive=prompts[0], negative=prompts[1], native_cells=NATIVE // 8)
        self.image, self.model, self.vae, self.positive, self.negative, self.count = (start[i] for i in range(6))

    def finish(self, image: Node) -> tuple[Node, Node]:
        """What holds the numbers, and what holds the image."""
        stop = self.add("LoupeBenchmarkStop", image=image, count=self.count)
        return stop, self.add("PreviewImage", images=stop)

    @property
    def side(self) -> int:
        return NATIVE * self.scale

    def enlarged(self) -> Node:
        return self.add("ImageScale", image=self.image, upscale_method="lanczos", width=self.side, height=self.side, crop="disabled")

    def encoded(self, image: object) -> Node:
        return self.add("VAEEncode", pixels=image, vae=self.vae)

    def decoded(self, latent: object) -> Node:
        return self.add("VAEDecode", samples=latent, vae=self.vae)

    def controlled(self, image: object) -> tuple[Node, dict]:
        """Model and prompts with ClearSR, which stands for a tile ControlNet."""
        network = self.add("LoupeLoadClearSR", control_net_name="mini_clearsr.safetensors")
        applied = self.add("LoupeApplyClearSR", model=self.model, control_net=network, vae=self.vae, image=image, **self.prompts)
        return applied, {"positive": applied[1], "negative": applied[2]}

    @property
    def settings(self) -> dict:
        """Of everything that samples as KSampler does."""
        return {"seed": self.seed, "cfg": self.cfg, "sampler_name": "euler", "scheduler": self.scheduler}

    @property
    def prompts(self) -> dict:
        return {"positive": self.positive, "negative": self.negative}

    def sampled(self, model: object, latent: object, denoise: float, steps: int) -> Node:
        return self.add("KSampler", model=model, latent_image=latent, denoise=denoise, steps=steps, **self.settings, **self.prompts)


class Way(Protocol):
    def draw(self, stage: Stage) -> Node:
        """Adds its nodes; the last one's first output is the image."""


@dataclass(frozen=True)
class Lanczos:
    def draw(self, stage: Stage) -> Node:
        return stage.enlarged()


@dataclass(frozen=True)
class Canvas:
    """The whole canvas at once, by ComfyUI alone. latent: enlarged as a latent (bicubic), not as an image."""

    denoise: float
    latent: bool = False
    steps: int = STEPS

    def draw(self, stage: Stage) -> Node:
        if self.latent:
            begin = stage.add("LatentUpscale", samples=stage.encoded(stage.image), upscale_method="bicubic", width=stage.side, height=stage.side, crop="disabled")
        else:
            begin = stage.encoded(stage.enlarged())
        return stage.decoded(stage.sampled(stage.model, begin, self.denoise, self.steps))


@dataclass(frozen=True)
class TileList:
    """ComfyUI's lists of tiles, each drawn by itself."""

    denoise: float
    steps: int = STEPS

    def draw(self, stage: Stage) -> Node:
        tiles = stage.add("SplitImageToTileList", image=stage.enlarged(), tile_width=NATIVE, tile_height=NATIVE, overlap=OVERLAP)
        drawn = stage.decoded(stage.sampled(stage.model, stage.encoded(tiles), self.denoise, self.steps))
        return stage.add("ImageMergeTileList", image_list=drawn, final_width=stage.side, final_height=stage.side, overlap=OVERLAP)


@dataclass(frozen=True)
class UltimateSDUpscale:
    """control: with ClearSR."""

    denoise: float
    padding: int = 32
    blur: int = 8
    steps: int = STEPS
    seams: str = "None"
    control: bool = False

    def draw(self, stage: Stage) -> Node:
        enlarged = stage.enlarged()
        model, prompts = stage.controlled(enlarged) if self.control else (stage.model, stage.prompts)
        return stage.add(
            "UltimateSDUpscaleNoUpscale", upscaled_image=enlarged, model=model, vae=stage.vae, steps=self.steps, denoise=self.denoise,
            tile_width=NATIVE, tile_height=NATIVE, tile_padding=self.padding, mask_blur=self.blur, seam_fix_mode=self.seams,
            **stage.settings, **prompts,
        )


@dataclass(frozen=True)
class TiledDiffusion:
    method: str
    denoise: float
    steps: int = STEPS
    overlap: int = OVERLAP

    def draw(self, stage: Stage) -> Node:
        model = stage.add("TiledDiffusion", model=stage.model, method=self.method, tile_width=NATIVE, tile_height=NATIVE, tile_overlap=self.overlap)
        return stage.decoded(stage.sampled(model, stage.encoded(stage.enlarged()), self.denoise, self.steps))


@dataclass(frozen=True)
class Regions:
    """Regional Denoise with nothing else."""

    denoise: float
    steps: int = STEPS

    def draw(self, stage: Stage) -> Node:
        model = stage.add("LoupeRegionalDenoise", model=stage.model, **REGION)
        return stage.decoded(stage.sampled(model, stage.encoded(stage.enlarged()), self.denoise, self.steps))


@dataclass(frozen=True)
class UpscaleYourImage:
    """The graph of the templates of that name. control: with ClearSR."""

    creativity: float = 0.35
    preset: str = "balanced"
    control: bool = False

    def draw(self, stage: Stage) -> Node:
        begin = stage.add("LoupeEnlargeImage", image=stage.image, vae=stage.vae, scale_by=stage.scale)
        model, prompts = stage.controlled(begin[2]) if self.control else (stage.model, stage.prompts)
        dial = stage.add("LoupeCreativity", model=stage.model, creativity=self.creativity, preset=self.preset, scheduler="simple")
        model = stage.add("LoupeRegionalDenoise", model=model, jitter=False, **REGION)
        model = stage.add("LoupeStructurePrior", model=model, reference=begin[1], weight=dial[1], mode="kappa")
        model = stage.add("LoupeLatentAdjustment", model=model, reference=begin, preset="custom", alpha=dial[2], beta=0.0, early_end=0.5, late_start=1.0, boundaries="steps")
        sampler = stage.add("KSamplerSelect", sampler_name="euler")
        drawn = stage.add("SamplerCustom", model=model, add_noise=True, noise_seed=stage.seed, cfg=stage.cfg, sampler=sampler, sigmas=dial, latent_image=begin, **prompts)
        return stage.decoded(drawn)


@dataclass(frozen=True)
class CUpscale:
    """Structure Prior and Attention Prior, the last `steps` of 50 as in the paper."""

    steps: int
    overlap: float = 0.5

    def draw(self, stage: Stage) -> Node:
        reference = stage.encoded(stage.image)
        model = stage.add("LoupeRegionalDenoise", model=stage.model, overlap=self.overlap, blend="uniform", jitter=False, **REGION)
        model = stage.add("LoupeStructurePrior", model=model, reference=reference, weight=0.2, mode="paper")
        model = stage.add("LoupeAttentionPrior", model=model, reference=reference)
        drawn = stage.add(
            "KSamplerAdvanced", model=model, add_noise="enable", noise_seed=stage.seed, steps=50, cfg=stage.cfg, sampler_name="euler", scheduler="ddim_uniform",
            latent_image=stage.encoded(stage.enlarged()), start_at_step=50 - self.steps, end_at_step=50, return_with_leftover_noise="disable", **stage.prompts,
        )
        return stage.decoded(drawn)


@dataclass(frozen=True)
class DemoFusion:
    """The DemoFusion Sampler. lsr: enlarged by Load Latent SR Model's network."""

    preset: str
    lsr: bool = False

    def draw(self, stage: Stage) -> Node:
        link = {"lsr": stage.add("LoupeLoadLSR", model_name="mini_lsr.safetensors")} if self.lsr else {}
        drawn = stage.add(
            "LoupeDemoFusionSampler", model=stage.model, reference=stage.encoded(stage.image), vae=stage.vae, scale_by=stage.scale, width=0, height=0,
            preset=self.preset, cfg=stage.cfg, seed=stage.seed, **stage.prompts, **REGION, **link,
        )
        return stage.decoded(drawn)


@dataclass(frozen=True)
class PixelSmith:
    """The PixelSmith Sampler."""

    preset: str

    def draw(self, stage: Stage) -> Node:
        guide = stage.encoded(stage.enlarged())
        return stage.decoded(stage.add("LoupePixelSmithSampler", model=stage.model, guide=guide, patch_size=NATIVE, preset=self.preset, cfg=stage.cfg, seed=stage.seed, **stage.prompts))
