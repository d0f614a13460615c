"""One ComfyUI server with the pack, in ComfyUI that LOUPE_COMFYUI names."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from loupe.headless.client import Client
from loupe.tools.server import Server

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def comfyui():
    if "LOUPE_COMFYUI" not in os.environ:
        pytest.exit("Set LOUPE_COMFYUI to an unpacked ComfyUI, or run: python dev.py test tests/e2e", 4)
    return Path(os.environ["LOUPE_COMFYUI"]).resolve()


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    with Server(comfyui, tmp_path_factory.mktemp("base")) as server:
        yield server


@pytest.fixture
def client(server):
    return Client(server.url)


@pytest.fixture
def lsrna_workflow():
    """LSRNA-DemoFusion's workflow at 2x, with the paper's settings in fewer steps."""
    workflow = json.loads((ROOT / "workflows" / "api" / "lsrna_demofusion.json").read_text(encoding="utf-8"))
    for node in workflow.values():
        if "scale_by" in node["inputs"]:
            node["inputs"]["scale_by"] = 2.0
        if node["class_type"] == "LoupeDemoFusionSampler":
            node["inputs"].update(preset="custom", steps=6, strength=0.6, noise_edges=1.2, overlap=0.5, blend="uniform", jitter_until=1.0, scheduler="ddim (paper)")
    return workflow


@pytest.fixture(scope="session")
def likeness():
    """likeness(image, reference): correlation of two PIL images at the smaller one's size, 1 for the same."""

    def compare(image, reference):
        size = min(image.size, reference.size)
        a, b = (np.asarray(p.convert("RGB").resize(size), float).ravel() for p in (image, reference))
        return np.corrcoef(a, b)[0, 1]

    return compare
