"""The mini world's denoiser for arbitrary scales, through ComfyUI's own path for concatenated latents."""

import comfy.model_base
import comfy.supported_models
import numpy as np
import pytest
import tiny
import torch
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from loupe.benchmarks.scoring import psnr, self_ssim
from loupe.engine import with_parts
from loupe.models import files
from loupe.models.files import BUNDLED, Metadata
from loupe.models.implicit_decoder.loaded import AnyScale, LoadedDecoder
from loupe.models.mini import file
from loupe.models.mini import loaded as mini
from loupe.patches.regional_denoise import RegionalDenoise
from loupe.training.mini.arbitrary import build
from loupe.training.mini.low_resolution import low_resolution
from loupe.training.mini.render import render
from loupe.training.mini.scenes import caption, sample_scene
from tolerance import close


@pytest.fixture(scope="module")
def clip():
    return mini.load_clip()


@pytest.fixture(scope="module")
def vae():
    return mini.load_vae()


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """The denoiser as training starts it."""
    (tmp_path / "mini_vae.safetensors").symlink_to(BUNDLED / "mini_vae.safetensors")
    file.save("arbitrary", build(file.load("unet")[0]).state_dict(), Metadata(), tmp_path / "mini_arbitrary.safetensors")
    with monkeypatch.context() as patched:
        patched.setattr(files, "BUNDLED", tmp_path)
        return mini.load_arbitrary()


def prompt(clip, text="red ball top center, on grass"):
    return [clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in (text, "")]


def shown(conditioning, picture, vae):
    """Positive, negative and empty latent of the stock node."""
    return InstructPixToPixConditioning.execute(*conditioning, picture, vae).result


def draw(model, positive, negative, size=(16, 16), steps=3, seed=3):
    return tiny.sample(model, torch.zeros(1, 4, *size), "euler", steps, 4.0, positive, negative, seed=seed)


def picture(height, width, seed=0):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.numerics
def test_training_starts_from_the_bundled_denoiser(untrained, clip, vae):
    positive, negative = prompt(clip)
    expected = draw(mini.load_model(), positive, negative)
    close(draw(untrained, positive, negative), expected, 5e-5)
    positive, negative, latent = shown((positive, negative), picture(128, 128), vae)
    assert latent["samples"].shape == (1, 4, 16, 16)
    close(draw(untrained, positive, negative), expected, 5e-5)


@pytest.mark.parametrize("size", [(256, 256), (192, 320), (203, 131)])
def test_network_sees_the_scaled_latent_of_the_image(untrained, clip, vae, size):
    image, seen = picture(*size), []
    positive, negative, latent = shown(prompt(clip), image, vae)
    cells = latent["samples"].shape[-2:]
    assert cells == (size[0] // 8, size[1] // 8)

    def watch(apply, args):
        seen.append(args["c"]["c_concat"])
        return apply(args["input"], args["timestep"], **args["c"])

    watched = untrained.clone()
    watched.set_model_unet_function_wrapper(watch)
    assert draw(watched, positive, negative, cells, steps=1).shape == (1, 4, *cells)
    scaled = positive[0][1]["concat_latent_image"] * mini.latent_format().scale_factor
    for concat in seen:
        torch.testing.assert_close(concat, scaled.expand_as(concat))
    assert len(seen) >= 1


@pytest.mark.numerics
def test_regions_get_their_part_of_the_image():
    model = concatenating()
    image, x = tiny.noise((1, 4, 8, 12), 1), tiny.noise((2, 4, 8, 12), 9) * 2

    def conditioning(start=0, end=12):
        return tuple(tiny.conditioning(seed, concat_latent_image=image[..., start:end]) for seed in (1, 2))

    whole = tiny.evaluate(with_parts(model, RegionalDenoise((8, 8))), x, conditioning())
    parts = [tiny.evaluate(model, x[..., start : start + 8], conditioning(start, start + 8)) for start in (0, 4)]
    for out, a, b in zip(whole, *parts):
        expected = torch.cat([a[..., :4], (a[..., 4:] + b[..., :4]) / 2, b[..., 4:]], -1)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.numerics
def test_one_region_is_the_plain_model(clip, vae, untrained):
    torch.nn.init.normal_(untrained.model.diffusion_model.input_blocks[0][0].weight, std=0.1)
    positive, negative, latent = shown(prompt(clip), picture(128, 128), vae)
    plain = draw(untrained, positive, negative)
    regional = with_parts(untrained, RegionalDenoise((16, 16)))
    assert torch.equal(draw(regional, positive, negative), plain)


def test_trained_denoiser_sharpens_what_it_is_shown_and_its_sizes_agree(clip, vae):
    scenes = [sample_scene(seed) for seed in (7_000_004, 7_000_009)]
    truth = [render(scene, 256, 2) for scene in scenes]
    low = [low_resolution(image, 64) for image in truth]
    model, drawn = mini.load_arbitrary(), []
    for scene, image in zip(scenes, low):
        positive, negative, _ = shown(prompt(clip, caption(scene)), torch.from_numpy(image)[None] / 255, vae)
        start = positive[0][1]["concat_latent_image"]
        drawn.append(tiny.sample(model, start, "euler", 8, 1.0, positive, negative, denoise=0.7))
    decoder = AnyScale(vae, LoadedDecoder.from_file(str(BUNDLED / "mini_decoder.safetensors"), "mini_decoder.safetensors"))
    pictures = {side: decoder.decode(torch.cat(drawn), side, side, 128, 32).movedim(-1, 1) * 2 - 1 for side in (256, 410)}
    true, shrunk = (torch.from_numpy(np.stack(images)).movedim(-1, 1) / 127.5 - 1 for images in (truth, low))

    def edges(images):
        return sum(images.diff(dim=d).abs().mean() for d in (-1, -2))

    assert edges(shrunk) < 0.8 * edges(true)
    assert abs(edges(pictures[256]) - edges(true)) < abs(edges(shrunk) - edges(true))
    assert psnr(pictures[256], true) > psnr(shrunk, true) - 1
    assert self_ssim(pictures)[256, 410] > 0.95


def concatenating():
    """A random InstructPix2Pix model of SDXL's layout."""
    conf = comfy.supported_models.SDXL_instructpix2pix({**tiny.UNET, "in_channels": 8, "use_linear_in_transformer": True, "context_dim": 64, "num_heads": -1, "num_head_channels": 16, "num_classes": "sequential", "adm_in_channels": tiny.POOLED + 6 * 256})
    conf.set_inference_dtype(torch.float32, None)
    model = conf.get_model({}, "")
    assert isinstance(model, comfy.model_base.SDXL_instructpix2pix)
    tiny.randomize(model.diffusion_model)
    return tiny.patcher(model)
