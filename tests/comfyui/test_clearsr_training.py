"""`train clearsr` on the mini world, a few steps of it."""

import argparse

import comfy.lora
import numpy as np
import pytest
import torch
from loupe.models.clearsr import load
from loupe.models.clearsr.loaded import ClearSRControl
from loupe.training import clearsr
from loupe.training.lora import LoRA
from safetensors.torch import load_file
from torch import nn


@pytest.fixture(autouse=True)
def gradients(inference):
    with torch.inference_mode(False):
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Shards as `train mini-scenes` writes them, of noise."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "scenes").mkdir()
    for kind, side, rows in (("base", 128, 500), ("large", 512, 50)):
        shard = np.lib.format.open_memmap(folder / "scenes" / f"{kind}_00000.npy", "w+", np.uint8, (rows, side, side, 3))
        shard[:4] = np.random.RandomState(0).randint(0, 256, (4, side, side, 3))
        shard.flush()
    return folder


def train(scenes, out, steps, *options):
    """Run the command; returns the file that it writes."""
    out.mkdir(exist_ok=True)
    if not (out / "scenes").exists():
        (out / "scenes").symlink_to(scenes / "scenes")
    clearsr.main(["--out", str(out), "--save", str(out / "c.safetensors"), "--steps", str(steps), "--batch", "2", "--device", "cpu", "--window", "8", "--rank-unet", "2", "--rank-vae", "2", "--save-every", "1", *options])
    return out / "c.safetensors"


def test_a_resumed_run_is_an_uninterrupted_one_and_the_file_loads(scenes, tmp_path):
    whole = load_file(train(scenes, tmp_path / "a", 2))
    part = train(scenes, tmp_path / "b", 1)
    state = torch.load(tmp_path / "b" / "mini-clearsr.checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    resumed = load_file(train(scenes, tmp_path / "b", 2))
    assert whole.keys() == resumed.keys()
    trained = [key for key in whole if "zero_convs" in key]
    assert trained and any(whole[key].any() for key in trained)
    for key, value in whole.items():
        torch.testing.assert_close(value, resumed[key], msg=key)
    control = ClearSRControl.from_file(str(part))
    assert control.metadata.base == "Loupe mini world" and control.config.window == 8
    assert "train clearsr --base mini" in control.metadata.notes["training"]


def test_start_goes_on_from_a_file(scenes, tmp_path):
    first = train(scenes, tmp_path / "a", 2)
    kept = load_file(train(scenes, tmp_path / "b", 1, "--start", str(first), "--lr", "0"))
    for key, value in load_file(first).items():
        torch.testing.assert_close(kept[key], value, msg=key)
    with pytest.raises(SystemExit, match=r"--start .*c\.safetensors was trained with other options \(--window, --rank-unet"):
        train(scenes, tmp_path / "c", 1, "--start", str(first), "--rank-vae", "4")


@pytest.mark.parametrize("options, config, parts", [(["--no-gspm", "--rank-vae", "0"], {"gspm": False}, (16, 0)), (["--window", "0", "--gspm-middle", "--rank-unet", "0", "--accumulate", "2"], {"window": 0, "gspm_middle": True}, (0, 14))])
def test_parts_can_be_left_out(scenes, tmp_path, options, config, parts):
    network, _ = load(train(scenes, tmp_path / "a", 1, *options))
    assert {name: getattr(network.config, name) for name in config} == config
    assert bool(network.loras["unet"]) == bool(parts[0]) and bool(network.loras["vae"]) == bool(parts[1])


def test_accumulated_batches_are_one_large_one(scenes, tmp_path):
    """Gradients of two halves add up to those of the whole."""
    options = argparse.Namespace(out=scenes, device="cpu", batch=1, window=8, no_gspm=False, gspm_middle=False, rank_unet=2, rank_vae=2, scale=[2], strength=1.0, caption_share=0.5)
    base = clearsr.mini_base(options)
    torch.manual_seed(0)
    modules = clearsr.build(base, options)
    first, second = (clearsr.loss_of(base, modules, None, torch.Generator().manual_seed(seed), options) for seed in (1, 2))
    bias = modules["control"].dpm.zero_convs[0][0].bias
    expected = torch.autograd.grad((first + second) / 2, bias, retain_graph=True)[0]
    (first / 2).backward()
    (second / 2).backward()
    torch.testing.assert_close(bias.grad, expected)
    assert all(p.grad is None for p in (*base.unet.parameters(), *base.encoder.parameters()))


def test_adapters_do_what_comfyui_makes_of_their_file():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 4, stride=2, padding=1), nn.Flatten(2), nn.Linear(16, 5))
    x = torch.randn(2, 3, 8, 8)
    before = net(x)
    lora = LoRA(net, lambda name: True, 2)
    assert torch.equal(net(x), before)
    for up in lora.up.values():
        nn.init.normal_(up)
    after = net(x)
    lora.on = False
    assert torch.equal(net(x), before)
    saved = LoRA.export(dict(lora.named_parameters()), "lora_unet_")
    assert set(saved) == {f"lora_unet_{layer}.lora_{part}.weight" for layer in (0, 2) for part in ("up", "down")}
    patches = comfy.lora.load_lora({k: v.detach() for k, v in saved.items()}, {f"lora_unet_{i}": f"{i}.weight" for i in (0, 2)})
    with torch.no_grad():
        for key, patch in patches.items():
            weight = net.get_parameter(key)
            weight.copy_(comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight.clone(), key))
    torch.testing.assert_close(net(x), after)


def test_a_layer_must_be_chosen():
    with pytest.raises(ValueError, match="no layer of Linear"):
        LoRA(nn.Linear(2, 2), lambda name: False, 2)


def test_low_quality_images_keep_their_size():
    options = argparse.Namespace(scale=[4], strength=1.0)
    images = [np.random.RandomState(i).randint(0, 256, (64, 64, 3), np.uint8) for i in range(3)]
    low = clearsr.low_quality(images, np.random.RandomState(0), options)
    assert [p.shape for p in low] == [p.shape for p in images]
