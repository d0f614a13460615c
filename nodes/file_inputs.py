"""Weight files of the pack's own networks: in the user's model folders, then what comes with the pack."""

import os
from collections.abc import Callable

import folder_paths
from comfy_api.latest import io

from ..models import files


def file_input(id: str, folder: str, file, tooltip: str, offered: Callable[[str], bool] = lambda name: True) -> io.Combo.Input:
    """A loader's choice of files. file: the network's file.py, which knows its own; offered: of the user's, by name."""
    return io.Combo.Input(id, options=file_names(folder, file, offered), tooltip=tooltip)


def file_names(folder: str, file, offered: Callable[[str], bool] = lambda name: True) -> list[str]:
    """What is offered of the model folder, then the pack's files of that network that are not named alike."""
    names = [name for name in folder_paths.get_filename_list(folder) if offered(name)]
    own = [path.name for path in sorted(files.BUNDLED.glob("*.safetensors")) if file.detect({}, _entries(path))]
    return names + [name for name in own if name not in names]


def file_path(folder: str, name: str) -> str:
    path = folder_paths.get_full_path(folder, name)
    own = files.BUNDLED / os.path.basename(name)
    if path is None and own.is_file():
        return str(own)
    return path or folder_paths.get_full_path_or_raise(folder, name)


def fingerprint(folder: str, name: str) -> tuple[int, int]:
    """Changes when the file does, so that ComfyUI loads it again."""
    stat = os.stat(file_path(folder, name))
    return stat.st_mtime_ns, stat.st_size


def _entries(path):
    try:
        return files.header(path)
    except ValueError:  # a damaged file must not take the node away
        return {}
