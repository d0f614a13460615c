"""Weight files of every network: reading them without running code, saying what is wrong with them, and writing them.

Loupe's own are safetensors whose entries are format, version, args (JSON of the network's), latent_format,
latent_channels, scale_factor (of latents that no class of comfy.latent_formats describes), base, then notes. Each
network's file.py has `FORMAT, VERSION, detect, load, save`.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import nn

from .latent_space import LatentSpace

Network = TypeVar("Network", bound=nn.Module)

BUNDLED = Path(__file__).resolve().parent / "mini"  # files that come with Loupe
SAFETENSORS = (".safetensors", ".sft")


class Metadata(NamedTuple):
    """latents: what the network takes, None where that is no matter or not known. base: what it was trained for, in
    words or a file's name. args: of the network's class. notes: training, commit, license, ..."""

    latents: LatentSpace | None = None
    base: str = ""
    args: dict = {}
    notes: dict[str, str] = {}


class Kind(NamedTuple):
    """A network's files: their name with its article, the node that loads them, and `detect`."""

    name: str
    node: str
    detect: Callable[[object, dict[str, str]], bool]


KINDS: list[Kind] = []


def kind(name: str, node: str):
    """Decorator of a network's `detect(state, entries) -> bool`, which knows its files and no others': `refuse` asks all."""

    def register(detect):
        KINDS.append(Kind(name, node, detect))
        return detect

    return register


def read(path: str | Path) -> tuple[Any, dict[str, str]]:
    """What a .safetensors or a weights-only PyTorch file holds, on the CPU, and its entries.

    Raises ValueError naming the file when it is damaged or holds other objects than weights.
    """
    _refuse_text(path)
    if is_safetensors(path):
        with _opened(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    try:
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises anything
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {found[1]}, which is code, not weights. Choose a file of weights alone" if found else "it is damaged. Download it again"
        raise ValueError(f"{path} cannot be read as a weights-only PyTorch file: {reason}.") from None


def header(path: str | Path) -> dict[str, str]:
    """The entries of a safetensors file, without its tensors; none of other files."""
    if not is_safetensors(path):
        return {}
    _refuse_text(path)
    with _opened(path) as file:
        return file.metadata() or {}


def weight_dtype(path: str | Path) -> torch.dtype | None:
    """Of a file that `write` made, which has one for all; None of files that are no safetensors or empty."""
    if not is_safetensors(path):
        return None
    _refuse_text(path)
    with _opened(path) as file:
        first = next(iter(file.keys()), None)
        return None if first is None else file.get_tensor(first).dtype


def write(path: str | Path, weights: dict[str, torch.Tensor], entries: dict[str, str], dtype: torch.dtype = torch.float16) -> None:
    """The weights as safetensors in `dtype`, whole or not at all; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    safetensors.torch.save_file({key: value.detach().to("cpu", dtype).contiguous() for key, value in weights.items()}, partial, entries)
    os.replace(partial, path)


def to_entries(metadata: Metadata, format: str, version: str) -> dict[str, str]:
    latents, entries = metadata.latents, {"format": format, "version": version}
    if metadata.args:
        entries["args"] = json.dumps(metadata.args)
    if latents is not None:
        entries |= {"latent_format": latents.name, "latent_channels": str(latents.channels)}
        if latents.scale_factor is not None:
            entries["scale_factor"] = repr(latents.scale_factor)
    if metadata.base:
        entries["base"] = metadata.base
    return {**metadata.notes, **entries}


def from_entries(path: str | Path, entries: dict[str, str], format: str, version: str) -> Metadata:
    """Raises ValueError naming the file when it is of another version or an entry is damaged."""
    notes = dict(entries)
    notes.pop("format", None)
    found = notes.pop("version", None)
    if found != version:
        raise ValueError(f"{path} has version {found!r} of {format}; this release reads version {version}. Update Loupe.")
    try:
        args = dict(json.loads(notes.pop("args", "{}")))
        scale_factor = notes.pop("scale_factor", None)
        name, channels = notes.pop("latent_format", None), notes.pop("latent_channels", None)
        latents = None if name is None else LatentSpace(name, int(channels), None if scale_factor is None else float(scale_factor))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} has damaged metadata: {error}. Download it again.") from None
    return Metadata(latents, notes.pop("base", ""), args, notes)


def own_format(entries: dict[str, str]) -> str | None:
    """Loupe's format that the entries name; None for a file of others, whose keys must tell."""
    named = entries.get("format", "")
    return named if named.startswith("loupe.") else None


def fill(path: str | Path, name: str, make: Callable[[], Network], weights: dict[str, torch.Tensor], left_out: tuple[str, ...] = ()) -> Network:
    """The network that `make` makes, with `weights`, as it is run; keys ending in `left_out` are made, not loaded.

    Raises ValueError naming the file and the first weights that do not fit.
    """
    try:
        network = make()
    except Exception as error:  # of whatever the arguments in the file break
        raise ValueError(f"{path} has arguments that make no {name}: {error}. Download it again, or update Loupe.") from None
    own = network.state_dict()
    expected, found = ({key: tuple(value.shape) for key, value in state.items() if not key.endswith(left_out)} for state in (own, weights))
    wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    if wrong:
        raise ValueError(f"{path} does not fit the {name} architecture: {len(wrong)} weights are missing, unknown or of another shape, first {', '.join(wrong[:3])}. Download it again, or update Loupe.")
    network.load_state_dict({key: weights[key] for key in found}, strict=False)
    return network.train(False)


def refuse(path: str | Path, state: object, entries: dict[str, str], name: str, choose: str) -> NoReturn:
    """Raises ValueError: the file is not `name`, but that of another network, or holds something else."""
    for other in KINDS:
        if other.detect(state, entries):
            raise ValueError(f"{path} is not {name}: this is {other.name} file; use {other.node}.")
    raise ValueError(f"{path} is not {name}: it holds {_described(state)}. {choose}")


def count(state: dict, prefix: str) -> int:
    """How many numbered or named children the keys of `state` have below `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def is_safetensors(path: str | Path) -> bool:
    return str(path).lower().endswith(SAFETENSORS)


def _described(data: object) -> str:
    if not isinstance(data, dict):
        return f"a {type(data).__name__}"
    keys = ", ".join(str(key) for key in list(data)[:3])
    return f"{len(data)} entries ({keys}{', …' if len(data) > 3 else ''})"


def _opened(path):
    try:
        return safetensors.safe_open(path, framework="pt")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}. Download it again.") from None


def _refuse_text(path) -> None:
    """What a download leaves behind that did not fetch the file itself."""
    with open(path, "rb") as file:
        start = file.read(256)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        what = "an empty file"
    elif text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        what = "a web page"
    elif text.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer file"
    elif all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        what = "a text file"
    else:
        return
    raise ValueError(f"{path} cannot be read as weights: this is {what}; download it again.")
