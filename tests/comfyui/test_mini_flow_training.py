"""`train mini-flow` and `train mini-flow-lora`, in small."""

import comfy.lora
import comfy.model_management
import comfy.supported_models
import pytest
import torch
from loupe.models import files
from loupe.models.files import Metadata
from loupe.models.mini import file
from loupe.models.mini.world import FLOW_CONFIG
from loupe.training.mini import few_steps, flow, text
from loupe.training.mini.scenes import caption, sample_scene
from safetensors.torch import load_file, save_file

SMALL = {**FLOW_CONFIG, "n_layers": 2, "ffn_dim_multiplier": 0.5}


@pytest.fixture(autouse=True)
def small(inference, monkeypatch, tmp_path):
    """A small network, with gradients, and a folder of bundled weights that training may write to."""
    monkeypatch.setattr(flow, "FLOW_CONFIG", SMALL)
    with torch.inference_mode(False):
        yield


@pytest.fixture
def run(tmp_path):
    """A run's folder with encoded images."""
    rows = text.Vocabulary().rows([caption(sample_scene(0)), ""])
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({
        "whole": torch.randn(3, 4, 16, 16), "whole_rows": rows[:1].repeat(3, 1),
        "zoom": torch.randn(2, 4, 16, 16), "zoom_place": torch.tensor([[192, 8, 16], [256, 0, 128]]),
        "zoom_rows": rows[:1].repeat(2, 1), "zoom_visible_rows": rows[:1].repeat(2, 1), "empty_rows": rows[1:],
    }, folder / "latents.safetensors")
    return folder


def network(seed=0):
    """One that is not at its beginning, where the output is zero."""
    torch.manual_seed(seed)
    net = flow.build()
    for p in net.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return net


def test_it_learns_a_batch():
    torch.manual_seed(0)
    net, g = flow.build(), torch.Generator().manual_seed(0)
    latents, noise, sigma, context = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.rand(4, generator=g), torch.randn(4, 32, 128)
    s = sigma.view(-1, 1, 1, 1)
    optimizer, losses = torch.optim.AdamW(net.parameters(), 2e-3), []
    with flow.differentiable():
        for _ in range(30):
            loss = (flow.velocity(net, (1 - s) * latents + s * noise, sigma, context) - (noise - latents)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not comfy.model_management.in_training


def test_it_starts_from_a_file(run, tmp_path):
    before = network().state_dict()
    file.save("flow", before, Metadata(), tmp_path / "start.safetensors", torch.float32)
    flow.main(["--out", str(run), "--batch", "4", "--device", "cpu", "--minutes", "1e-6", "--start", str(tmp_path / "start.safetensors"), "--save", str(tmp_path / "after.safetensors")])
    after = file.load("flow", tmp_path / "after.safetensors")[0]
    assert after.keys() == before.keys()
    assert 0 < max((after[key].float() - before[key]).abs().max() for key in before) < 2e-3
    assert "train mini-flow --start" in files.header(tmp_path / "after.safetensors")["training"]


def test_matrix_products_attend_as_comfyui_does():
    net, context = network(), torch.randn(2, 32, 128)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        assert torch.allclose(flow.velocity(net, x, sigma, context), net(x, sigma, context, 32), atol=0.05)


def test_crops_are_seen_at_low_noise_only():
    sigmas = flow.draw_sigmas(1000, torch.Generator().manual_seed(0))
    assert sigmas[:680].max() > 0.99 and sigmas.mean() > 0.6
    assert 0.85 < sigmas[680:].max() <= flow.CROP_SIGMA + 1e-6


def test_guidance_scale_one_is_no_guidance(monkeypatch):
    net, x, sigma = network(), torch.randn(2, 4, 8, 8), torch.tensor([0.5, 0.7])
    context, empty = torch.randn(2, 32, 128), torch.zeros(1, 32, 128)
    with torch.no_grad():
        assert not torch.allclose(few_steps.guided(net, x, sigma, context, empty), flow.velocity(net, x, sigma, context), atol=0.05)
        monkeypatch.setattr(few_steps, "GUIDANCE", 1.0)
        assert torch.allclose(few_steps.guided(net, x, sigma, context, empty), flow.velocity(net, x, sigma, context), atol=0.05)


def test_the_lora_is_one_of_comfyui_s(run, tmp_path):
    file.save("flow", network().state_dict(), Metadata(), tmp_path / "base.safetensors")
    few_steps.main(["--out", str(run), "--batch", "2", "--pairs", "2", "--device", "cpu", "--steps", "3", "--rank", "2", "--base", str(tmp_path / "base.safetensors"), "--save", str(tmp_path / "lora.safetensors")])
    lora = load_file(tmp_path / "lora.safetensors")
    assert any(value.abs().max() > 0 for key, value in lora.items() if "lora_up" in key)
    model = comfy.supported_models.ZImage({"image_model": "lumina2", **SMALL}).get_model({})
    loaded = comfy.lora.load_lora(dict(lora), comfy.lora.model_lora_keys_unet(model, {}), log_missing=True)
    assert 2 * len(loaded) == len(lora) == 2 * 2 * 6
    assert load_file(run / "flow_pairs.safetensors")["latents"].shape == (2, 4, 16, 16)
