"""The flow transformer of the mini world: ComfyUI's Z-Image class draws with it what the prompt says."""

import comfy.model_base
import comfy.sample
import pytest
import torch
from loupe.engine import with_parts
from loupe.methods.regions import RegionLayout
from loupe.models.mini import file
from loupe.models.mini import loaded as mini
from loupe.patches.region_prompts import encode_regions
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.training.mini import flow
from safetensors.torch import load_file

WORDS = "red star top left, blue house bottom right, on grass"


@pytest.fixture(scope="module")
def world():
    return mini.load_flow(), mini.load_clip(masked=True), mini.load_vae()


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(model, positive, negative, seed=3, steps=10, cfg=4.0, size=(16, 16)):
    latent = torch.zeros(1, 4, *size)
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive, negative, latent, disable_pbar=True, seed=seed)


def test_it_is_comfyui_s_z_image(world):
    model = world[0].model
    assert isinstance(model, comfy.model_base.Lumina2) and model.model_type == comfy.model_base.ModelType.FLOW
    assert model.model_sampling.sigma(torch.tensor(0.5)).item() == pytest.approx(0.75)  # shift 3
    assert file.path_of("flow").stat().st_size < 16e6


def test_prompt_decides_the_image(world):
    model, clip, vae = world
    negative = encode(clip, "")
    center = (slice(24, 64), slice(44, 84))
    red, blue = (vae.decode(sample(model, encode(clip, f"{color} ball top center, on grass"), negative))[0][center] for color in ("red", "blue"))
    assert (red[..., 0] - red[..., 2]).mean() > (blue[..., 0] - blue[..., 2]).mean() + 0.15


@pytest.mark.parametrize("row", ["top", "bottom"])
def test_prompt_decides_the_place(world, row):
    model, clip, vae = world
    image = vae.decode(sample(model, encode(clip, f"red ball {row} center, on sky"), encode(clip, "")))[0]
    redness = (image[..., 0] - image[..., 1:].mean(-1)).clamp(min=0).sum(1)
    assert ((redness * torch.arange(128)).sum() / redness.sum() > 64) == (row == "bottom")


def test_comfyui_asks_the_network_as_training_did(world):
    model, clip, _ = world
    net = flow.build(file.load("flow")[0]).eval()
    x, sigma = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0.6])
    context = encode(clip, WORDS)[0][0]
    denoised = model.model.apply_model(x, sigma, c_crossattn=context, num_tokens=context.shape[1])
    difference = denoised - (x - 0.6 * flow.velocity(net, x, sigma, context))  # which is in bfloat16
    assert difference.square().mean().sqrt() < 0.02


def test_padding_says_nothing(world):
    states = encode(world[1], WORDS)[0][0][0]
    words = len(WORDS.replace(",", " ,").split()) + 2
    assert (states[:words].abs().sum(-1) > 0).all() and not states[words:].any()
    assert encode(mini.load_clip(), WORDS)[0][0][0, words:].any()


def test_training_sees_comfyui_s_captions(world):
    captions = flow.Captions("cpu")
    for words in (WORDS, ""):
        ours, theirs = captions(flow.Vocabulary().rows([words])), encode(world[1], words)[0][0]
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_any_size_works(world):
    model, clip, _ = world
    out = sample(model, encode(clip, WORDS), encode(clip, ""), steps=1, size=(22, 13))
    assert out.shape == (1, 4, 22, 13) and out.isfinite().all()


@pytest.fixture(scope="module")
def few():
    return mini.VARIANTS["flow in few steps"].model()


def test_the_lora_for_few_steps_is_small_and_all_of_it_is_used(world, few):
    path = file.path_of("flow_lora")
    assert path.stat().st_size < 2e6
    patched = {key for key in few.patches}
    downs = [key for key in load_file(path) if key.endswith("lora_down.weight")]
    assert len(patched) == len(downs) > 0 and not world[0].patches


@pytest.mark.parametrize("row", ["top", "bottom"])
def test_few_steps_draw_what_the_prompt_says_without_guidance(world, few, row):
    _, clip, vae = world
    image = vae.decode(sample(few, encode(clip, f"red ball {row} center, on sky"), encode(clip, ""), steps=6, cfg=1.0))[0]
    redness = (image[..., 0] - image[..., 1:].mean(-1)).clamp(min=0).sum(1)
    assert ((redness * torch.arange(128)).sum() / redness.sum() > 64) == (row == "bottom")


@pytest.mark.parametrize("variant", ["flow", "flow in few steps"])
def test_regions_draw_what_their_own_prompts_say(world, few, variant):
    model, cfg = (world[0], 4.0) if variant == "flow" else (few, 1.0)
    _, clip, vae = world
    layout = RegionLayout.from_overlap(16, 32, 16, 16, 0.0)
    prompts = encode_regions(clip, [f"{color} ball top center, on grass" for color in ("red", "blue")], layout, encode(clip, "on grass"))
    patched = with_parts(model, RegionalDenoise((16, 16), 0.0, "gaussian", layout=layout))
    image = vae.decode(sample(patched, prompts, encode(clip, ""), steps=6, cfg=cfg, size=(16, 32)))[0]
    left, right = (image[24:64, x + 44 : x + 84] for x in (0, 128))
    redness = [(part[..., 0] - part[..., 2]).mean() for part in (left, right)]
    assert redness[0] > redness[1] + 0.1
