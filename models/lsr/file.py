"""LSR files: the published training checkpoint (.pth, .pt) and Loupe's own safetensors."""

from pathlib import Path
from typing import Any

import torch

from .. import files
from ..files import Metadata, count
from ..latent_space import LatentSpace
from .network import LSR

FORMAT, VERSION = "loupe.lsr", "1"
BUFFERS = ("relative_position_index", "attn_mask")  # made by the network


@files.kind("an LSR", node="Load Latent Upscale Model (LSR)")
def detect(state: object, entries: dict[str, str]) -> bool:
    own = files.own_format(entries)
    return own == FORMAT if own else _published(state) is not None


def load(path: str | Path) -> tuple[LSR, Metadata]:
    """The network, float32 on the CPU, as it is run. Published files tell no latents and are SDXL's.

    Raises ValueError naming the file and what it holds when it is no LSR.
    """
    state, entries = files.read(path)
    if not detect(state, entries):
        files.refuse(path, state, entries, "an LSR", "Choose the authors' .pth, with the layout model/args/sd, a SwinIR encoder ('encoder.') and a LIIF head ('imnet.'), or a file that `train lsr` made.")
    if files.own_format(entries):
        weights, metadata = state, files.from_entries(path, entries, FORMAT, VERSION)
    else:
        _check_published(path, state)
        weights = _published(state)
        try:
            args = infer_args(weights)
        except (KeyError, IndexError) as error:
            raise ValueError(f"{path} does not fit the LSR architecture: it lacks {error}. Download it again.") from None
        metadata = Metadata(LatentSpace("SDXL", args["channels"]), "SDXL", args)

    network = files.fill(path, "LSR", lambda: LSR(**metadata.args), {key: value.float() for key, value in weights.items()}, BUFFERS)
    if metadata.latents is not None and metadata.latents.channels != network.args["channels"]:
        raise ValueError(f"{path} says {metadata.latents.channels} latent channels in its metadata and has weights for {network.args['channels']}. Download it again.")
    return network, metadata


def save(path: str | Path, network: LSR, metadata: Metadata, dtype: torch.dtype = torch.float16) -> None:
    weights = {key: value for key, value in network.state_dict().items() if not key.endswith(BUFFERS)}
    files.write(path, weights, files.to_entries(metadata._replace(args=network.args), FORMAT, VERSION), dtype)


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


def _published(data: Any) -> dict | None:
    """The weights of the authors' nested layout, or bare ones; None in other files."""
    model = data.get("model") if isinstance(data, dict) else None
    if isinstance(model, dict) and isinstance(model.get("sd"), dict):
        return model["sd"]
    bare = isinstance(data, dict) and "encoder.conv_first.weight" in data and "imnet.layers.0.weight" in data
    return data if bare else None


def _check_published(path, data):
    model = data.get("model", {})
    args = model.get("args", {})
    if model.get("name", "liif") != "liif" or not args.get("local_ensemble", True) or not args.get("feat_unfold", True):
        raise ValueError(f"{path} holds the model {model.get('name')!r} with local_ensemble={args.get('local_ensemble')}, feat_unfold={args.get('feat_unfold')}; only LIIF with both is supported. Choose another file.")
