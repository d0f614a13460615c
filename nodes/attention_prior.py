"""C-Upscale's regional attention prior (RAP; Qian et al., IJCV 2025)."""

from comfy_api.latest import io

from ..engine import with_parts
from ..engine.attention import LAYERS
from ..engine.latents import batch_index_of, samples_of
from ..patches.attention_prior import NOISES, AttentionPrior
from . import inputs
from .checks import checked


class AttentionPriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeAttentionPrior",
            display_name="Regional Attention Prior (RAP)",
            category="Loupe/patches",
            description=(
                "Keeps regions from drawing the whole prompt again: what each part of the small image attends to in "
                "the prompt steers the same part of the large one. One more network call at the small size for each "
                "step. Models with cross-attention layers of their own (SD 1.5, SDXL, PixArt, Anima, Wan)."
            ),
            search_aliases=["C-Upscale", "RAP", "cross attention", "duplicated objects"],
            inputs=[
                io.Model.Input("model", tooltip="Use it with Regional Denoise, in any order."),
                io.Latent.Input(
                    "reference",
                    tooltip="The small image as a latent, at the model's native size.",
                ),
                io.Float.Input(
                    "weight", default=0.5, min=0.0, max=1.0, step=0.01,
                    tooltip="Share of the prior in regions with their own prompt. Paper: 0.5.",
                ),
                io.Float.Input(
                    "weight_global", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Share of the prior in regions with only the global prompt.",
                ),
                io.Combo.Input(
                    "layers", options=list(LAYERS), default="all", advanced=True,
                    tooltip="Cross-attention layers that take part.",
                ),
                io.Int.Input(
                    "finest_cells", default=1, min=1, max=64, advanced=True,
                    tooltip="Skip layers with tokens smaller than this; 4 saves memory on SDXL.",
                ),
                io.Combo.Input(
                    "prior_noise", options=list(NOISES), default="fixed", advanced=True,
                    tooltip="Noise on the small image: the same at every step, or fresh.",
                ),
                inputs.own_seed("prior_seed", "Seed of that noise; the sampler's seed does not change it."),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model with the prior, for any sampler.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        reference,
        weight,
        weight_global,
        layers,
        finest_cells,
        prior_noise,
        prior_seed,
    ) -> io.NodeOutput:
        prior = AttentionPrior(
            samples_of(reference, "reference", model),
            weight=weight,
            weight_alone=weight_global,
            layers=layers,
            finest=finest_cells,
            noise=prior_noise,
            seed=prior_seed,
            batch_index=batch_index_of(reference, "reference"),
        )
        return io.NodeOutput(with_parts(model, prior))


NODES = [AttentionPriorNode]
