"""Runs the pack inside a real ComfyUI, on the CPU, in this process.

LOUPE_HOST_DIR names the unpacked ComfyUI; without it the newest under .host/ is used.
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _host():
    if "LOUPE_HOST_DIR" in os.environ:
        return Path(os.environ["LOUPE_HOST_DIR"]).resolve()
    unpacked = [path for path in (ROOT / ".host").glob("*/comfy") if path.is_dir()]
    if not unpacked:
        pytest.exit("No ComfyUI to test in: run `python dev.py test`, or set LOUPE_HOST_DIR to an unpacked ComfyUI.", 4)
    return max(unpacked, key=lambda path: [int(n) for n in path.parent.name.split(".")]).parent


sys.path.insert(0, str(_host()))

# the host reads its options when its modules are first imported
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
