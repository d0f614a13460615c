"""python dev.py serve: ComfyUI with the pack, for the browser."""

import json
import sys
from contextlib import suppress

from .server import PACK, Server

BASE = PACK / ".comfyui" / "base"


def model_folders(base, *owners):
    """An extra model paths file (JSON is YAML) in `base` that lists the models of existing ComfyUI folders."""
    models = [owner / "models" for owner in owners]
    folders = {str(root): {folder.name: str(folder) for folder in root.iterdir() if folder.is_dir()} for root in models if root.is_dir()}
    paths = base / "model_folders.yaml"
    paths.write_text(json.dumps(folders), encoding="utf-8")
    return ["--extra-model-paths-config", str(paths)]


def main(comfyui, options, arguments):
    BASE.mkdir(parents=True, exist_ok=True)
    arguments = ["--output-directory", str(PACK / "output"), *model_folders(BASE, comfyui), *arguments]
    with Server(comfyui, BASE, options.port, arguments, log=sys.stdout) as server, suppress(KeyboardInterrupt):
        print(f"\nComfyUI with Loupe: {server.url}   (models, inputs and workflows are in {BASE}; stop with Ctrl-C)\n", flush=True)
        server.process.wait()
    return 0
