"""ClearSR files: one safetensors with both control networks and both LoRAs."""

from pathlib import Path

import torch

from .. import files
from ..files import Metadata
from .network import ClearSR, Config

FORMAT, VERSION = "loupe.clearsr", "1"
LORAS = {"unet": "lora_unet_", "vae": "lora_vae_"}  # prefixes of their keys, which are ComfyUI's loader keys


@files.kind("a ClearSR", node="Load ClearSR")
def detect(state: object, entries: dict[str, str]) -> bool:
    return files.own_format(entries) == FORMAT


def load(path: str | Path, **factory) -> tuple[ClearSR, Metadata]:
    """The network with its LoRAs, as it is run. factory: dtype, device and operations of its layers.

    The note `image_prompt` is "0" for a file trained without one. Raises ValueError naming the file and what it holds
    when it is no ClearSR.
    """
    state, entries = files.read(path)
    if not detect(state, entries):
        files.refuse(path, state, entries, "a ClearSR", "Choose a file that `train clearsr` made; an ordinary ControlNet belongs in Load ControlNet Model.")
    metadata = files.from_entries(path, entries, FORMAT, VERSION)
    loras = {name: {key: value for key, value in state.items() if key.startswith(prefix)} for name, prefix in LORAS.items()}
    weights = {key: value for key, value in state.items() if not key.startswith(tuple(LORAS.values()))}
    network = files.fill(path, "ClearSR", lambda: ClearSR(Config.of(metadata.args), **factory), weights)
    network.loras = loras
    return network, metadata


def save(path: str | Path, network: ClearSR, metadata: Metadata, dtype: torch.dtype = torch.float16) -> None:
    weights = {**network.state_dict(), **network.loras["unet"], **network.loras["vae"]}
    files.write(path, weights, files.to_entries(metadata._replace(args=network.args), FORMAT, VERSION), dtype)
