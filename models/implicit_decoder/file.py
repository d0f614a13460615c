"""Implicit decoder files: Loupe's safetensors, and the published Lightning checkpoints (.ckpt, .pth)."""

import json

import torch

from ..files import count, describe, read, write
from .network import HybridDecoder, ImplicitDecoder, LIIFDecoder

FORMAT = "loupe.implicit_decoder"
VERSION = "1"
KINDS = {network.kind: network for network in (ImplicitDecoder, HybridDecoder)}


def save(path: str, network: LIIFDecoder, metadata: dict[str, str] | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Write Loupe's safetensors; `metadata` adds free entries such as the VAE's name and the licence."""
    entries = {**(metadata or {}), "format": FORMAT, "version": VERSION, "kind": network.kind, "args": json.dumps(network.args)}
    write(path, network.state_dict(), entries, dtype)


def load(path: str) -> tuple[LIIFDecoder, dict[str, str]]:
    """The network, float32 on the CPU in eval(), and the file's metadata.

    Published files may be whole autoencoders or latent diffusion models, of which the decoder is taken.
    Raises ValueError naming the file and what it holds when there is none.
    """
    data, metadata = read(path)
    if metadata.get("format") == FORMAT:
        if metadata.get("version") != VERSION or metadata.get("kind") not in KINDS:
            raise ValueError(f"{path} has implicit decoder file version {metadata.get('version')!r}, kind {metadata.get('kind')!r}; this release reads version {VERSION}, {' and '.join(KINDS)}. Update Loupe.")
        state, network = data, KINDS[metadata["kind"]](**json.loads(metadata["args"]))
    else:
        state = published(data)
        try:
            network = ImplicitDecoder(**infer_args(state))
        except (KeyError, IndexError):
            raise ValueError(f"{path} is not an implicit decoder: it holds {describe(data)}. Choose a file of Loupe's, or a checkpoint with a convolutional decoder ('decoder.decoder.') and a LIIF head ('decoder.inr.').") from None
    try:
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the implicit decoder architecture: {' '.join(str(error).split())}") from None
    return network.eval(), metadata


def published(data: dict) -> dict[str, torch.Tensor]:
    """The decoder's weights of a first stage, a latent diffusion model or a bare decoder; empty if there are none."""
    state = data.get("state_dict", data) if isinstance(data, dict) else {}
    for prefix in ("first_stage_model.decoder.", "decoder.", ""):
        if f"{prefix}inr.imnet.layers.0.weight" in state:
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith((f"{prefix}decoder.", f"{prefix}inr."))}
    return {}


def infer_args(state: dict[str, torch.Tensor]) -> dict:
    """Arguments of `ImplicitDecoder` from the shapes of its weights."""
    up = "decoder.1.up."
    levels = count(state, up)
    widths = [state[f"{up}{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    linear = sorted((int(key.split(".")[3]), value.shape) for key, value in state.items() if key.startswith("inr.imnet.layers.") and key.endswith(".weight"))
    return {
        "channels": state["decoder.0.weight"].shape[1],
        "width": widths[0],
        "mult": [width // widths[0] for width in widths],
        "blocks": count(state, f"{up}0.block.") - 1,
        "attention": [level for level in range(levels) if count(state, f"{up}{level}.attn.")],
        "hidden": [shape[0] for _, shape in linear[:-1]],
        "cell": linear[0][1][1] == widths[0] + 4,
    }
