"""LSR files: the published training checkpoint (.pth, .pt) and Loupe's own safetensors."""

import json
from typing import NamedTuple

import torch

from ..files import count, describe, read, write
from .network import LSR

FORMAT = "loupe.lsr"
VERSION = "1"
BUFFERS = ("relative_position_index", "attn_mask")


class LatentSpace(NamedTuple):
    """The latents a network was trained on: a class name of comfy.latent_formats, or any name with its
    own scale factor (scaled = unscaled * scale_factor)."""

    name: str
    channels: int
    scale_factor: float | None = None


def load(path: str) -> tuple[LSR, LatentSpace]:
    """The network, float32 on the CPU in eval(), and its latent space.

    Published files carry no latent space and are SDXL's. Raises ValueError naming the file and what it
    holds when it is no LSR.
    """
    state, metadata = read(path)
    if not path.lower().endswith((".safetensors", ".sft")):
        state = _official(path, state)
    elif metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not an LSR: its metadata says format {metadata.get('format')!r} instead of {FORMAT!r}, and it holds {describe(state)}.")
    elif metadata.get("version") != VERSION:
        raise ValueError(f"{path} has LSR file version {metadata.get('version')!r}; this release reads version {VERSION}. Update Loupe.")

    try:
        args = infer_args(state)
    except (KeyError, IndexError, StopIteration):
        raise ValueError(f"{path} is not an LSR: it holds {describe(state)}. Choose a file with a SwinIR encoder ('encoder.') and a LIIF head ('imnet.').") from None
    network = LSR(**args)
    weights = {key: value.float() for key, value in state.items() if not key.endswith(BUFFERS)}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    missing = [key for key in missing if not key.endswith(BUFFERS)]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit the LSR architecture: {len(missing)} weights are missing {missing[:3]} and {len(unexpected)} are unknown {unexpected[:3]}.")

    channels = args["channels"]
    if int(metadata.get("latent_channels", channels)) != channels:
        raise ValueError(f"{path} says {metadata['latent_channels']} latent channels in its metadata and has weights for {channels}.")
    scale_factor = metadata.get("scale_factor")
    return network, LatentSpace(metadata.get("latent_format", "SDXL"), channels, scale_factor and float(scale_factor))


def save(network: LSR, path: str, space: LatentSpace, dtype: torch.dtype = torch.float32, metadata: dict[str, str] | None = None) -> None:
    """Write Loupe's safetensors; `metadata` adds free entries such as the licence."""
    entries = {
        **(metadata or {}),
        "format": FORMAT,
        "version": VERSION,
        "latent_format": space.name,
        "latent_channels": str(space.channels),
        "args": json.dumps(network.args),
    }
    if space.scale_factor is not None:
        entries["scale_factor"] = repr(space.scale_factor)
    write(path, {key: value for key, value in network.state_dict().items() if not key.endswith(BUFFERS)}, entries, dtype)


def infer_args(state: dict[str, torch.Tensor]) -> dict:
    """Arguments of `LSR` from the shapes of its weights."""
    blocks = "encoder.layers.{}.residual_group.blocks"
    layers = count(state, "encoder.layers.")
    table = state[f"{blocks.format(0)}.0.attn.relative_position_bias_table"]
    linear = sorted((int(key.split(".")[2]), value) for key, value in state.items() if key.startswith("imnet.layers.") and key.endswith(".weight"))
    dim, channels = state["encoder.conv_first.weight"].shape[:2]
    return {
        "channels": channels,
        "dim": dim,
        "depths": [count(state, f"{blocks.format(layer)}.") for layer in range(layers)],
        "heads": [state[f"{blocks.format(layer)}.0.attn.relative_position_bias_table"].shape[1] for layer in range(layers)],
        "window": (round(table.shape[0] ** 0.5) + 1) // 2,
        "mlp_ratio": state[f"{blocks.format(0)}.0.mlp.fc1.weight"].shape[0] / dim,
        "hidden": [weight.shape[0] for _, weight in linear[:-1]],
    }


def _official(path, data):
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("sd"), dict):
        raise ValueError(f"{path} is not an LSR: expected the nested layout model/args/sd, and it holds {describe(data)}.")
    args = model.get("args", {})
    if model.get("name", "liif") != "liif" or not args.get("local_ensemble", True) or not args.get("feat_unfold", True):
        raise ValueError(f"{path} holds the model {model.get('name')!r} with local_ensemble={args.get('local_ensemble')}, feat_unfold={args.get('feat_unfold')}; only LIIF with both is supported.")
    return model["sd"]
