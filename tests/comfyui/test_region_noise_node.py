import comfy.nested_tensor
import comfy.sd
import pytest
import tiny
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from loupe.methods.noise import seeded_noise, stream
from loupe.methods.region_noise import edges, strength_map
from loupe.methods.schedules import start_for
from loupe.models.mini import loaded as mini
from loupe.nodes.region_noise import RegionNoise
from loupe.patches.region_noise import decode_float32

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def model():
    return tiny.sdxl()


@pytest.fixture(scope="module")
def image():
    """Flat on the left, a chequerboard on the right, (1, 64, 96, 3)."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    board = ((y // 4 + x // 4) % 2).float() * (x >= 48)
    return board[None, ..., None].expand(1, 64, 96, 3)


def run(model, samples, image, e_min=0.0, e_max=1.2, seed=3, low=0, high=255, strength=0.6):
    latent = samples if isinstance(samples, dict) else {"samples": samples}
    return RegionNoise.execute(model, latent, image, e_min, e_max, seed, low, high, strength).args


def test_noise_has_the_papers_strength_in_scaled_units(model, image):
    z = torch.randn(1, 4, 16, 24)
    out, preview = run(model, z, image)
    strength = strength_map(edges(image[0]), (16, 24), 0.0, 1.2)
    torch.testing.assert_close(out["samples"] * 0.13025, z * 0.13025 + strength * seeded_noise(z.shape, stream(3, "region-wise noise")))
    assert torch.equal(out["samples"][..., :11], z[..., :11])
    torch.testing.assert_close(preview, (strength / 1.2)[None, ..., None].expand(1, 16, 24, 3))


def test_parity_with_the_reference(model, golden, monkeypatch):
    tensors, _ = golden("rna")
    noise = tensors["img0.add.noise"]
    monkeypatch.setattr("loupe.patches.region_noise.seeded_noise", lambda *args: noise)
    out, _ = run(model, tensors["img0.add.latent"] / 0.13025, tensors["img0"][None].float() / 255)
    torch.testing.assert_close(out["samples"] * 0.13025, tensors["img0.add.out"], rtol=0, atol=2e-6)


def test_no_strength_is_a_bit_equal_no_op(image):
    z = torch.randn(1, 16, 16, 24)
    out, preview = run(tiny.sd3(), z, image, 0.0, 0.0)
    assert torch.equal(out["samples"], z) and preview.max() == 0


def test_formats_with_a_shift_get_noise_alone(image):
    model = tiny.sd3()
    fmt = model.get_model_object("latent_format")
    z = torch.randn(1, 16, 16, 24)
    out, _ = run(model, z, image, 0.5, 0.5)
    torch.testing.assert_close(fmt.process_in(out["samples"]) - fmt.process_in(z), 0.5 * seeded_noise(z.shape, stream(3, "region-wise noise")), rtol=1e-4, atol=1e-5)


def test_noise_goes_with_the_strength_of_the_denoise(model, image):
    z = torch.zeros(1, 4, 16, 24)
    at_papers, shown = run(model, z, image)
    factor = start_for(0.35) / start_for(0.6)
    out, weaker = run(model, z, image, strength=0.35)
    torch.testing.assert_close(out["samples"], factor * at_papers["samples"])
    torch.testing.assert_close(weaker, shown)
    assert 1.2 * factor == pytest.approx(0.52, abs=0.01)


def test_flat_image_gets_the_minimum(model):
    z = torch.randn(1, 4, 16, 24)
    out, _ = run(model, z, torch.full((1, 64, 96, 3), 0.5), 0.3, 1.2)
    torch.testing.assert_close((out["samples"] - z) * 0.13025, 0.3 * seeded_noise(z.shape, stream(3, "region-wise noise")), rtol=1e-4, atol=1e-5)


def test_seed_and_batch_index(model, image):
    z = torch.randn(3, 4, 16, 24)
    whole = run(model, z, image)[0]["samples"]
    assert torch.equal(whole, run(model, z, image)[0]["samples"])
    assert not torch.equal(whole, run(model, z, image, seed=4)[0]["samples"])
    third = run(model, {"samples": z[2:], "batch_index": [2]}, image)[0]
    assert torch.equal(third["samples"], whole[2:]) and third["batch_index"] == [2]


def test_a_image_for_each_sample(model, image):
    z = torch.randn(2, 4, 16, 24)
    flat = torch.zeros_like(image)
    out, preview = run(model, z, torch.cat([flat, image]))
    assert torch.equal(out["samples"][0], z[0]) and not torch.equal(out["samples"][1], z[1])
    assert preview.shape == (2, 16, 24, 3)


def test_videos(image):
    model, z = tiny.wan(), torch.randn(2, 16, 3, 16, 24)
    flat = torch.zeros_like(image)
    one = run(model, z, image)[0]["samples"]
    assert torch.equal(one, run(model, z, torch.cat([image, image]))[0]["samples"])
    frames = run(model, z, torch.cat([flat, image, flat, flat, flat, image]))[0]["samples"]
    assert torch.equal(frames[0, :, 1], one[0, :, 1]) and torch.equal(frames[1, :, 2], one[1, :, 2])
    for sample, frame in [(0, 0), (0, 2), (1, 0), (1, 1)]:
        assert torch.equal(frames[sample, :, frame], z[sample, :, frame])
    with pytest.raises(ValueError, match=r"reference has 4 images; connect 1, 2 \(one for each video\) or 6 \(one for each latent frame\)"):
        run(model, z, image.expand(4, -1, -1, -1))


def test_input_is_not_changed_and_the_mask_stays(model, image):
    latent = {"samples": torch.randn(1, 4, 16, 24), "noise_mask": torch.ones(1, 128, 192)}
    before = latent["samples"].clone()
    out, _ = run(model, latent, image)
    assert torch.equal(latent["samples"], before) and torch.equal(out["noise_mask"], latent["noise_mask"])


def test_transparency_is_ignored(model, image):
    z = torch.randn(1, 4, 16, 24)
    alpha = torch.cat([image, torch.rand(1, 64, 96, 1)], -1)
    assert torch.equal(run(model, z, alpha)[0]["samples"], run(model, z, image)[0]["samples"])


def test_wrong_inputs_are_refused(model, image):
    z = torch.randn(1, 4, 16, 24)
    with pytest.raises(ValueError, match="reference is 96x64 pixels and samples 24x24 latent cells"):
        run(model, torch.randn(1, 4, 24, 24), image)
    with pytest.raises(ValueError, match="noise_flat is 1.2 and noise_edges 0.4"):
        run(model, z, image, 1.2, 0.4)
    with pytest.raises(ValueError, match="samples has 16 channels, the model's latents have 4"):
        run(model, torch.randn(1, 16, 16, 24), image)
    with pytest.raises(ValueError, match="reference has 2 images; connect 1 or 3"):
        run(model, torch.randn(3, 4, 16, 24), image.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match="packed or nested"):
        run(model, comfy.nested_tensor.NestedTensor([z, z]), image)


def test_schema():
    schema = RegionNoise.GET_SCHEMA()
    assert all(socket.tooltip for socket in [*schema.inputs, *schema.outputs])


@pytest.mark.parametrize("shape", [(16, 24), (128, 192)])
def test_what_a_noise_mask_keeps_gets_no_noise(model, image, shape):
    mask = torch.zeros(1, *shape)
    mask[..., shape[1] * 3 // 4 :] = 1
    latent = {"samples": torch.randn(2, 4, 16, 24), "noise_mask": mask, "batch_index": [4, 1]}
    out, _ = run(model, latent, image, 0.5, 0.5)
    change = (out["samples"] - latent["samples"]).abs()
    assert change[..., :17].max() == 0 and change[..., 19:].mean() > 0.1
    assert out["noise_mask"] is mask and out["batch_index"] == [4, 1]


DDCONFIG = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


def vae_of(dtype, weights):
    return comfy.sd.VAE(sd={name: w.to(dtype) for name, w in weights.items()}, config={"params": {"ddconfig": DDCONFIG, "embed_dim": 4}}, dtype=dtype)


def test_a_reference_is_decoded_in_float32_by_a_vae_of_any_precision(inference):
    torch.manual_seed(0)
    network = AutoencoderKL(ddconfig=DDCONFIG, embed_dim=4)
    weights = {name: torch.randn(p.shape) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1) for name, p in network.state_dict().items()}
    weights = {name: w.bfloat16() for name, w in weights.items()}
    half, full, z = vae_of(torch.bfloat16, weights), vae_of(torch.float32, weights), torch.randn(1, 4, 8, 8)
    before = half.decode(z)
    assert not torch.equal(before, full.decode(z))
    assert torch.equal(decode_float32(half, z), full.decode(z))
    assert torch.equal(half.decode(z), before) and half.vae_dtype == torch.bfloat16


class PlainDecoder(torch.nn.Conv2d):
    decode = torch.nn.Conv2d.forward


def test_a_vae_of_plain_layers_decodes_as_it_always_does(inference):
    vae = mini.load_vae()
    vae.first_stage_model, vae.vae_dtype = PlainDecoder(4, 3, 3, padding=1).bfloat16(), torch.bfloat16
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(decode_float32(vae, z), vae.decode(z))
