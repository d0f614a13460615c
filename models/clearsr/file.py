"""ClearSR files: one safetensors with both control networks and both LoRAs, sizes read from its weights."""

from typing import NamedTuple

import torch

from .. import files
from .network import ClearSR, Config

KEY, VERSION = "clearsr", "1"  # in the metadata
NETWORK = ("dpm.", "gspm.")
UNET_LORA, VAE_LORA = "lora_unet_", "lora_vae_"


class ClearSRFile(NamedTuple):
    """config and weights (of `ClearSR`), the LoRAs by ComfyUI's loader keys, the file's metadata: `base` in words,
    `latent_format` (a class of comfy.latent_formats, or any name with its own `scale_factor`), `image_prompt` ("0" when
    trained without one)."""

    config: Config
    weights: dict[str, torch.Tensor]
    unet_lora: dict[str, torch.Tensor]
    vae_lora: dict[str, torch.Tensor]
    metadata: dict[str, str]


def load(path: str) -> ClearSRFile:
    """Raises ValueError naming the file and what it holds when it is no ClearSR or of another version."""
    state, metadata = files.read(path)
    if KEY not in metadata or "dpm.lr_conv_in.weight" not in state:
        raise ValueError(f"{path} is not a ClearSR: it holds {files.describe(state)} and no 'dpm.' control network. An ordinary ControlNet belongs in Load ControlNet Model.")
    if metadata[KEY] != VERSION:
        raise ValueError(f"{path} has ClearSR file version {metadata[KEY]!r}; this release reads version {VERSION}. Update Loupe.")

    weights = {key: value for key, value in state.items() if key.startswith(NETWORK)}
    try:
        config = infer_config(weights, int(metadata.get("head_channels", 64)))
    except (KeyError, IndexError) as error:
        raise ValueError(f"{path} is a damaged ClearSR: {error} is missing. Download it again.") from None
    if int(metadata.get("window", config.window)) != config.window:
        raise ValueError(f"{path} says window {metadata['window']} in its metadata and has weights for {config.window}.")
    expected = {key: tuple(value.shape) for key, value in ClearSR(config, device="meta").state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise ValueError(f"{path} does not fit the ClearSR architecture: {len(wrong)} weights are missing, unknown or of another shape, first {wrong[0]}.")
    unet_lora, vae_lora = ({key: value for key, value in state.items() if key.startswith(prefix)} for prefix in (UNET_LORA, VAE_LORA))
    rest = len(state) - len(weights) - len(unet_lora) - len(vae_lora)
    if rest:
        raise ValueError(f"{path} holds {rest} tensors that are no part of a ClearSR.")
    return ClearSRFile(config, weights, unet_lora, vae_lora, metadata)


def save(file: ClearSRFile, path: str, dtype: torch.dtype = torch.float16) -> None:
    """Write `file` in `dtype`; `metadata` must say base and latent_format."""
    entries = {**file.metadata, "format": "loupe.clearsr", KEY: VERSION, "window": str(file.config.window), "head_channels": str(file.config.head_channels)}
    files.write(path, {**file.weights, **file.unet_lora, **file.vae_lora}, entries, dtype)


def infer_config(state: dict[str, torch.Tensor], head_channels: int) -> Config:
    """The shape of the networks whose weights are `state`. Raises KeyError for a weight that it needs."""
    channels, in_channels = state["dpm.input_blocks.0.0.weight"].shape[:2]
    blocks, depth, window, attention = [[]], [], 0, None
    for i in range(1, files.count(state, "dpm.input_blocks.")):
        if f"dpm.input_blocks.{i}.0.op.weight" in state:
            blocks.append([])
            continue
        blocks[-1].append(state[f"dpm.input_blocks.{i}.0.out_layers.3.weight"].shape[0] // channels)
        prefix = f"dpm.input_blocks.{i}.1."
        depth.append(files.count(state, f"{prefix}transformer_blocks."))
        attention = attention or (prefix if depth[-1] else None)
        table = state.get(f"{prefix}transformer_blocks.0.attn_lr.rel_pos_bias")
        if table is not None and not window:
            ratio = 2 ** (len(blocks) - 1)
            window = (round(table.shape[1] ** 0.5) + ratio) // 2
            head_channels = blocks[-1][-1] * channels // table.shape[0]
    attention = attention or "dpm.middle_block.1."
    label = state.get("dpm.label_emb.0.0.weight")
    return Config(
        in_channels=in_channels,
        model_channels=channels,
        channel_mult=tuple(level[0] for level in blocks),
        num_res_blocks=tuple(map(len, blocks)),
        transformer_depth=tuple(depth),
        transformer_depth_middle=files.count(state, "dpm.middle_block.1.transformer_blocks."),
        context_dim=state[f"{attention}transformer_blocks.0.attn2.to_k.weight"].shape[1],
        head_channels=head_channels,
        use_linear=state[f"{attention}proj_in.weight"].ndim == 2,
        adm_in_channels=None if label is None else label.shape[1],
        window=window,
        gspm="gspm.lr_conv_in.weight" in state,
        gspm_middle="gspm.middle_block.0.in_layers.0.weight" in state,
        gspm_time="gspm.time_embed.0.weight" in state,
    )
