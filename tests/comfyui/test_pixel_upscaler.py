import comfy.utils
import folder_paths
import pytest
import tiny
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader
from loupe.benchmarks.world import World
from loupe.models.lsr.pixels import PixelUpscaler
from loupe.nodes.demofusion import DemoFusionSampler
from loupe.nodes.lsr import LSRUpscale, UpscaleThroughPixels
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from widgets import defaults


@pytest.fixture(scope="module")
def world():
    return World()


def latents(count=1):
    return tiny.noise((count, 4, 8, 12), 3)


@pytest.fixture
def upscale_model(tmp_path, monkeypatch):
    """A tiny one of a class that people use, twice as large."""
    torch.manual_seed(0)
    save_file(Compact(num_feat=8, num_conv=1, upscale=2).state_dict(), tmp_path / "tiny.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "upscale_models", ([str(tmp_path)], {".safetensors"}))
    return UpscaleModelLoader.execute("tiny.safetensors").result[0]


def enlarged(vae, samples, width, height):
    pixels = comfy.utils.common_upscale(vae.decode(samples).movedim(-1, 1), width, height, "lanczos", "disabled")
    return vae.encode(pixels.movedim(1, -1))


def upscaled(vae, samples, **inputs):
    (lsr,) = UpscaleThroughPixels.execute(vae, "lanczos").result
    return LSRUpscale.execute(lsr, {"samples": samples}, **{"scale_by": 2.0, "width": 0, "height": 0, **inputs}).result[0]["samples"]


@torch.inference_mode()
def test_it_is_decode_lanczos_encode(world):
    samples = latents()
    assert torch.equal(upscaled(world.vae, samples), enlarged(world.vae, samples, 192, 128))
    assert upscaled(world.vae, samples, width=144).shape == (1, 4, 12, 18)
    assert upscaled(world.vae, samples, scale_by=1.0) is samples


@torch.inference_mode()
def test_a_batch_is_its_singles(world):
    samples = latents(2)
    torch.testing.assert_close(upscaled(world.vae, samples), torch.cat([upscaled(world.vae, one) for one in samples.split(1)]))


@torch.inference_mode()
def test_an_upscale_model_comes_first(world, upscale_model):
    samples = latents()
    by_model, plain = (PixelUpscaler(world.vae, one).upscale(samples, 16, 24) for one in (upscale_model, None))
    assert by_model.shape == plain.shape == (1, 4, 16, 24) and not torch.allclose(by_model, plain, atol=1e-2)
    image = ImageUpscaleWithModel.execute(upscale_model, world.vae.decode(samples)).result[0]
    assert tiny.relative(by_model, world.vae.encode(image)) < 0.02


def test_another_vae_is_refused(world):
    with pytest.raises(ValueError, match="samples has 16 channels; the connected vae has latents of 4. Connect the VAE of the model"):
        upscaled(world.vae, torch.zeros(1, 16, 8, 8))


@torch.inference_mode()
def test_demofusion_follows_it_as_it_follows_an_lsr(world):
    settings = defaults(DemoFusionSampler) | {"steps": 2, "strength": 0.3, "mode": "direct", "cfg": 1.0}
    side = {name: 128 for name in ("region_width", "region_height")}
    prompt, reference = world.prompt("red star top left, on grass"), {"samples": world.encode([torch.zeros(128, 128, 3, dtype=torch.uint8).numpy()])}
    outs = [DemoFusionSampler.execute(world.model, prompt, world.empty, reference, **{**settings, **side}, lsr=lsr).result[0]["samples"] for lsr in (PixelUpscaler(world.vae), None)]
    assert outs[0].shape == (1, 4, 32, 32) and outs[0].isfinite().all() and not torch.equal(*outs)
