"""C-Upscale's structure prior (GSP; Qian et al., IJCV 2025)."""

from comfy_api.latest import io

from ..engine import with_parts
from ..engine.latents import samples_of
from ..methods.structure_prior import BANDS, RUN_SCHEDULES, SCHEDULES
from ..methods.wavelets import WAVELETS
from ..patches.structure_prior import DIRECTIONS, TARGETS, StructurePrior
from .checks import checked, verdict

MODES = ("paper", "kappa")
UPSCALE_METHODS = ("bicubic", "bilinear", "area")


class StructurePriorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeStructurePrior",
            display_name="Structure Prior (GSP)",
            category="Loupe/patches",
            description=(
                "Keeps the composition of a small image while a large one is denoised: at every step the coarse "
                "structure of the prediction is pulled to that of the reference. Costs next to nothing and works with "
                "every model."
            ),
            search_aliases=["C-Upscale", "GSP", "wavelet", "low frequency", "structure guidance", "I-Max", "ScaleDiff"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with any LoRA and other patches.",
                ),
                io.Latent.Input(
                    "reference",
                    tooltip="The small image as a latent.",
                ),
                io.Float.Input(
                    "weight", default=0.2, min=0.0, max=10.0, step=0.01,
                    tooltip="How firmly coarse structure is held. Paper: 0.2. 0 is off.",
                ),
                io.Combo.Input(
                    "schedule", options=[*SCHEDULES, *RUN_SCHEDULES], default="cosine",
                    tooltip="How the weight changes over the noise levels. Paper: cosine.",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default="paper", advanced=True,
                    tooltip="kappa: weight is the fraction removed per step. paper: the paper's gradient step.",
                ),
                io.Boolean.Input(
                    "clamp", default=True, advanced=True,
                    tooltip="Never remove more than the whole deviation.",
                ),
                io.Combo.Input(
                    "compare", options=list(DIRECTIONS), default=DIRECTIONS[0], advanced=True,
                    tooltip="Compare on the large canvas, or at the reference's size (looser).",
                ),
                io.Combo.Input(
                    "upscale_method", options=list(UPSCALE_METHODS), default="bicubic", advanced=True,
                    tooltip="How the reference is enlarged.",
                ),
                io.Combo.Input(
                    "wavelet", options=list(WAVELETS), default="haar", advanced=True,
                    tooltip="Wavelet whose low band is compared. Paper: haar.",
                ),
                io.Int.Input(
                    "wavelet_levels", default=1, min=1, max=6, advanced=True,
                    tooltip="Wavelet levels: each halves what counts as coarse. Paper: 1.",
                ),
                io.Combo.Input(
                    "low_band", options=list(BANDS), default=BANDS[0], optional=True, advanced=True,
                    tooltip="What counts as coarse: a wavelet's low band, 1/8 of the size, or a smooth filter.",
                ),
                io.Combo.Input(
                    "target", options=list(TARGETS), default=TARGETS[0], optional=True, advanced=True,
                    tooltip="image: correct state and prediction (paper). prediction: prediction only (I-Max, ScaleDiff).",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model with the prior, for most samplers.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, compare=None, low_band=None):
        return verdict(cls, lambda compare, low_band: StructurePrior(None, direction=compare, band=low_band).check(None), compare=compare, low_band=low_band)

    @classmethod
    @checked
    def execute(
        cls,
        model,
        reference,
        weight,
        schedule,
        mode,
        clamp,
        compare,
        upscale_method,
        wavelet,
        wavelet_levels,
        low_band=BANDS[0],
        target=TARGETS[0],
    ) -> io.NodeOutput:
        prior = StructurePrior(
            samples_of(reference, "reference", model),
            weight=weight,
            schedule=schedule,
            mode=mode,
            clamp=clamp,
            direction=compare,
            kernel=upscale_method,
            wavelet=wavelet,
            levels=wavelet_levels,
            band=low_band,
            target=target,
        )
        return io.NodeOutput(with_parts(model, prior))


NODES = [StructurePriorNode]
