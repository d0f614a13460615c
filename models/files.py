"""Weight files of every network: reading them without running code, saying what is wrong with them, and writing them."""

import os
import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch


def read(path: str) -> tuple[dict, dict[str, str]]:
    """What a .safetensors or a weights-only PyTorch file holds, on the CPU, and its metadata.

    Raises ValueError naming the file when it is damaged or holds other objects than weights.
    """
    if os.path.splitext(path)[1].lower() in (".safetensors", ".sft"):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}. Download it again.") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a weights-only PyTorch file: {error}") from error


def write(path: str | Path, weights: dict[str, torch.Tensor], metadata: dict[str, str], dtype: torch.dtype = torch.float16) -> None:
    """The weights as safetensors in `dtype` with string metadata, whole or not at all."""
    partial = Path(path).with_suffix(".partial")
    safetensors.torch.save_file({key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}, partial, metadata)
    os.replace(partial, path)


def describe(data) -> str:
    if not isinstance(data, dict):
        return f"a {type(data).__name__}"
    keys = ", ".join(str(key) for key in list(data)[:3])
    return f"{len(data)} entries ({keys}{', …' if len(data) > 3 else ''})"


def count(state: dict, prefix: str) -> int:
    """How many numbered or named children the keys of `state` have below `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})
