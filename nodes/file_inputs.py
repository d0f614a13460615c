"""Weight files of the pack's own networks: in the user's model folders, then what comes with the pack."""

import os

import folder_paths

BUNDLED = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "models", "mini")


def model_files(folder: str, bundled: str) -> list[str]:
    """Names for a loader: everything in the model folder, and the pack's files whose names end in `bundled`."""
    files = folder_paths.get_filename_list(folder)
    own = [name for name in sorted(os.listdir(BUNDLED)) if name.endswith(bundled)]
    return files + [name for name in own if name not in files]


def model_path(folder: str, name: str) -> str:
    path = folder_paths.get_full_path(folder, name)
    own = os.path.join(BUNDLED, os.path.basename(name))
    if path is None and os.path.isfile(own):
        return own
    return path or folder_paths.get_full_path_or_raise(folder, name)


def fingerprint(folder: str, name: str) -> tuple[int, int]:
    """Changes when the file does, so that ComfyUI loads it again."""
    stat = os.stat(model_path(folder, name))
    return stat.st_mtime_ns, stat.st_size
