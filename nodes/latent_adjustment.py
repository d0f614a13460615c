"""ClearSR's latent space adjustment (LSA; arXiv 2410.14279)."""

from comfy_api.latest import io

from ..engine import with_parts
from ..engine.latents import samples_of
from ..patches.latent_adjustment import BOUNDARIES, TARGETS, LatentAdjustment
from .checks import checked, verdict
from .presets import LATENT_ADJUSTMENT, decided, preset_input


class LatentAdjustmentNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLatentAdjustment",
            display_name="Latent Adjustment (LSA)",
            category="Loupe/patches",
            description=(
                "Trades fidelity for detail while an image is denoised: early steps are drawn a little towards the "
                "low-resolution image, late ones pushed away from it. Costs nothing, needs no training, and works "
                "with every model and ControlNet."
            ),
            search_aliases=["ClearSR", "ControlSR", "LSA", "ELA", "LLA", "fidelity", "detail"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with any LoRA and other patches.",
                ),
                io.Latent.Input(
                    "reference",
                    tooltip="The low-resolution image, enlarged and encoded.",
                ),
                preset_input(LATENT_ADJUSTMENT, "fidelity stays closer to the image than ClearSR; custom unlocks alpha and beta."),
                io.Float.Input(
                    "alpha", default=0.01, min=0.0, max=0.3, step=0.001,
                    tooltip="Move of each early step towards the reference. 0 is off.",
                ),
                io.Float.Input(
                    "beta", default=0.01, min=0.0, max=0.15, step=0.001,
                    tooltip="Move of each late step away from the reference. 0 is off.",
                ),
                io.Float.Input(
                    "early_end", default=0.2, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Fraction of the steps that count as early: 0.2 is 10 of 50.",
                ),
                io.Float.Input(
                    "late_start", default=0.8, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Where late steps start: 0.8 is the last 10 of 50.",
                ),
                io.Combo.Input(
                    "boundaries", options=list(BOUNDARIES), default=BOUNDARIES[0], advanced=True,
                    tooltip="Fractions of the paper's noise levels, or of the steps that run.",
                ),
                io.Combo.Input(
                    "target", options=list(TARGETS), default=TARGETS[0], advanced=True,
                    tooltip="Edit the noisy latent after each step, or the prediction (denoised).",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model with the adjustment, for most samplers.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset=None, alpha=None, beta=None, early_end=None, late_start=None, target=None):
        def check(preset, alpha, beta, **settings):
            LatentAdjustment(None, **decided(LATENT_ADJUSTMENT, preset, {"alpha": alpha, "beta": beta}), **settings).check()

        return verdict(cls, check, preset=preset, alpha=alpha, beta=beta, early_end=early_end, late_start=late_start, target=target)

    @classmethod
    @checked
    def execute(
        cls,
        model,
        reference,
        preset,
        alpha,
        beta,
        early_end,
        late_start,
        boundaries,
        target,
    ) -> io.NodeOutput:
        adjustment = LatentAdjustment(
            samples_of(reference, "reference", model),
            **decided(LATENT_ADJUSTMENT, preset, {"alpha": alpha, "beta": beta}),
            early_end=early_end,
            late_start=late_start,
            boundaries=boundaries,
            target=target,
        )
        return io.NodeOutput(with_parts(model, adjustment))


NODES = [LatentAdjustmentNode]
