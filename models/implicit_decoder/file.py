"""Implicit decoder files: Loupe's safetensors, and the published Lightning checkpoints (.ckpt, .pth)."""

from pathlib import Path

import torch

from .. import files
from ..files import Metadata, count
from .network import HybridDecoder, ImplicitDecoder, LIIFDecoder

FORMAT, VERSION = "loupe.implicit_decoder", "1"
CLASSES = {network.kind: network for network in (ImplicitDecoder, HybridDecoder)}


@files.kind("an implicit decoder", node="Load Any-Size Decoder")
def detect(state: object, entries: dict[str, str]) -> bool:
    own = files.own_format(entries)
    return own == FORMAT if own else bool(published(state))


def load(path: str | Path) -> tuple[LIIFDecoder, Metadata]:
    """The network, float32 on the CPU, as it is run.

    Published files may be whole autoencoders or latent diffusion models, of which the decoder is taken; they tell no
    latents. Raises ValueError naming the file and what it holds when there is no decoder.
    """
    state, entries = files.read(path)
    if not detect(state, entries):
        files.refuse(path, state, entries, "an implicit decoder", "Choose a file of Loupe's, or a checkpoint with a convolutional decoder ('decoder.decoder.') and a LIIF head ('decoder.inr.').")
    if files.own_format(entries):
        weights, metadata = state, files.from_entries(path, entries, FORMAT, VERSION)
        kind = metadata.args.get("kind")
        if kind not in CLASSES:
            raise ValueError(f"{path} is an implicit decoder of the kind {kind!r}; this release reads {' and '.join(CLASSES)}. Update Loupe.")
    else:
        weights = published(state)
        try:
            metadata = Metadata(args=infer_args(weights))
        except (KeyError, IndexError) as error:
            raise ValueError(f"{path} does not fit the implicit decoder architecture: it lacks {error}. Download it again.") from None

    def make() -> LIIFDecoder:
        args = dict(metadata.args)
        return CLASSES[args.pop("kind")](**args)

    return files.fill(path, "implicit decoder", make, {key: value.float() for key, value in weights.items()}), metadata


def save(path: str | Path, network: LIIFDecoder, metadata: Metadata, dtype: torch.dtype = torch.float16) -> None:
    args = {"kind": network.kind, **network.args}
    files.write(path, network.state_dict(), files.to_entries(metadata._replace(args=args), FORMAT, VERSION), dtype)


def published(data: object) -> dict[str, torch.Tensor]:
    """The decoder's weights of a first stage, a latent diffusion model or a bare decoder; empty if there are none."""
    state = data.get("state_dict", data) if isinstance(data, dict) else {}
    for prefix in ("first_stage_model.decoder.", "decoder.", ""):
        if f"{prefix}inr.imnet.layers.0.weight" in state:
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith((f"{prefix}decoder.", f"{prefix}inr."))}
    return {}


def infer_args(state: dict[str, torch.Tensor]) -> dict:
    """Kind and arguments of `ImplicitDecoder` from the shapes of its weights."""
    up = "decoder.1.up."
    levels = count(state, up)
    widths = [state[f"{up}{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    linear = sorted((int(key.split(".")[3]), value.shape) for key, value in state.items() if key.startswith("inr.imnet.layers.") and key.endswith(".weight"))
    return {
        "kind": ImplicitDecoder.kind,
        "channels": state["decoder.0.weight"].shape[1],
        "width": widths[0],
        "mult": [width // widths[0] for width in widths],
        "blocks": count(state, f"{up}0.block.") - 1,
        "attention": [level for level in range(levels) if count(state, f"{up}{level}.attn.")],
        "hidden": [shape[0] for _, shape in linear[:-1]],
        "cell": linear[0][1][1] == widths[0] + 4,
    }
