"""Runs the pack inside a real ComfyUI, on the CPU, in this process.

LOUPE_COMFYUI names the unpacked ComfyUI; without it the newest under .comfyui/ is used.
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _comfyui():
    if "LOUPE_COMFYUI" in os.environ:
        return Path(os.environ["LOUPE_COMFYUI"]).resolve()
    unpacked = [path for path in (ROOT / ".comfyui").glob("*/comfy") if path.is_dir()]
    if not unpacked:
        pytest.exit("No ComfyUI to test in: run `python dev.py test`, or set LOUPE_COMFYUI to an unpacked ComfyUI.", 4)
    return max(unpacked, key=lambda path: [int(n) for n in path.parent.name.split(".")]).parent


sys.path.insert(0, str(_comfyui()))

# ComfyUI reads its options when its modules are first imported
import comfy.options

comfy.options.enable_args_parsing(False)
from comfy.cli_args import args

args.cpu = True
args.use_pytorch_cross_attention = True

import torch

torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield
