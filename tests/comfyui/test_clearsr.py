"""ClearSR's networks, files and hooks, on the mini world with random weights of its own; last, the bundled file."""

import json
from dataclasses import replace
from pathlib import Path

import comfy.controlnet
import comfy.model_base
import comfy.ops
import comfy.sample
import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import CrossAttention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from loupe.benchmarks.restoring import Restored, Restoring
from loupe.models import files
from loupe.models.clearsr import ClearSR, Config, load, save
from loupe.models.clearsr.attention import WindowCrossAttention
from loupe.models.clearsr.image_prompt import ImagePrompt
from loupe.models.clearsr.loaded import ClearSRControl, encoder_with_lora
from loupe.models.files import Metadata
from loupe.models.latent_space import LatentSpace
from loupe.models.mini import loaded as mini
from loupe.models.mini.world import UNET_CONFIG
from loupe.nodes.clearsr import ApplyClearSR
from loupe.nodes.regional_denoise import RegionalDenoiseNode
from loupe.patches.clearsr import patch_decoder
from safetensors.torch import load_file, save_file
from tolerance import close

import nodes as core_nodes

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows" / "api"
SD21 = Config()
MINI = Config(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 2),
    transformer_depth_middle=1,
    context_dim=128,
    head_channels=32,
    adm_in_channels=UNET_CONFIG["adm_in_channels"],
    window=8,
)


@pytest.fixture(scope="module")
def world():
    return mini.load_model(), mini.load_clip(), mini.load_vae()


@pytest.fixture(scope="module")
def path(world, tmp_path_factory):
    """A ClearSR for the mini world: random networks and LoRAs, loud enough to be seen."""
    model, _, vae = world
    network, lora = tiny.randomize(ClearSR(MINI), 3), {}
    for prefix, base, part in (("lora_unet_", model.model.diffusion_model, "output_blocks."), ("lora_vae_", vae.first_stage_model, "encoder.")):
        for i, (name, weight) in enumerate(base.state_dict().items()):
            if name.startswith(part) and name.endswith(".weight") and (".attn" in name or prefix == "lora_vae_") and weight.ndim > 1:
                key = prefix + name.removesuffix(".weight").replace(".", "_")
                lora[f"{key}.lora_down.weight"] = 0.2 * tiny.noise((2, *weight.shape[1:]), i)
                lora[f"{key}.lora_up.weight"] = 0.2 * tiny.noise((weight.shape[0], 2, *(1 for _ in weight.shape[2:])), i + 1)
    network.loras = {name: {k: v for k, v in lora.items() if k.startswith(f"lora_{name}_")} for name in ("unet", "vae")}
    path = str(tmp_path_factory.mktemp("clearsr") / "random_clearsr.safetensors")
    save(path, network, Metadata(LatentSpace("custom", 4, vae_scale(model)), "Loupe mini world"), torch.float32)
    return path


@pytest.fixture(scope="module")
def control(path):
    return ClearSRControl.from_file(path)


def vae_scale(model):
    return model.model.latent_format.scale_factor


def picture(seed=0, height=128, width=128):
    return torch.rand((1, height, width, 3), generator=torch.Generator().manual_seed(seed))


def prompt(clip, text="", **keys):
    return [[c, {**d, **keys}] for c, d in clip.encode_from_tokens_scheduled(clip.tokenize(text))]


def restore(world, control, image, strength=1.0, steps=2, cfg=2.0, start=0.0, end=1.0, patch=lambda model: model, clip_vision_output=None, seed=1):
    model, clip, vae = world
    model, positive, negative, latent, _ = ApplyClearSR.execute(patch(model), prompt(clip, "red ball, on grass"), prompt(clip), control, vae, image, strength, start, end, clip_vision_output).result
    return sample(model, positive, negative, latent["samples"], steps, cfg, seed)


def sample(model, positive, negative, latent, steps=2, cfg=2.0, seed=1):
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=seed)


@pytest.mark.numerics
def test_window_attention_is_the_reference_one(golden):
    tensors, info = golden("clearsr_ca")
    for case, sizes in info["cases"].items():
        weights = {key.removeprefix(f"{case}.w."): value for key, value in tensors.items() if key.startswith(f"{case}.w.")}
        norm = [weights.pop("norm_lr.weight"), weights.pop("norm_lr.bias")]
        net = WindowCrossAttention(sizes["C"], sizes["heads"], sizes["c"], sizes["s"], sizes["r"], dtype=torch.float64)
        net.load_state_dict(weights)
        x = tensors[f"{case}.x_d"]
        x_lr = tensors[f"{case}.x_lr"].mT.unflatten(2, sizes["lr"])
        out = x + net(F.layer_norm(x, x.shape[-1:], *norm), sizes["feat"], x_lr)
        assert (out - tensors[f"{case}.out"]).abs().max() < info["tol"], case


@pytest.mark.numerics
@pytest.mark.parametrize("size", [(16, 16), (15, 13)])
def test_windows_do_not_see_each_other(size):
    """A change of x_lr moves the features of its own window and no others; a batch is its images one by one."""
    net = tiny.randomize(WindowCrossAttention(16, 2, 4, 8, 2), 0)
    net.rel_pos_bias.data = tiny.noise(net.rel_pos_bias.shape, 1)
    h, w = (-(-side // 2) for side in size)
    x, x_lr = tiny.noise((2, h * w, 16)), tiny.noise((2, 4, *size), 2)
    out = net(x, (h, w), x_lr)
    close(torch.cat([net(x[i : i + 1], (h, w), x_lr[i : i + 1]) for i in range(2)]), out, 1e-5)
    changed = x_lr.clone()
    changed[:, :, 8:, :8] += 1
    moved = (net(x, (h, w), changed) - out).abs().amax((0, 2)).unflatten(0, (h, w)) > 1e-6
    expected = torch.zeros(h, w, dtype=torch.bool)
    expected[4:, :4] = True
    assert torch.equal(moved, expected)


def test_sd21_has_the_published_size():
    """525 M trainable parameters are published for networks and LoRAs (3.3 M); GSPM's zero convolutions are counted here."""
    net = ClearSR(SD21, device="meta")
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in (("dpm", net.dpm), ("gspm", net.gspm))}
    assert count["dpm"] == 375_165_850 and count["gspm"] == 166_484_800
    expected = {key for key in comfy_controlnet_keys() if not key.startswith("input_hint_block")}
    assert expected <= {key.removeprefix("dpm.") for key in net.state_dict()}


def comfy_controlnet_keys():
    config = {"image_size": 32, "in_channels": 4, "model_channels": 320, "hint_channels": 3, "num_res_blocks": 2, "channel_mult": (1, 2, 4, 4), "num_head_channels": 64, "use_spatial_transformer": True}
    net = comfy.cldm.cldm.ControlNet(**config, transformer_depth=[1] * 6 + [0] * 2, transformer_depth_middle=1, context_dim=1024, use_linear_in_transformer=True, legacy=False, device="meta")
    return net.state_dict()


@pytest.mark.parametrize("change", [{}, {"window": 16}, {"window": 0}, {"gspm": False}, {"gspm_middle": True, "gspm_time": True}, {"adm_in_channels": None, "use_linear": False}])
def test_files_round_trip(change, tmp_path):
    config = Config(**{**MINI.__dict__, **change})
    network = tiny.randomize(ClearSR(config), 1)
    network.loras["vae"]["lora_vae_x.lora_up.weight"] = tiny.noise((2, 2))
    space = LatentSpace("SD15", 4)
    save(tmp_path / "a.safetensors", network, Metadata(space, "x", notes={"license": "none"}), torch.float32)
    loaded, metadata = load(tmp_path / "a.safetensors")
    assert loaded.config == config and not loaded.training and loaded.loras["vae"].keys() == {"lora_vae_x.lora_up.weight"}
    assert (metadata.latents, metadata.base, metadata.notes) == (space, "x", {"license": "none"})
    weights, found = network.state_dict(), loaded.state_dict()
    assert weights.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in weights.items())


@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_signals_fit_the_unet(world, size):
    unet, shapes = world[0].model.diffusion_model, []
    x, t, context, y = tiny.noise((2, 4, *size)), torch.tensor([900.0, 10.0]), tiny.noise((2, 32, 128)), tiny.noise((2, UNET_CONFIG["adm_in_channels"]))
    hooks = [block[-1].register_forward_hook(lambda *a: shapes.append(a[2].shape)) for block in unet.input_blocks]
    unet(x, t, context, y)
    for hook in hooks:
        hook.remove()
    signals = tiny.randomize(ClearSR(MINI), 1)(x, tiny.noise(x.shape, 1), t, context, y)
    assert [s.shape for s in signals["output"]] == shapes and signals["middle"][0].shape == shapes[-1]


def test_initialized_networks_change_nothing():
    """As at the start of training: encoders are the UNet's, signals are zero."""
    unet = tiny.randomize(UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)).eval()
    net = ClearSR(MINI)
    net.initialize(unet.state_dict())
    x, t, context, y = tiny.noise((1, 4, 16, 16)), torch.tensor([500.0]), tiny.noise((1, 32, 128)), tiny.noise((1, UNET_CONFIG["adm_in_channels"]))
    signals = net(x, tiny.noise(x.shape, 1), t, context, y)
    assert not any(s.any() for part in signals.values() for s in part)
    seen = []
    hooks = [block[-1].register_forward_hook(lambda *a: seen.append(a[2].clone())) for block in (unet.input_blocks[-1], unet.middle_block, net.dpm.input_blocks[-1], net.dpm.middle_block)]
    unet(x, t, context, y)
    net(x, tiny.noise(x.shape, 1), t, context, y)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen[:2], seen[2:])


@pytest.mark.parametrize("change", [{}, {"gspm_middle": True}, {"gspm_middle": True, "gspm_time": True}, {"window": 0}])
def test_initializing_leaves_no_weight_as_it_was(change):
    unet = tiny.randomize(UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=comfy.ops.disable_weight_init)).state_dict()
    net = ClearSR(replace(MINI, **change))
    for p in net.parameters():
        p.data.fill_(float("nan"))
    net.initialize(unet)
    assert [name for name, p in net.named_parameters() if not torch.isfinite(p).all()] == []
    if net.config.gspm_middle:
        assert torch.equal(net.gspm.middle_block[1].out_layers[3].weight, unet["middle_block.2.out_layers.3.weight"])


@pytest.mark.numerics
def test_networks_add_up():
    """GSPM's signals are added to DPM's, element by element."""
    net = tiny.randomize(ClearSR(MINI), 1)
    args = tiny.noise((1, 4, 16, 16)), tiny.noise((1, 4, 16, 16), 1), torch.tensor([500.0]), tiny.noise((1, 32, 128)), tiny.noise((1, UNET_CONFIG["adm_in_channels"]))
    both = net(*args)
    emb = net.dpm.embed(args[2], args[4], torch.float32)
    gspm, _ = net.gspm(args[0], args[1], emb, None)
    net.gspm = None
    alone = net(*args)
    for a, b, c in zip(both["output"], alone["output"], gspm):
        torch.testing.assert_close(a, b + c)
    assert torch.equal(both["middle"][0], alone["middle"][0])


def test_apply_is_the_stock_node_plus_loras(world, control):
    model, clip, vae = world
    image = picture()
    positive, negative = core_nodes.ControlNetApplyAdvanced().apply_controlnet(prompt(clip, "red ball, on grass"), prompt(clip), control, image, 0.7, 0.0, 0.8, vae=vae)
    expected = sample(patch_decoder(model, control), positive, negative, vae.encode(image))
    assert torch.equal(restore(world, control, image, 0.7, end=0.8), expected)
    assert not torch.allclose(sample(model, positive, negative, vae.encode(image)), expected, atol=1e-3)


def test_zero_strength_changes_nothing(world, control):
    model, clip, vae = world
    out = restore(world, control, picture(), 0.0)
    latent = vae.encode(picture())
    assert torch.equal(out, sample(model, prompt(clip, "red ball, on grass"), prompt(clip), latent))


def test_percents_bound_the_control(world, control):
    model, clip, vae = world
    whole, none = restore(world, control, picture()), restore(world, control, picture(), start=0.999, end=1.0, steps=1)
    latent = vae.encode(picture())
    lora_only = sample(patch_decoder(model, control), prompt(clip, "red ball, on grass"), prompt(clip), latent, steps=1)
    assert torch.equal(none, lora_only)
    assert not torch.allclose(whole, restore(world, control, picture(), end=0.5), atol=1e-3)


@pytest.mark.numerics
def test_encoder_lora_is_merged_weights_and_leaves_the_vae(world, control):
    _, _, vae = world
    before = vae.encode(picture())
    encoder = encoder_with_lora(vae, control)
    merged = mini.load_vae()
    for name, weight in merged.first_stage_model.state_dict().items():
        key = "lora_vae_" + name.removesuffix(".weight").replace(".", "_")
        if f"{key}.lora_up.weight" in control.loras["vae"]:
            up, down = (control.loras["vae"][f"{key}.lora_{part}.weight"].flatten(1) for part in ("up", "down"))
            weight += (up @ down).reshape(weight.shape)
    encoded = encoder.encode(picture())
    torch.testing.assert_close(encoded, merged.encode(picture()), atol=2e-4, rtol=1e-3)
    assert not torch.allclose(encoded, before, atol=1e-2)
    assert torch.equal(vae.encode(picture()), before)


@pytest.mark.parametrize("strength", [1.0, 0.0])
@pytest.mark.parametrize("size", [(128, 128), (130, 196)])
def test_the_reference_is_what_the_control_sees(world, control, size, strength):
    """The last output is the paper's x_lr: the image by the encoder with LoRA, as large as the latent output."""
    model, clip, vae = world
    image = torch.cat([picture(4, *size), picture(5, *size)])
    *_, latent, reference = ApplyClearSR.execute(model, prompt(clip), prompt(clip), control, vae, image, strength, 0.0, 1.0).result
    assert torch.equal(reference["samples"], encoder_with_lora(vae, control).encode(image))
    assert reference["samples"].shape == latent["samples"].shape == (2, 4, size[0] // 8, size[1] // 8)
    assert not torch.allclose(reference["samples"], latent["samples"], atol=1e-2)
    assert torch.equal(latent["samples"], vae.encode(image))


def test_workflows_adjust_to_it_and_begin_with_the_plain_latent():
    found = []
    for file in WORKFLOWS.glob("*.json"):
        workflow = json.loads(file.read_text(encoding="utf-8"))
        for key in [key for key, node in workflow.items() if node["class_type"] == "LoupeApplyClearSR"]:
            links = {(node["class_type"], name): value for node in workflow.values() for name, value in node["inputs"].items() if isinstance(value, list) and value[0] == key}
            assert links["LoupeLatentAdjustment", "reference"] == [key, 4], file.name
            assert links["KSampler", "latent_image"] == [key, 3], file.name
            found.append(file.stem)
    assert sorted(found) == ["clearsr", "clearsr_sd21"]


def test_decoder_lora_comes_once_and_on_output_blocks_only(world, control, path):
    model = world[0]
    once = patch_decoder(model, control)
    assert once.patches and all(key.startswith("diffusion_model.output_blocks.") for key in once.patches)
    assert len(once.patches) == len(control.loras["unet"]) // 2
    again = ClearSRControl.from_file(path)  # by a second loader
    for twice in (patch_decoder(once, control), patch_decoder(once, again)):
        assert all(len(patches) == 1 for patches in twice.patches.values())


@pytest.mark.numerics
def test_image_prompt_is_one_token_for_conditional_rows_of_the_decoder():
    attention = tiny.randomize(CrossAttention(16, 8, heads=2, dim_head=8))
    patch = ImagePrompt(tiny.noise((2, 8)))
    n, context = tiny.noise((4, 5, 16), 1), tiny.noise((4, 7, 8), 2)
    for block in (("input", 4), ("middle", 0)):
        assert patch(n, context, context, {"block": block, "cond_or_uncond": [1, 0]})[1] is context
    _, patched, value = patch(n, context, context, {"block": ("output", 3), "cond_or_uncond": [1, 0]})
    assert value is patched and torch.equal(patched[:2], context[:2])
    torch.testing.assert_close(attention(n[2:], patched[2:]), attention(n[2:], patch.token[:, None]))


def test_image_prompt_replaces_the_text_in_the_decoder(world, control):
    """The image follows the embedding; without guidance the negative half is never asked."""
    def with_prompt(seed, **keys):
        return restore(world, control, picture(), clip_vision_output={"image_embeds": tiny.noise((1, 128), seed)}, **keys)

    assert not torch.allclose(with_prompt(0), with_prompt(1), atol=1e-3)
    assert not torch.allclose(with_prompt(0), restore(world, control, picture()), atol=1e-3)


@pytest.mark.numerics
def test_chains_with_other_controlnets(world, control):
    """Signals of a chain are those of its members, added up."""
    model, clip, vae = world
    x, sigma, context = tiny.noise((1, 4, 16, 16)), torch.tensor([3.0]), tiny.noise((1, 32, 128))

    def signals(images):
        chain = None
        for image in images:
            chain = control.copy().set_cond_hint(image.movedim(-1, 1), 0.5, vae=vae).set_previous_controlnet(chain)
        comfy.model_management.load_models_gpu(chain.get_models())
        chain.pre_run(model.model, model.model.model_sampling.percent_to_sigma)
        cond = {"c_crossattn": context, "y": tiny.noise((1, UNET_CONFIG["adm_in_channels"]))}
        return chain.get_control(x, sigma, cond, 1, {})["output"]

    a, b = picture(0), picture(1)
    for both, one, other in zip(signals([a, b]), signals([a]), signals([b])):
        torch.testing.assert_close(both, one + other)


@pytest.mark.numerics
def test_batch_is_singles(world, control):
    a, b = picture(0), picture(1)
    model, clip, vae = world

    def run(image, noise):
        patched, positive, negative, latent, _ = ApplyClearSR.execute(model, prompt(clip), prompt(clip), control, vae, image, 1.0, 0.0, 1.0).result
        return comfy.sample.sample(patched, noise, 2, 2.0, "euler", "normal", positive, negative, latent["samples"], disable_pbar=True, seed=0)

    noise = tiny.noise((2, 4, 16, 16))
    together = run(torch.cat([a, b]), noise)
    close(together, torch.cat([run(a, noise[:1]), run(b, noise[1:])]), 2e-5)


def regional(model, batch=0):
    return RegionalDenoiseNode.execute(model, 128, 128, 0.5, "uniform", False, 0, "native", batch).result[0]


@pytest.mark.numerics
def test_regions_see_their_part_of_the_image(world, control):
    """The first step's canvas is made of the predictions of crops, each with its own part of x_lr."""
    model, clip, vae = world
    image = picture(2, 128, 192)
    patched, positive, negative, latent, _ = ApplyClearSR.execute(model, prompt(clip), prompt(clip), control, vae, image, 1.0, 0.0, 1.0).result
    x = 2 * tiny.noise((1, 4, 16, 24))
    fused = tiny.evaluate(regional(patched), x, (positive, negative))
    assert torch.equal(latent["samples"], vae.encode(image))
    x_lr = model.model.process_latent_in(encoder_with_lora(vae, control).encode(image))

    def crop(left):
        cut = control.copy().set_cond_hint(torch.zeros(1, 3, 128, 128), vae=vae)
        cut.vae = cut.latent_format = None
        cut.cond_hint_original = x_lr[..., left : left + 16]
        conds = [[[text, {**options, "control": cut}] for text, options in cond] for cond in (positive, negative)]
        return tiny.evaluate(patched, x[..., left : left + 16], conds)

    for out, a, b in zip(fused, crop(0), crop(8)):
        expected = torch.cat([a[..., :8], (a[..., 8:] + b[..., :8]) / 2, b[..., 8:]], -1)
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.numerics
def test_one_region_is_the_whole(world, control):
    image = picture(3)
    torch.testing.assert_close(restore(world, control, image, patch=regional), restore(world, control, image), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("sockets", ["control_net", "vae", "wide vae", "model", "v model", "clip_vision_output"])
def test_wrong_connections_name_their_socket(world, control, sockets):
    model, clip, vae = world
    args = {"model": model, "positive": prompt(clip), "negative": prompt(clip), "control_net": control, "vae": vae, "image": picture(), "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    other = mini.load_vae()
    other.patcher.model = torch.nn.Linear(2, 2)
    wide = mini.load_vae()
    wide.latent_channels = 16  # Flux's has the layers of Stable Diffusion's
    v_prediction = mini.load_model()
    v_prediction.model.model_type = comfy.model_base.ModelType.V_PREDICTION
    wrong = {"wide vae": wide, "v model": v_prediction, "control_net": comfy.controlnet.ControlNet(), "vae": other, "model": tiny.sd15(), "clip_vision_output": {"image_embeds": tiny.noise((1, 1024))}}
    socket = sockets.split()[-1]
    with pytest.raises(ValueError, match=socket):
        ApplyClearSR.execute(**{**args, socket: wrong[sockets]})


def test_an_image_prompt_that_the_file_was_not_trained_with_is_refused(world, path, tmp_path):
    network, metadata = load(path)
    save(tmp_path / "plain.safetensors", network, metadata._replace(notes={"image_prompt": "0"}), torch.float32)
    plain = ClearSRControl.from_file(str(tmp_path / "plain.safetensors"))
    with pytest.raises(ValueError, match="clip_vision_output is connected, and plain.safetensors was trained without"):
        restore(world, plain, picture(), clip_vision_output={"image_embeds": tiny.noise((1, 128))})


def test_stock_apply_says_what_is_missing(world, control):
    model, clip, vae = world
    with pytest.raises(ValueError, match="vae is not connected"):
        core_nodes.ControlNetApplyAdvanced().apply_controlnet(prompt(clip), prompt(clip), control, picture(), 1.0, 0.0, 1.0)
    positive, negative = core_nodes.ControlNetApplyAdvanced().apply_controlnet(tiny.conditioning(1), tiny.conditioning(2), control, picture(), 1.0, 0.0, 1.0, vae=vae)
    with pytest.raises(ValueError, match="random_clearsr.safetensors was trained for Loupe mini world.*context width 128 instead of 64"):
        sample(tiny.sdxl(), positive, negative, torch.zeros(1, 4, 16, 16))


def test_bad_files_are_named(path, tmp_path):
    state = load_file(path)
    header = files.header(path)

    def refuse(match, tensors, entries):
        save_file(tensors, tmp_path / "bad.safetensors", entries)
        with pytest.raises(ValueError, match=rf"bad\.safetensors.*{match}"):
            ClearSRControl.from_file(str(tmp_path / "bad.safetensors"))

    refuse("is not a ClearSR: it holds 1 entries.*Load ControlNet Model", {"control_model.zero_convs.0.0.weight": torch.zeros(1)}, {})
    refuse("version '2'", state, {**header, "version": "2"})
    refuse("first dpm.input_blocks.0.0.weight", {k: v for k, v in state.items() if k != "dpm.input_blocks.0.0.weight"}, header)
    refuse("first dpm.zero_convs.0.0.weight", {k: v for k, v in state.items() if k != "dpm.zero_convs.0.0.weight"}, header)
    refuse("does not fit the ClearSR architecture", state, {**header, "args": json.dumps({**json.loads(header["args"]), "window": 16})})
    refuse("arguments that make no ClearSR", state, {**header, "args": json.dumps({"windows": 16})})
    refuse("damaged metadata", state, {**header, "args": "{"})
    refuse("first extra", {**state, "extra": torch.zeros(1)}, header)
    refuse("does not know", state, {key: value for key, value in {**header, "latent_format": "SD99"}.items() if key != "scale_factor"})
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.safetensors cannot be read"):
        load(str(tmp_path / "bad.safetensors"))


def test_bundled_file_restores_held_out_images():
    lab = Restoring(4, 8)
    restored, enlarged, alone = (
        {name: np.mean([values[name] for values in found]) for name in lab.metrics}
        for found in ([lab.measure(arm, i)[1] for i in range(8)] for arm in (Restored("clearsr"), Restored("enlarged"), Restored("alone", denoise=0.3)))
    )
    for other in enlarged, alone:
        assert restored["truth"] > other["truth"] + 0.3
    assert restored["sharp"] > 1.3 * enlarged["sharp"]
