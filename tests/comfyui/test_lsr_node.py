import comfy.latent_formats
import comfy.model_management
import comfy.nested_tensor
import comfy.utils
import folder_paths
import pytest
import tiny
import torch
from loupe.engine.latents import target_size
from loupe.models.files import BUNDLED, Metadata
from loupe.models.latent_space import LatentSpace
from loupe.models.lsr import LSR, save
from loupe.models.lsr.loaded import LatentUpscaler
from loupe.nodes.lsr import FOLDER, LoadLSR, LSRUpscale
from tolerance import close

pytestmark = pytest.mark.numerics


def network(channels=4):
    with torch.inference_mode(False):
        torch.manual_seed(0)
        return LSR(channels=channels, dim=12, depths=(2,), heads=(2,), window=4, hidden=(16, 16))


@pytest.fixture
def lsr():
    return LatentUpscaler(network(), LatentSpace("SDXL", 4), "tiny.safetensors")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    paths, extensions = folder_paths.folder_names_and_paths[FOLDER]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path)], extensions))
    return tmp_path


def offered():
    return LoadLSR.GET_SCHEMA().inputs[0].options


def upscale(lsr, samples, scale_by=2.0, width=0, height=0):
    latent = samples if isinstance(samples, dict) else {"samples": samples}
    return LSRUpscale.execute(lsr, latent, scale_by, width, height).args[0]


def test_works_in_the_scaled_units_of_its_file(lsr):
    z = torch.randn(1, 4, 9, 12)
    expected = lsr.patcher.model(z * 0.13025, (18, 24)) / 0.13025
    torch.testing.assert_close(upscale(lsr, z)["samples"], expected)

    own = LatentUpscaler(network(), LatentSpace("Mini", 4, 0.5), "mini.safetensors")
    torch.testing.assert_close(upscale(own, z)["samples"], own.patcher.model(z * 0.5, (18, 24)) / 0.5)


def test_videos_are_enlarged_frame_by_frame_and_batches_image_by_image(lsr):
    video = torch.randn(2, 4, 3, 8, 9)
    out = upscale(lsr, video, 1.5)["samples"]
    assert out.shape == (2, 4, 3, 12, 14)
    for frame in range(3):
        assert torch.equal(out[:, :, frame], upscale(lsr, video[:, :, frame], 1.5)["samples"])
    assert torch.equal(out[1:], upscale(lsr, video[1:], 1.5)["samples"])


def test_latent_dict(lsr):
    latent = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": torch.ones(1, 64, 64), "batch_index": [3, 5]}
    before = latent["samples"].clone()
    out = upscale(lsr, latent)
    assert set(latent) == {"samples", "noise_mask", "batch_index"} and torch.equal(latent["samples"], before)
    assert out["noise_mask"] is latent["noise_mask"] and out["batch_index"] == [3, 5]


def test_factor_one_changes_nothing(lsr):
    latent = {"samples": torch.randn(1, 4, 8, 8), "noise_mask": torch.ones(1, 64, 64)}
    out = upscale(lsr, latent, 1.0)
    assert torch.equal(out["samples"], latent["samples"]) and "noise_mask" in out


@pytest.mark.parametrize(
    "low,scale_by,width,height,expected",
    [
        ((128, 96), 2.0, 0, 0, (256, 192)),
        ((94, 128), 1.99, 0, 0, (187, 255)),
        ((128, 128), 2.0, 2048, 3072, (384, 256)),
        ((64, 128), 2.0, 2048, 0, (128, 256)),
        ((64, 128), 2.0, 0, 1024, (128, 256)),
        ((64, 128), 2.0, 1031, 0, (64, 128)),
    ],
)
def test_target_size(low, scale_by, width, height, expected):
    assert target_size(low, scale_by, width, height, 8) == expected


def test_it_only_enlarges():
    with pytest.raises(ValueError, match="target is 512x1024 pixels and samples is 1024x1024; it can only be enlarged"):
        target_size((128, 128), 2.0, 512, 1024, 8)


def test_wrong_latents_are_refused(lsr):
    with pytest.raises(ValueError, match=r"samples has 16 channels; tiny\.safetensors was trained on SDXL latents with 4"):
        upscale(lsr, torch.randn(1, 16, 8, 8))
    with pytest.raises(ValueError, match="samples is 8x2 latent cells; tiny.safetensors needs at least 3"):
        upscale(lsr, torch.randn(1, 4, 2, 8))
    nested = comfy.nested_tensor.NestedTensor([torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8)])
    with pytest.raises(ValueError, match="samples is a packed or nested latent"):
        upscale(lsr, nested)


def test_wrong_latent_formats_are_refused():
    with pytest.raises(ValueError, match="odd.safetensors was trained on 'Nonsense' latents, which this ComfyUI does not know"):
        LatentUpscaler(network(), LatentSpace("Nonsense", 4), "odd.safetensors")
    with pytest.raises(ValueError, match="odd.safetensors has weights for 4 latent channels; Flux latents have 16"):
        LatentUpscaler(network(), LatentSpace("Flux", 4), "odd.safetensors")


def test_formats_with_a_shift():
    flux = LatentUpscaler(network(16), LatentSpace("Flux", 16), "flux.safetensors")
    z = torch.randn(1, 16, 8, 8)
    fmt = comfy.latent_formats.Flux()
    torch.testing.assert_close(upscale(flux, z)["samples"], fmt.process_out(flux.patcher.model(fmt.process_in(z), (16, 16))))


def test_little_memory_means_smaller_chunks_and_the_same_image(lsr, monkeypatch):
    z = torch.randn(1, 4, 24, 24)
    seen = []
    inner = type(lsr.patcher.model).forward

    def spy(self, z, size, rows, progress):
        seen.append(rows)
        return inner(self, z, size, rows, progress)

    monkeypatch.setattr(type(lsr.patcher.model), "forward", spy)
    plenty = upscale(lsr, z, 4.0)["samples"]
    low = lsr.patcher.model.memory(24, 24, 96, 96, 20)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *args, **kwargs: low)
    close(upscale(lsr, z, 4.0)["samples"], plenty, 1e-5)
    assert seen[0] > 20 >= seen[1]


def test_progress_and_cancel(lsr, monkeypatch):
    z = torch.randn(2, 4, 8, 8)
    monkeypatch.setattr("loupe.models.lsr.network.QUERIES_PER_CHUNK", 16 * 4)
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *args, **kwargs: seen.append((value, total)))
    upscale(lsr, z)
    assert seen[-1] == (32, 32)

    calls = []
    query = LSR.query
    monkeypatch.setattr(LSR, "query", lambda *args: calls.append(1) or query(*args))
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        upscale(lsr, z)
    assert len(calls) == 1
    assert len(upscale(lsr, z)["samples"]) == 2


def test_loader(folder):
    with torch.inference_mode(False):
        save(folder / "tiny.safetensors", network(), Metadata(LatentSpace("SDXL", 4)), torch.float32)
    assert "tiny.safetensors" in offered()
    lsr = LoadLSR.execute("tiny.safetensors").args[0]
    z = torch.randn(1, 4, 8, 8)
    assert torch.equal(upscale(lsr, z)["samples"], LatentUpscaler(network(), LatentSpace("SDXL", 4), "").upscale(z, 16, 16))

    stamp = LoadLSR.fingerprint_inputs("tiny.safetensors")
    assert stamp == LoadLSR.fingerprint_inputs("tiny.safetensors")
    with torch.inference_mode(False):
        save(folder / "tiny.safetensors", network(), Metadata(LatentSpace("SDXL", 4), notes={"note": "changed"}), torch.float32)
    assert stamp != LoadLSR.fingerprint_inputs("tiny.safetensors")
    with pytest.raises(FileNotFoundError):
        LoadLSR.execute("absent.safetensors")


def test_official_file_loads_through_the_node(folder, official_lsr, golden):
    (folder / "swinir-liif-latent-sdxl.pth").symlink_to(official_lsr)
    lsr = LoadLSR.execute("swinir-liif-latent-sdxl.pth").args[0]
    tensors, _ = golden("lsr_forward")
    out = upscale(lsr, tensors["c0_32x32_to_64x64.in"] / 0.13025)["samples"]
    assert (out * 0.13025 - tensors["c0_32x32_to_64x64.out"]).abs().max() < 5e-4


def test_bundled_file_is_offered_and_gives_way_to_the_users(folder, tmp_path_factory, monkeypatch):
    bundled = tmp_path_factory.mktemp("bundled")
    monkeypatch.setattr("loupe.models.files.BUNDLED", bundled)
    with torch.inference_mode(False):
        save(bundled / "mini_lsr.safetensors", network(), Metadata(LatentSpace("Mini", 4, 0.5)), torch.float32)
        (bundled / "mini_vae.safetensors").write_bytes((BUNDLED / "mini_vae.safetensors").read_bytes())
        (bundled / "broken_lsr.safetensors").write_bytes(b"no")
    assert offered() == ["mini_lsr.safetensors"]
    assert LoadLSR.execute("mini_lsr.safetensors").args[0].latent_format.scale_factor == 0.5
    with torch.inference_mode(False):
        save(folder / "mini_lsr.safetensors", network(), Metadata(LatentSpace("Mini", 4, 0.7)), torch.float32)
    assert offered() == ["mini_lsr.safetensors"]
    assert LoadLSR.execute("mini_lsr.safetensors").args[0].latent_format.scale_factor == 0.7


def test_other_models_can_be_loaded_in_between(lsr):
    z = torch.randn(1, 4, 8, 8)
    first = upscale(lsr, z)["samples"]
    comfy.model_management.load_models_gpu([tiny.sdxl()])
    comfy.model_management.unload_all_models()
    assert torch.equal(upscale(lsr, z)["samples"], first)


@pytest.mark.parametrize("node", [LoadLSR, LSRUpscale])
def test_schema(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("Loupe")
    assert all(socket.tooltip for socket in [*schema.inputs, *schema.outputs])
