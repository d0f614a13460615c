"""The mini world's files: the parts of a model that ComfyUI builds, so that what is loaded are weights, not networks."""

from pathlib import Path

import torch

from .. import files
from ..files import Metadata

PARTS = ("vae", "text", "unet", "flow", "flow_lora", "arbitrary", "detector", "captioner")
FORMAT, VERSION = "loupe.mini_", "1"  # the format ends in the part


@files.kind("a mini world", node="Load Mini World")
def detect(state: object, entries: dict[str, str]) -> bool:
    return (files.own_format(entries) or "").startswith(FORMAT)


def path_of(part: str) -> Path:
    return files.BUNDLED / f"mini_{part}.safetensors"


def load(part: str, path: Path | None = None) -> tuple[dict[str, torch.Tensor], Metadata]:
    """Weights of one of PARTS as the file has them, on the CPU; of the bundled file unless `path` names another.

    Notes: the text encoder's `token_ids` (of its rows but the first), the autoencoder's `latent_rgb_factors` (JSON), the
    detector's `shapes` and `colors`. Raises ValueError naming a file that is not that part.
    """
    path = path or bundled(part)
    state, entries = files.read(path)
    if not detect(state, entries):
        files.refuse(path, state, entries, f"the mini world's {part}", f"Choose a file that `train mini-{_trainer(part)}` made.")
    if entries["format"] != FORMAT + part:
        raise ValueError(f"{path} is the mini world's {entries['format'].removeprefix(FORMAT)}, not its {part}. Choose a file that `train mini-{_trainer(part)}` made.")
    return state, files.from_entries(path, entries, FORMAT + part, VERSION)


def metadata_of(part: str) -> Metadata:
    """`load` of a bundled file without its weights."""
    path = bundled(part)
    return files.from_entries(path, files.header(path), FORMAT + part, VERSION)


def save(part: str, weights: dict[str, torch.Tensor], metadata: Metadata, path: Path | None = None, dtype: torch.dtype = torch.float16) -> None:
    files.write(path or path_of(part), weights, files.to_entries(metadata, FORMAT + part, VERSION), dtype)


def bundled(part: str) -> Path:
    """Raises FileNotFoundError where it is missing."""
    path = path_of(part)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the bundled mini world is incomplete. Install Loupe again, or train it with `python dev.py train mini-{_trainer(part)}`.")
    return path


def _trainer(part):
    """What follows `train mini-`."""
    return part.replace("_", "-")
