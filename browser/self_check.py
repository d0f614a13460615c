"""What the nodes need of ComfyUI's internals, looked for once when the extension loads.

A need that is not met costs the nodes that it names, and no others.
"""

import inspect
import logging
import pkgutil
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple


class Need(NamedTuple):
    """Something inside ComfyUI, `where` it is as "module:name".

    nodes: ids of those that cannot work without it. takes: its first parameters. says: words of its code, such as the
    names of the hooks that it looks for. option: what is lost where no node is, in words.
    """

    where: str
    nodes: set[str] = set()
    takes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    option: str = ""

    def __str__(self):
        takes = f"({', '.join(self.takes)})" if self.takes else ""
        says = f" that knows {', '.join(self.says)}" if self.says else ""
        return self.where.replace(":", ".") + takes + says

    def is_met(self) -> bool:
        try:
            thing = pkgutil.resolve_name(self.where)
        except Exception:  # whatever a module of another version raises when it is imported
            return False
        if not _is_comfyui(thing, self.where):
            return True
        return (not self.takes or _parameters(thing)[: len(self.takes)] == self.takes) and set(self.says) <= set(_words(thing))


def _is_comfyui(thing, where):
    """Whether it is ComfyUI's own; what another pack has put in its place is the affair of that pack."""
    return (getattr(thing, "__module__", None) or where).split(".")[0] == where.split(":")[0].split(".")[0]


def _parameters(thing):
    return tuple(inspect.signature(thing).parameters)


def _words(thing) -> Iterator[str]:
    """Names and constants in the code of a function and of those inside it."""
    code = getattr(inspect.unwrap(thing), "__code__", None)
    waiting = [code] if code else []
    while waiting:
        code = waiting.pop()
        yield from (*code.co_names, *code.co_varnames, *(constant for constant in code.co_consts if isinstance(constant, str)))
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


# nodes that show the network parts of the canvas, that edit the sampler's state, that sample by themselves
SHOWING = {"LoupeDemoFusion", "LoupeDemoFusionSampler", "LoupeRegionalDenoise", "LoupeAttentionPrior", "LoupePixelSmithSampler"}
EDITING = {"LoupeDemoFusion", "LoupeDemoFusionSampler", "LoupeStructurePrior", "LoupeLatentAdjustment", "LoupeInjectNoise"}
SAMPLERS = {"LoupeDemoFusionSampler", "LoupePixelSmithSampler"}
PATCHING = SHOWING | EDITING | {"LoupeGuidanceInterval"}
CLEARSR = {"LoupeLoadClearSR", "LoupeApplyClearSR"}

NEEDS = [
    # wrappers, and who calls them with what
    Need("comfy.samplers:_calc_cond_batch_outer", PATCHING, takes=("model", "conds", "x_in", "timestep", "model_options"), says=("CALC_COND_BATCH",)),
    Need("comfy.sampler_helpers:prepare_sampling", PATCHING, takes=("model", "noise_shape", "conds"), says=("PREPARE_SAMPLING",)),
    Need("comfy.samplers:CFGGuider.inner_sample", PATCHING, takes=("self", "noise", "latent_image"), says=("SAMPLER_SAMPLE", "sigmas", "extra_args", "callback")),
    Need("comfy.samplers:KSAMPLER.sample", PATCHING, takes=("self", "model_wrap", "sigmas", "extra_args", "callback", "noise", "latent_image", "denoise_mask")),
    Need("comfy.patcher_extension:WrappersMP.CALC_COND_BATCH", PATCHING),
    Need("comfy.patcher_extension:WrappersMP.PREPARE_SAMPLING", PATCHING),
    Need("comfy.patcher_extension:WrappersMP.SAMPLER_SAMPLE", PATCHING),
    Need("comfy.patcher_extension:WrappersMP.APPLY_MODEL", SHOWING),
    Need("comfy.patcher_extension:WrappersMP.DIFFUSION_MODEL", SHOWING),
    Need("comfy.patcher_extension:WrappersMP.PREDICT_NOISE", SHOWING),
    # a MODEL
    Need("comfy.model_patcher:ModelPatcher.clone", PATCHING | CLEARSR | {"LoupePlan"}),
    Need("comfy.model_patcher:ModelPatcher.get_model_object", PATCHING | {"LoupePlan", "LoupeRegionNoise"}, takes=("self", "name")),
    Need("comfy.model_patcher:ModelPatcher.add_wrapper_with_key", PATCHING, takes=("self", "wrapper_type", "key", "wrapper")),
    Need("comfy.model_patcher:ModelPatcher.remove_wrappers_with_key", PATCHING, takes=("self", "wrapper_type", "key")),
    Need("comfy.model_patcher:ModelPatcher.get_wrappers", PATCHING, takes=("self", "wrapper_type", "key")),
    Need("comfy.model_patcher:ModelPatcher.get_free_memory", SHOWING | {"LoupePlan"}, takes=("self", "device")),
    Need("comfy.model_base:BaseModel.memory_required", SHOWING | {"LoupePlan"}, takes=("self", "input_shape", "cond_shapes")),
    # conditioning and the controls in it, cut to a region
    Need("comfy.samplers:_calc_cond_batch", SHOWING, takes=("model", "conds", "x_in", "timestep", "model_options"), says=("cond_or_uncond", "uuids")),
    Need("comfy.conds:CONDRegular._copy_with", SHOWING, takes=("self", "cond")),
    Need("comfy.conds:CONDConstant", SHOWING),
    Need("comfy.conds:CONDList", SHOWING),
    Need("comfy.controlnet:ControlBase.__init__", SHOWING | CLEARSR, says=(
        "cond_hint", "cond_hint_original", "extra_concat", "extra_concat_orig", "compression_ratio", "upscale_algorithm", "preprocess_image",
        "previous_controlnet", "latent_format", "vae",
    )),
    # attention
    Need("comfy.ldm.modules.attention:BasicTransformerBlock.forward", {"LoupeAttentionPrior"}, says=("attn2_output_patch",)),
    Need("comfy.ldm.modules.attention:BasicTransformerBlock.forward", {"LoupeApplyClearSR"}, says=("attn2_patch",)),
    Need("comfy.ldm.pixart.pixartms:PixArtMSBlock.forward", says=("cross_attn",), option="Regional Attention Prior on PixArt"),
    Need("comfy.ldm.cosmos.predict2:Block.forward", says=("cross_attn",), option="Regional Attention Prior on Cosmos Predict2 and Anima"),
    Need("comfy.ldm.wan.model:WanAttentionBlock.forward", says=("cross_attn",), option="Regional Attention Prior on Wan"),
    # positions
    Need("comfy.ldm.flux.model:Flux.forward_orig", says=("post_input", "img_ids", "txt_ids"), option="Regional Denoise's positions 'canvas' on Flux"),
    Need("comfy.ldm.lumina.model:pos_ids_x", says=("rope_options", "shift_y", "shift_x"), option="Regional Denoise's positions 'canvas' on Lumina 2 and Z-Image"),
    # samplers of our own
    Need("comfy.sample:sample_custom", SAMPLERS, takes=("model", "noise", "cfg", "sampler", "sigmas", "positive", "negative", "latent_image", "noise_mask", "callback", "disable_pbar", "seed")),
    Need("comfy.samplers:calculate_sigmas", SAMPLERS, takes=("model_sampling", "scheduler_name", "steps")),
    Need("comfy.model_sampling:ModelSamplingDiscreteFlow.percent_to_sigma", SAMPLERS, takes=("self", "percent")),
    Need("comfy.samplers:KSAMPLER.__init__", {"LoupePixelSmithSampler"}, takes=("self", "sampler_function", "extra_options")),
    Need("comfy.samplers:KSamplerX0Inpaint.__init__", {"LoupePixelSmithSampler"}, takes=("self", "model", "sigmas")),
    Need("comfy.samplers:KSamplerX0Inpaint.__call__", {"LoupePixelSmithSampler"}, takes=("self", "x", "sigma", "denoise_mask", "model_options", "seed"), says=("latent_image", "noise")),
    Need("latent_preview:prepare_callback", SAMPLERS, takes=("model", "steps")),
    # ClearSR, a ControlNet with LoRAs
    Need("comfy.controlnet:ControlNet.__init__", CLEARSR, says=("control_model", "control_model_wrapped", "compression_ratio", "latent_format", "load_device", "manual_cast_dtype")),
    Need("comfy.controlnet:ControlNet.set_cond_hint", CLEARSR, takes=("self", "cond_hint", "strength", "timestep_percent_range", "vae", "extra_concat")),
    Need("comfy.controlnet:ControlNet.pre_run", CLEARSR, takes=("self", "model", "percent_to_timestep_function")),
    Need("comfy.controlnet:ControlNet.copy_to", CLEARSR, takes=("self", "c")),
    Need("comfy.controlnet:ControlNet.set_previous_controlnet", CLEARSR, takes=("self", "controlnet")),
    Need("comfy.model_patcher:ModelPatcher.set_model_attn2_patch", {"LoupeApplyClearSR"}, takes=("self", "patch")),
    Need("comfy.model_patcher:ModelPatcher.add_patches", CLEARSR, takes=("self", "patches")),
    Need("comfy.model_patcher:ModelPatcher.get_attachment", {"LoupeApplyClearSR"}, takes=("self", "key")),
    Need("comfy.model_patcher:ModelPatcher.set_attachments", {"LoupeApplyClearSR"}, takes=("self", "key", "attachment")),
    Need("comfy.lora:load_lora", CLEARSR, takes=("lora", "to_load")),
    Need("comfy.lora:model_lora_keys_unet", {"LoupeApplyClearSR"}, takes=("model", "key_map")),
]

log = logging.getLogger("loupe")

REMEDY = "Update ComfyUI or Loupe."


def usable(nodes: list, failed: dict[str, Exception]) -> list:
    """Those of `nodes` that this ComfyUI can run. What the others miss is logged.

    failed: files of nodes that could not be imported, and why.
    """
    for reason in dict.fromkeys(map(str, failed.values())):
        files = [file for file, error in failed.items() if str(error) == reason]
        log.error("Loupe leaves out the nodes of %s: %s. %s", ", ".join(files), reason.rstrip("."), REMEDY)
    missing = [need for need in NEEDS if not need.is_met()]
    if not missing:
        return nodes
    names = {schema.node_id: schema.display_name for schema in (node.define_schema() for node in nodes)}
    for need in missing:
        lost = [name for node_id, name in names.items() if node_id in need.nodes] + [need.option] * bool(need.option)
        if lost:
            log.error("Loupe does without %s: this ComfyUI has no %s. %s", ", ".join(lost), need, REMEDY)
    lost = set().union(*(need.nodes for need in missing))
    return [node for node in nodes if node.define_schema().node_id not in lost]
