"""Loads the pack as the package `loupe` without running its entry point, so that unit tests need no ComfyUI."""

import importlib.util
import json
import lzma
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"

torch.set_num_threads(1)

sys.path.insert(0, str(ROOT / "tests"))

if "loupe" not in sys.modules:
    spec = importlib.util.spec_from_file_location("loupe", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["loupe"] = importlib.util.module_from_spec(spec)


@pytest.fixture(scope="session")
def golden():
    """golden(name) -> (tensors, description) of reference data: of the published code (lsr, lsrna, df, ps, rna, ind), or
    of formulas written out independently where there was none (cupscale, lsa, clearsr, ind_align).

    Tensors are in name.safetensors, or compressed in name.safetensors.xz; some names have none.
    """

    def read(name):
        description = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
        plain, packed = GOLDEN / f"{name}.safetensors", GOLDEN / f"{name}.safetensors.xz"
        if packed.exists():
            return safetensors.torch.load(lzma.decompress(packed.read_bytes())), description
        return (safetensors.torch.load_file(plain) if plain.exists() else {}), description

    return read


@pytest.fixture(scope="session")
def official_lsr(tmp_path_factory):
    """Path of an LSR checkpoint in the authors' layout, random weights."""
    path = tmp_path_factory.mktemp("lsr") / "lsr_official_layout_random.pth"
    path.write_bytes(lzma.decompress((GOLDEN / "lsr_official_layout_random.pth.xz").read_bytes()))
    return str(path)


@pytest.fixture(scope="session")
def toy_eps():
    """toy_eps(tensors) -> eps(x, t), the noise predictor of the end-to-end reference data; x is the
    network's input, x_ve / sqrt(1 + sigma^2)."""

    def make(tensors):
        w1, b1, v, w2, b2 = (tensors[f"toy.{name}"] for name in ("w1", "b1", "v", "w2", "b2"))

        def eps(x, t):
            hidden = F.conv2d(x, w1, b1, padding=1) + (t / 1000) * v[:, None, None]
            return F.conv2d(hidden.tanh(), w2, b2, padding=1)

        return eps

    return make


@pytest.fixture(scope="session")
def sdxl_sigmas():
    """SDXL's (1000,) noise levels."""
    from loupe.methods.schedules import alphas_cumprod

    alphas = alphas_cumprod(torch.float64)
    return ((1 - alphas) / alphas).sqrt().float()
