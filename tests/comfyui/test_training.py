"""`train lsr` and `train implicit-decoder`, on a handful of images and random autoencoders, through their command lines."""

import csv
import os
import shutil
import signal
from pathlib import Path

import comfy.ldm.models.autoencoder
import comfy.ops
import comfy.taesd.taesd
import comfy.utils
import cv2
import folder_paths
import numpy as np
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.wan.vae import WanVAE
from loupe.models import implicit_decoder as decoders
from loupe.models.mini import loaded as mini
from loupe.nodes.implicit_decoder import LoadImplicitDecoder
from loupe.nodes.lsr import LoadLSR
from loupe.training import implicit_decoder, lsr, vae
from loupe.training.images import shrink_bicubic, to_unit_tensor
from loupe.training.shards import Shards
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SMALL_LSR = ["--square", "80", "80", "--scales", "2", "--crop", "5", "--query", "8", "--dim", "8", "--depths", "1", "--heads", "1", "--hidden", "8",
             "--batch", "2", "--log-every", "2", "--sample-every", "4"]
SMALL_DECODER = ["--square", "80", "--reductions", "2", "--query", "24", "--hidden", "8", "--batch", "2", "--log-every", "2", "--sample-every", "2"]


@pytest.fixture(autouse=True)
def training_mode(inference, tmp_path, monkeypatch):
    for folder in ("latent_upscale_models", "vae_approx"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], folder_paths.supported_pt_extensions))
    monkeypatch.chdir(tmp_path)
    with torch.inference_mode(False):
        yield


def random_weights(network, seed):
    g = torch.Generator().manual_seed(seed)
    draw = lambda value: torch.randn(value.shape, generator=g) * (0.5 / value[0].numel() ** 0.5)
    return {key: draw(value) if value.ndim > 1 else torch.zeros(value.shape) for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def taesd(tmp_path_factory):
    """A tiny autoencoder in a file that ComfyUI knows: TAESD, 4 channels, factor 8."""
    path = tmp_path_factory.mktemp("vae") / "tiny.safetensors"
    weights = random_weights(comfy.taesd.taesd.TAESD(), 0)
    save_file({**weights, "vae_scale": torch.tensor(0.5), "vae_shift": torch.tensor(0.0)}, path)
    return path


KL = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def save_random(path, build):
    """Cheap random weights, in half precision, of the autoencoder that `build` makes."""
    with torch.device("meta"):
        network = build()
    weights = {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in network.state_dict().items()}
    g = torch.Generator().manual_seed(0)
    for key, value in weights.items():
        if key.endswith("gamma") or key.endswith("norm.weight") or "norm" in key.split(".")[-2]:
            value.fill_(not key.endswith("bias"))
        elif value.ndim > 1:
            value.copy_(torch.randn(1024, generator=g).repeat(value.numel() // 1024 + 1)[: value.numel()].view(value.shape) * value[0].numel() ** -0.5)
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    """An AutoencoderKL with a thin decoder; ComfyUI fixes the encoder's width."""
    return save_random(tmp_path_factory.mktemp("vae") / "kl.safetensors", lambda: comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=KL, embed_dim=4, decoder_ddconfig={**KL, "ch": 32}))


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """The layout of SD3's and Flux's: 16 channels, no convolutions around the latent. ComfyUI 0.16 fixes the decoder's width too."""
    config, module = {**KL, "z_channels": 16}, "comfy.ldm.modules.diffusionmodules.model"
    return save_random(tmp_path_factory.mktemp("vae") / "flux.safetensors", lambda: comfy.ldm.models.autoencoder.AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": f"{module}.Encoder", "params": config}, decoder_config={"target": f"{module}.Decoder", "params": config}))


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """Qwen-Image's, which is Wan 2.1's video autoencoder, thin."""
    return save_random(tmp_path_factory.mktemp("vae") / "wan.safetensors", lambda: WanVAE(8, 16, temperal_downsample=[False, True, True]))


@pytest.fixture
def images(tmp_path):
    """Three images in a folder, its subfolder and a stack, a small one and a damaged one."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    rng = np.random.RandomState(0)
    for i in range(2):
        cv2.imwrite(str(folder / ("more" if i % 2 else ".") / f"{i}.png"), cv2.resize(rng.randint(0, 256, (9, 11, 3), np.uint8), (88, 80), interpolation=cv2.INTER_CUBIC))
    np.save(folder / "stack.npy", rng.randint(0, 256, (1, 80, 80, 3)).astype(np.uint8))
    cv2.imwrite(str(folder / "small.png"), np.zeros((79, 200, 3), np.uint8))
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


def train_lsr(taesd, images, *extra, out="run"):
    lsr.main(["--vae", str(taesd), "--latent-format", "sdxl", "--images", str(images), "--out", out, *SMALL_LSR, *extra])


def test_lsr_from_a_folder_to_the_loader(taesd, images, tmp_path, capsys):
    train_lsr(taesd, images, "--steps", "4")
    said = capsys.readouterr().out
    assert "skipped, cannot be read: damaged.jpg" in said
    assert "skipped, smaller than 80 pixels: 1 images" in said and "3 images to learn from" in said
    assert [row["step"] for row in csv.DictReader(open("run/lsr-tiny.csv", encoding="utf-8"))] == ["2", "4"]
    assert cv2.imread("run/lsr-tiny.png").shape[1] == 900
    assert cv2.imread("run/lsr-tiny.samples.png") is not None
    assert LoadLSR.GET_SCHEMA().inputs[0].options[0] == "lsr_tiny.safetensors"
    upscaler = LoadLSR.execute("lsr_tiny.safetensors").args[0]
    assert upscaler.space == ("SDXL", 4, None)
    assert upscaler.upscale(torch.zeros(1, 4, 8, 8), 12, 16).shape == (1, 4, 12, 16)
    with safe_open(tmp_path / "latent_upscale_models" / "lsr_tiny.safetensors", "pt") as f:
        assert f.metadata()["base"] == "tiny.safetensors" and f.metadata()["license"]


def test_pairs_are_encoded_apart(taesd, images):
    train_lsr(taesd, images, "--steps", "1", "--octaves", "1")
    shards = Shards(Path("run/lsr-tiny.data"), {})
    frozen = vae.load(str(taesd), "SDXL")
    image = cv2.imread(str(images / "0.png"))[..., ::-1]
    shards.prepare({}, None)
    # 88 x 80 is covered by two overlapping squares of 80
    mine = [entry for entry in shards.entries if entry.facts["image"] == "0.png"]
    assert [entry.facts["pairs"] for entry in mine] == [[[2, 80]]] * 2
    square = image[:, 8:88]
    for side, pixels in ((80, square), (40, shrink_bicubic(square, 2))):
        expected = frozen.encode(to_unit_tensor(pixels))[0]
        assert torch.allclose(shards.read(mine[1], str(side)).float(), expected, atol=2e-3 * expected.abs().max().item())


def interrupted(monkeypatch, kind, method, step, run):
    """`run()`, with Ctrl-C while it draws its batch number `step`."""
    original, calls = getattr(kind, method), []

    def draw(*args):
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(kind, method, draw)
        with pytest.raises(SystemExit) as stopped:
            run()
    assert stopped.value.code == 130 and len(calls) == step


def test_interrupted_lsr_goes_on_as_if_nothing_had_been(taesd, images, monkeypatch, capsys):
    train_lsr(taesd, images, "--steps", "4", "--sample-every", "9", "--save", "whole.safetensors", out="whole")
    interrupted(monkeypatch, lsr.Pairs, "draw", 3, lambda: train_lsr(taesd, images, "--steps", "4", "--save", "parts.safetensors", out="parts"))
    assert "stopped after step 3 of 4" in capsys.readouterr().err and not os.path.exists("parts.safetensors")
    written = os.stat("parts/lsr-tiny.data/00000.safetensors").st_mtime_ns
    train_lsr(taesd, images, "--steps", "4", "--save", "parts.safetensors", out="parts")
    assert os.stat("parts/lsr-tiny.data/00000.safetensors").st_mtime_ns == written
    whole, parts = load_file("whole.safetensors"), load_file("parts.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_new_images_are_added_and_other_settings_refused(taesd, images):
    train_lsr(taesd, images, "--steps", "1")
    before = os.stat("run/lsr-tiny.data/00000.safetensors").st_mtime_ns
    shutil.copy(images / "0.png", images / "new.png")
    train_lsr(taesd, images, "--steps", "2")
    assert os.stat("run/lsr-tiny.data/00000.safetensors").st_mtime_ns == before
    shards = Shards(Path("run/lsr-tiny.data"), {})
    shards.prepare({}, None)
    assert {entry.facts["image"] for entry in shards.entries if entry.shard == 1} == {"new.png"}
    with pytest.raises(SystemExit, match="seed 0 .now 5."):
        train_lsr(taesd, images, "--steps", "2", "--seed", "5")


def test_init_goes_on_from_a_file(taesd, images):
    train_lsr(taesd, images, "--steps", "1", "--save", "first.safetensors")
    train_lsr(taesd, images, "--steps", "1", "--lr", "0", "--init", "first.safetensors", "--dim", "16", "--save", "second.safetensors", "--name", "again", "--data", "run/lsr-tiny.data")
    first, second = load_file("first.safetensors"), load_file("second.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("file,latent_format", [("kl", "SD15"), ("flux", "Flux"), ("wan", "Wan21")])
def test_decoder_on_a_vae(file, latent_format, images, tmp_path, request):
    path = request.getfixturevalue(file)
    arguments = ["--vae", str(path), "--latent-format", latent_format, "--images", str(images / "more"), "--out", "run", *SMALL_DECODER, "--steps", "2", "--lr", "1e-2"]
    implicit_decoder.main(arguments)
    assert LoadImplicitDecoder.GET_SCHEMA().inputs[0].options[0] == f"implicit_decoder_{file}.safetensors"
    network, metadata = decoders.load(str(tmp_path / "vae_approx" / f"implicit_decoder_{file}.safetensors"))
    assert isinstance(network, decoders.HybridDecoder) and metadata.latents.name == latent_format
    frozen = vae.load(str(path), latent_format)
    assert network.fits(frozen.network)
    assert network.imnet.layers[-1].weight.abs().max() > 0
    z = torch.randn(1, frozen.space.channels, 4, 4)
    with torch.no_grad():
        assert network(implicit_decoder.features(network, frozen, z), (37, 50)).shape == (1, 3, 37, 50)
        network.imnet.layers[-1].weight.zero_()
        network.imnet.layers[-1].bias.zero_()
        assert torch.allclose(network(implicit_decoder.features(network, frozen, z), (32, 32)), frozen.decode(z), atol=1e-5)
    assert cv2.imread(f"run/implicit-decoder-{file}.samples.png") is not None


def test_a_video_autoencoder_sees_frames(wan, images):
    frozen = vae.load(str(wan), "wan21")
    assert frozen.space == ("Wan21", 16, None) and frozen.pixels_per_cell == 8
    pixels = torch.rand(2, 3, 16, 24)
    latents = frozen.encode(pixels)
    assert latents.shape == (2, 16, 2, 3) and torch.equal(latents[1:], frozen.encode(pixels[1:]))
    assert torch.allclose(frozen.decode(latents).add(1).div(2).clamp(0, 1), frozen.view(latents), atol=1e-4)
    arguments = ["--vae", str(wan), "--latent-format", "Wan21", "--images", str(images / "more"), "--out", "run", "--steps", "1"]
    lsr.main([*arguments, *SMALL_LSR, "--pixel-weight", "1", "--pixel-cells", "4"])
    assert LoadLSR.execute("lsr_wan.safetensors").args[0].space == ("Wan21", 16, None)
    implicit_decoder.main([*arguments, *SMALL_DECODER, "--kind", "implicit", "--width", "32"])
    assert decoders.load("vae_approx/implicit_decoder_wan.safetensors")[0].args["channels"] == 16


def test_interrupted_decoder_goes_on(taesd, images, monkeypatch):
    def run(out):
        implicit_decoder.main(["--vae", str(taesd), "--latent-format", "SD15", "--images", str(images), "--kind", "implicit", "--width", "32", "--out", out,
                               "--save", f"{out}.safetensors", *SMALL_DECODER, "--steps", "3"])

    run("whole")
    interrupted(monkeypatch, implicit_decoder.Squares, "draw", 2, lambda: run("parts"))
    run("parts")
    whole, parts = load_file("whole.safetensors"), load_file("parts.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert isinstance(decoders.load("parts.safetensors")[0], decoders.ImplicitDecoder)


def test_decoder_says_which_vae_it_cannot_read(taesd, images):
    with pytest.raises(SystemExit, match="AutoencoderKL family"):
        implicit_decoder.main(["--vae", str(taesd), "--latent-format", "SD15", "--images", str(images), "--out", "run", *SMALL_DECODER])


def test_folders_without_images(taesd, images, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "no readable images"), ("missing", "no such folder")):
        with pytest.raises(SystemExit, match=words):
            train_lsr(taesd, folder)
    with pytest.raises(SystemExit, match="none of its 4 images has 4000 pixels"):
        train_lsr(taesd, images, "--square", "3000", "4000")


def test_vae_files_that_cannot_be_trained_on(taesd, images, tmp_path):
    weights = load_file(taesd)
    save_file({key: value for key, value in weights.items() if "encoder" not in key}, "decoder_only.safetensors")
    save_file({"encoder.x": torch.zeros(1)}, "something.safetensors")
    Path("damaged.safetensors").write_bytes(b"not weights at all")
    for file, words in (("none.safetensors", "no such file"), ("damaged.safetensors", "cannot be read"), ("decoder_only.safetensors", "has no encoder"), ("something.safetensors", "no autoencoder")):
        with pytest.raises(SystemExit, match=words):
            vae.load(file, "SDXL")
    with pytest.raises(SystemExit, match="Add --latent-format with one of: SD15, SDXL"):
        vae.load(str(taesd))
    with pytest.raises(SystemExit, match="Flux does not fit"):
        vae.load(str(taesd), "Flux")


SD15_UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2] * 4, "transformer_depth": [1] * 6 + [0] * 2,
             "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1, "transformer_depth_output": [1] * 9 + [0] * 3, "use_spatial_transformer": True,
             "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8, "legacy": False}


def test_a_checkpoint_knows_its_latents(kl, monkeypatch, tmp_path):
    # a whole checkpoint takes gigabytes: its UNet is one zero, expanded
    with torch.device("meta"):
        unet = UNetModel(**SD15_UNET, operations=comfy.ops.disable_weight_init)
    weights = {f"model.diffusion_model.{key}": torch.zeros(1).expand(value.shape) for key, value in unet.state_dict().items()}
    with_vae = {**weights, **{f"first_stage_model.{key}": value for key, value in load_file(kl).items()}}
    (tmp_path / "sd15.safetensors").touch()
    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda *args, **kwargs: (dict(with_vae), {}))
    frozen = vae.load("sd15.safetensors")
    assert frozen.space == ("SD15", 4, None) and frozen.pixels_per_cell == 8
    assert frozen.encode(torch.rand(2, 3, 16, 24)).shape == (2, 4, 2, 3)
    with pytest.raises(SystemExit, match="Flux does not fit"):
        vae.load("sd15.safetensors", "Flux")
    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda *args, **kwargs: (dict(weights), {}))
    with pytest.raises(SystemExit, match="no autoencoder"):
        vae.load("sd15.safetensors")


def test_mini_autoencoder_is_comfyui_s(images):
    frozen, image = vae.load("mini"), torch.rand(1, 3, 64, 64)
    expected = mini.latent_format().process_in(mini.load_vae().encode(image.movedim(1, -1)))
    assert torch.allclose(frozen.encode(image), expected, atol=0.05)
    assert torch.allclose(frozen.view(expected), mini.load_vae().decode(expected / frozen.space.scale_factor).movedim(-1, 1), atol=1e-3)
