"""ClearSR: restoring low-quality images (arXiv 2410.14279)."""

from comfy_api.latest import io

from ..engine.conditioning import check_prompts
from ..models.clearsr import file
from ..models.clearsr.loaded import ClearSRControl
from ..models.files import is_safetensors
from ..patches.clearsr import patch_decoder, with_control
from .checks import checked, rgb
from .file_inputs import file_input, file_path, fingerprint

FOLDER = "controlnet"


class LoadClearSR(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeLoadClearSR",
            display_name="Load ClearSR",
            category="Loupe/loaders",
            description="Loads a ClearSR file: the control networks and LoRAs that make a diffusion model restore low-quality images.",
            search_aliases=["ControlSR", "super resolution", "restore", "controlnet"],
            inputs=[
                file_input("control_net_name", FOLDER, file, "File in models/controlnet, for the checkpoint it was trained for.", offered=is_safetensors),
            ],
            outputs=[
                io.ControlNet.Output("control_net", display_name="control_net", tooltip="For Apply ClearSR, or Apply ControlNet with a VAE."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, control_net_name):
        return fingerprint(FOLDER, control_net_name)

    @classmethod
    def execute(cls, control_net_name) -> io.NodeOutput:
        return io.NodeOutput(ClearSRControl.from_file(file_path(FOLDER, control_net_name), control_net_name))


class ApplyClearSR(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoupeApplyClearSR",
            display_name="Apply ClearSR",
            category="Loupe/patches",
            description=(
                "Restores a low-quality image while sampling: its latent steers the model through two control "
                "networks, and LoRAs prepare encoder and model for it. Enlarge the image to the size you want "
                "first, sample the latent output with denoise 1 and an empty prompt."
            ),
            search_aliases=["ControlSR", "super resolution", "restore", "upscale", "controlnet"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The checkpoint that the file was trained for.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The empty prompt, or what the image shows.",
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The empty prompt, or what to avoid.",
                ),
                io.ControlNet.Input("control_net", tooltip="From Load ClearSR."),
                io.Vae.Input(
                    "vae",
                    tooltip="The checkpoint's VAE, for encoding and decoding.",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The low-quality image, enlarged to the size of the result.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.01,
                    tooltip="Strength of the control. 0 changes nothing.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, advanced=True,
                    tooltip="Share of the sampling after which the control begins.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, advanced=True,
                    tooltip="Where the control ends; earlier leaves fine detail to the model.",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output", optional=True,
                    tooltip="Image prompt, for files that were trained with one.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "patched", display_name="model",
                    tooltip="The model with the file's LoRA and image prompt.",
                ),
                io.Conditioning.Output(
                    "controlled_positive", display_name="positive",
                    tooltip="The prompt with the control; other ControlNets on it stay.",
                ),
                io.Conditioning.Output(
                    "controlled_negative", display_name="negative",
                    tooltip="The negative prompt with the control.",
                ),
                io.Latent.Output(
                    "low_quality", display_name="latent",
                    tooltip="The image as a latent, to sample from.",
                ),
                io.Latent.Output(
                    "adjustment_reference", display_name="reference",
                    tooltip="The reference for Latent Adjustment.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        positive,
        negative,
        control_net,
        vae,
        image,
        strength,
        start_percent,
        end_percent,
        clip_vision_output=None,
    ) -> io.NodeOutput:
        if not isinstance(control_net, ClearSRControl):
            raise ValueError(
                f"control_net is a {type(control_net).__name__}, not a ClearSR. Connect Load ClearSR; an ordinary "
                "ControlNet goes into Apply ControlNet."
            )
        check_prompts(model.model, positive=positive, negative=negative)
        image = rgb(image, "image", least=vae.spacial_compression_encode())
        prompt = None if clip_vision_output is None else clip_vision_output["image_embeds"]
        patched = patch_decoder(model, control_net, prompt)
        control = control_net.copy().set_cond_hint(image.movedim(-1, 1), strength, (start_percent, end_percent), vae=vae)
        latent = {"samples": vae.encode(image)}
        reference = {"samples": control.vae.encode(image)}
        if strength == 0:
            return io.NodeOutput(model, positive, negative, latent, reference)
        chains = {}
        positive, negative = (with_control(prompts, control, chains) for prompts in (positive, negative))
        return io.NodeOutput(patched, positive, negative, latent, reference)


NODES = [LoadClearSR, ApplyClearSR]
