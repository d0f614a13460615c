import sys
import types

import comfy.model_management
import comfy.nested_tensor
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import tiny
import torch
import torch.nn.functional as F
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.wan.vae import WanVAE
from loupe.models.files import BUNDLED, Metadata
from loupe.models.implicit_decoder import HybridDecoder, ImplicitDecoder, save
from loupe.models.implicit_decoder.loaded import LoadedDecoder
from loupe.models.mini import loaded as mini
from loupe.nodes.implicit_decoder import (
    FOLDER,
    ImplicitDecode,
    LoadImplicitDecoder,
)

pytestmark = pytest.mark.numerics

CONFIG = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


def autoencoder_kl(seed=0, channels=4):
    params = {"ddconfig": {**CONFIG, "z_channels": channels}, "embed_dim": channels}
    vae = comfy.sd.VAE(sd=tiny.randomize(AutoencoderKL(**params), seed).state_dict(), config={"params": params}, dtype=torch.float32)
    vae.latent_channels = channels
    return vae


def wan(seed=0):
    """Qwen-Image's and Wan 2.1's VAE, thin: a video autoencoder with 16 channels."""
    network = tiny.randomize(WanVAE(8, 16, temperal_downsample=[False, True, True]), seed)
    return comfy.sd.VAE(sd=network.state_dict(), dtype=torch.float32)


VAES = {"mini": mini.load_vae, "kl": autoencoder_kl, "wan": wan}


@pytest.fixture(scope="module", params=VAES)
def vae(request):
    with torch.inference_mode():
        return VAES[request.param]()


def latents(vae, batch, height, width):
    return tiny.noise((batch, vae.latent_channels, height, width))


def frame(vae, z):
    """z as the VAE itself takes it."""
    return z[:, :, None] if vae.latent_dim == 3 else z


def stock_decode(vae, z):
    return vae.decode(frame(vae, z)).reshape(len(z), 8 * z.shape[-2], 8 * z.shape[-1], 3)


def trained(vae, seed=0):
    with torch.inference_mode(False):
        torch.manual_seed(seed)
        network = HybridDecoder.of(vae.first_stage_model, (16, 16))
        torch.nn.init.normal_(network.imnet.layers[-1].weight, std=0.3)
        return LoadedDecoder(network, "trained.safetensors")


def papers(channels=4):
    with torch.inference_mode(False):
        torch.manual_seed(0)
        return LoadedDecoder(ImplicitDecoder(channels, 32, (1, 2, 4), 1, hidden=(16,)), "paper.ckpt")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path)], extensions))
    return tmp_path


def decode(samples, vae=None, decoder=None, scale_by=1.0, width=0, height=0, tile_size=1024, overlap=256):
    latent = samples if isinstance(samples, dict) else {"samples": samples}
    return ImplicitDecode.execute(latent, scale_by, width, height, tile_size, overlap, vae, decoder).args[0]


def test_without_training_it_is_vae_decode_and_a_resize(vae):
    z = latents(vae, 1, 6, 9)
    stock = stock_decode(vae, z)
    with torch.inference_mode(False):
        untrained = LoadedDecoder(HybridDecoder.of(vae.first_stage_model), "untrained.safetensors")
    for decoder in (None, untrained):
        assert torch.equal(decode(z, vae, decoder), stock)
        raw = vae.first_stage_model.decode(frame(vae, z)).reshape(1, 3, 48, 72)
        expected = (F.interpolate(raw, (111, 40), mode="bicubic", antialias=True).movedim(1, -1) + 1) / 2
        torch.testing.assert_close(decode(z, vae, decoder, width=40, height=111), expected.clamp(0, 1), rtol=0, atol=2e-5)


def test_one_latent_at_any_size(vae):
    z, decoder = latents(vae, 2, 4, 6), trained(vae)
    for scale, size in ((0.25, (8, 12)), (1.0, (32, 48)), (3.7, (118, 178))):
        images = decode(z, vae, decoder, scale)
        assert images.shape == (2, *size, 3) and images.dtype == torch.float32
        assert images.min() >= 0 and images.max() <= 1
        assert torch.equal(images[1:], decode(z[1:], vae, decoder, scale))
    assert decode(z, vae, decoder, width=100).shape[1:3] == (67, 100)
    assert decode(z, vae, decoder, height=101).shape[1:3] == (101, 152)
    assert decode(z, vae, decoder, width=100, height=101).shape[1:3] == (101, 100)


def test_the_papers_decoder_needs_no_vae():
    z, decoder = tiny.noise((1, 4, 5, 7)), papers()
    out = decode(z, None, decoder, 2.5)
    assert out.shape == (1, 50, 70, 3)
    network = decoder.patcher.model
    torch.testing.assert_close(out, (network(network.features(z), (50, 70)).movedim(1, -1) / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert torch.equal(decode(z, mini.load_vae(), decoder, 2.5), out)


def test_little_memory_means_smaller_chunks_and_the_same_image(vae, monkeypatch):
    z, decoder = latents(vae, 1, 6, 6), trained(vae)
    seen = []
    query = HybridDecoder.query
    monkeypatch.setattr(HybridDecoder, "query", lambda self, decoded, size, region: seen.append(region.height) or query(self, decoded, size, region))
    plenty = decode(z, vae, decoder, 3.0)
    little = decoder.patcher.model.query_memory(48, 48, (144, 144), 9)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: little)
    torch.testing.assert_close(decode(z, vae, decoder, 3.0), plenty, rtol=0, atol=1e-5)
    assert seen[0] == 144 and set(seen[1:]) == {9}


def test_wide_images_are_drawn_a_few_rows_at_a_time(vae, monkeypatch):
    z, decoder = latents(vae, 1, 6, 6), trained(vae)
    whole = decode(z, vae, decoder, 2.2)
    monkeypatch.setattr("loupe.models.implicit_decoder.loaded.QUERIES_PER_CHUNK", 7 * 106)
    torch.testing.assert_close(decode(z, vae, decoder, 2.2), whole, rtol=0, atol=1e-5)


def test_tiles_of_a_network_without_norms_change_nothing():
    vae = mini.load_vae()
    z, decoder = tiny.noise((1, 4, 40, 29)), trained(vae)
    whole = decode(z, vae, decoder, 0.7, tile_size=0)
    assert torch.equal(decode(z, vae, decoder, 0.7), whole)
    torch.testing.assert_close(decode(z, vae, decoder, 0.7, tile_size=256, overlap=192), decode(z, vae, decoder, 0.7, tile_size=256, overlap=999), rtol=0, atol=1e-6)
    torch.testing.assert_close(decode(z, vae, decoder, 0.7, tile_size=384, overlap=192), whole, rtol=0, atol=1e-4)


def test_tiles_of_a_network_with_norms_come_close():
    vae = autoencoder_kl()
    z, decoder = tiny.noise((1, 4, 48, 20)), trained(vae)
    whole, tiled = decode(z, vae, decoder, 0.5), decode(z, vae, decoder, 0.5, tile_size=256, overlap=64)
    assert 0 < (whole - tiled).abs().mean() < 0.02


def test_video_latents_of_one_frame():
    vae = mini.load_vae()
    z, decoder = tiny.noise((2, 4, 1, 4, 4)), trained(vae)
    assert torch.equal(decode(z, vae, decoder, 1.5), decode(z[:, :, 0], vae, decoder, 1.5))
    with pytest.raises(ValueError, match="samples is a video of 3 latent frames"):
        decode(tiny.noise((1, 4, 3, 4, 4)), vae, decoder)


def test_what_does_not_fit_together_is_refused(vae):
    z, decoder = latents(vae, 1, 4, 4), trained(vae)
    other = VAES["mini"]() if isinstance(vae.first_stage_model, AutoencoderKL) else autoencoder_kl()
    with pytest.raises(ValueError, match="trained.safetensors was not trained on the connected VAE"):
        decode(z, other, decoder)
    with pytest.raises(ValueError, match="trained.safetensors was not trained on the connected VAE"):
        decode(z, autoencoder_kl(seed=5), decoder)
    with pytest.raises(ValueError, match="vae is not connected, and trained.safetensors adds to the image of the VAE"):
        decode(z, None, decoder)
    with pytest.raises(ValueError, match="vae is not connected, and neither is decoder"):
        decode(z)
    with pytest.raises(ValueError, match=f"samples has 5 channels; the VAE decodes latents with {vae.latent_channels}"):
        decode(tiny.noise((1, 5, 4, 4)), vae, decoder)
    with pytest.raises(ValueError, match=f"samples has {vae.latent_channels} channels; paper.ckpt decodes latents with 3"):
        decode(z, vae, papers(3))
    with pytest.raises(ValueError, match="samples is a packed or nested latent"):
        decode(comfy.nested_tensor.NestedTensor([z, z[:, :, 0]]), vae, decoder)
    with pytest.raises(ValueError, match="samples holds values that are not finite"):
        decode(z / 0, vae, decoder)


@pytest.mark.parametrize("target", [{"width": 7}, {"height": 600}, {"width": 32, "height": 600}])
def test_targets_out_of_reach_are_refused(target):
    with pytest.raises(ValueError, match=r"samples decodes to 32x32; a side can become 0.25 to 16 times as long"):
        decode(tiny.noise((1, 4, 4, 4)), mini.load_vae(), **target)


def test_other_vaes_are_refused():
    class Tiny(torch.nn.Module):
        pass

    vae = mini.load_vae()
    vae.first_stage_model = Tiny()
    with pytest.raises(ValueError, match=r"The VAE \(Tiny\) has no feature map that an implicit decoder can read"):
        decode(tiny.noise((1, 4, 4, 4)), vae)
    vae.first_stage_model = None
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        decode(tiny.noise((1, 4, 4, 4)), vae)


def test_inputs_are_left_alone(vae):
    latent = {"samples": latents(vae, 1, 4, 4), "noise_mask": torch.ones(1, 32, 32)}
    before = latent["samples"].clone()
    decode(latent, vae, trained(vae), 2.0)
    assert set(latent) == {"samples", "noise_mask"} and torch.equal(latent["samples"], before)


def test_the_vae_is_left_as_it_was(vae):
    z = latents(vae, 1, 4, 4)
    before = stock_decode(vae, z)
    decode(z, vae, trained(vae), 2.0)
    assert not any(module._forward_hooks for module in vae.first_stage_model.modules())
    assert torch.equal(stock_decode(vae, z), before)


def test_other_models_can_be_loaded_in_between(vae):
    z, decoder = latents(vae, 1, 4, 4), trained(vae)
    first = decode(z, vae, decoder, 2.0)
    comfy.model_management.load_models_gpu([tiny.sdxl()])
    comfy.model_management.unload_all_models()
    assert torch.equal(decode(z, vae, decoder, 2.0), first)


def test_progress_and_cancel(monkeypatch):
    vae = mini.load_vae()
    z, decoder = tiny.noise((2, 4, 24, 4)), trained(vae)
    monkeypatch.setattr("loupe.models.implicit_decoder.loaded.QUERIES_PER_CHUNK", 48 * 32)
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *args, **kwargs: seen.append((value, total)))
    decode(z, vae, decoder, tile_size=128, overlap=64)
    assert seen[-1] == (2 * (2 + 4), 2 * (2 + 4))

    calls = []
    query = HybridDecoder.query

    def interrupted(*args):
        calls.append(1)
        comfy.model_management.interrupt_current_processing()
        return query(*args)

    with monkeypatch.context() as patch, pytest.raises(comfy.model_management.InterruptProcessingException):
        patch.setattr(HybridDecoder, "query", interrupted)
        decode(z, vae, decoder)
    assert len(calls) == 1
    assert len(decode(z, vae, decoder)) == 2


def test_loader(folder, tmp_path_factory, monkeypatch):
    bundled = tmp_path_factory.mktemp("bundled")
    vae = mini.load_vae()
    monkeypatch.setattr("loupe.models.files.BUNDLED", bundled)
    z = tiny.noise((1, 4, 4, 4))
    with torch.inference_mode(False):
        save(bundled / "mini_decoder.safetensors", trained(vae).network, Metadata(), torch.float32)
    (bundled / "mini_lsr.safetensors").write_bytes((BUNDLED / "mini_lsr.safetensors").read_bytes())
    (folder / "taesd_decoder.safetensors").write_bytes(b"")
    assert LoadImplicitDecoder.GET_SCHEMA().inputs[0].options == ["mini_decoder.safetensors"]
    decoder = LoadImplicitDecoder.execute("mini_decoder.safetensors").args[0]
    assert torch.equal(decode(z, vae, decoder, 2.0), decode(z, vae, trained(vae), 2.0))

    torch.save({"state_dict": {f"first_stage_model.decoder.{key}": value for key, value in papers().patcher.model.state_dict().items()}}, folder / "last.ckpt")
    assert LoadImplicitDecoder.GET_SCHEMA().inputs[0].options == ["last.ckpt", "mini_decoder.safetensors"]
    decoder = LoadImplicitDecoder.execute("last.ckpt").args[0]
    assert torch.equal(decode(z, None, decoder, 2.0), decode(z, None, papers(), 2.0))
    stamp = LoadImplicitDecoder.fingerprint_inputs("last.ckpt")
    torch.save({"state_dict": {}}, folder / "last.ckpt")
    assert stamp != LoadImplicitDecoder.fingerprint_inputs("last.ckpt")
    with pytest.raises(ValueError, match="last.ckpt is not an implicit decoder"):
        LoadImplicitDecoder.execute("last.ckpt")
    with pytest.raises(FileNotFoundError):
        LoadImplicitDecoder.execute("absent.safetensors")


def test_a_checkpoint_as_lightning_writes_it(folder, monkeypatch):
    names = "pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    monkeypatch.setattr(sys.modules[names[-1]], "ModelCheckpoint", callback, raising=False)
    state = {f"decoder.{key}": value for key, value in papers().patcher.model.state_dict().items()}
    torch.save({"state_dict": state, "callbacks": {callback: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1)}}}, folder / "last.ckpt")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    z = tiny.noise((1, 4, 4, 4))
    assert torch.equal(decode(z, None, LoadImplicitDecoder.execute("last.ckpt").args[0], 2.0), decode(z, None, papers(), 2.0))


@pytest.mark.parametrize("node", [LoadImplicitDecoder, ImplicitDecode])
def test_schema(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("Loupe") and schema.search_aliases
    assert all(socket.tooltip for socket in [*schema.inputs, *schema.outputs])
