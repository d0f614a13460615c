"""The bundled mini world behaves as an ordinary model of ComfyUI."""

import logging
from pathlib import Path

import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.utils
import pytest
import torch
from loupe.models.captioner import caption_with_clip
from loupe.models.files import BUNDLED
from loupe.models.mini import loaded as mini
from loupe.models.mini.world import WORDS
from loupe.training.mini.render import render
from loupe.training.mini.scenes import caption, sample_scene
from safetensors import safe_open


@pytest.fixture(scope="module")
def world():
    return mini.load_model(), mini.load_clip(), mini.load_vae()


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sample(model, positive, negative, seed=3, steps=8, size=16):
    latent = torch.zeros(1, 4, size, size)
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(model, noise, steps, 4.0, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=seed)


def test_prompt_decides_the_image(world):
    model, clip, vae = world
    negative = encode(clip, "")
    red, blue = (vae.decode(sample(model, encode(clip, f"{color} ball top center, on grass"), negative))[0] for color in ("red", "blue"))
    assert red.shape == (128, 128, 3)
    center = (slice(24, 64), slice(44, 84))
    balance = [(picture[center][..., 0] - picture[center][..., 2]).mean() for picture in (red, blue)]
    assert balance[0] > balance[1] + 0.15


def test_prompt_weights_and_unknown_words_work(world):
    _, clip, _ = world
    plain, weighted = (encode(clip, text)[0] for text in ("red ball, on grass", "(red:1.5) ball, on grass"))
    assert plain[0].shape == (1, 32, 128) and plain[1]["pooled_output"].shape == (1, 128)
    assert not torch.equal(plain[0], weighted[0])
    assert torch.equal(encode(clip, "zeppelin")[0][0], encode(clip, "marmalade")[0][0])


def test_the_words_are_those_of_the_file(world):
    tokenizer = world[1].tokenizer.clip_l
    ids = {tokenizer.start_token, tokenizer.end_token}
    for word in [*(word for words in WORDS.values() for word in words), ","]:
        ids.update(tokenizer.tokenizer(word)["input_ids"])
    with safe_open(BUNDLED / "mini_text.safetensors", "pt") as file:
        assert sorted(ids) == [int(token) for token in file.metadata()["token_ids"].split(",")]
    page = (Path(__file__).resolve().parents[2] / "js" / "docs" / "LoupeLoadMini.md").read_text(encoding="utf-8")
    assert all(f"* {kind}: {', '.join(WORDS[kind])}" in page for kind in ("shapes", "colors", "grounds"))


@pytest.mark.parametrize("side", [96, 128, 300])
def test_the_clip_writes_captions_of_images(world, side):
    scene = sample_scene(7_000_000)
    image = torch.from_numpy(render(scene, side, 1))[None].float() / 255
    (said,) = caption_with_clip(world[1], [image], "What is it?", 30)
    assert said == caption(scene)
    tokens = world[1].tokenize("", image=image)
    assert len(world[1].generate(tokens, max_length=3)) == 3
    with pytest.raises(ValueError, match="captions of images and nothing else"):
        world[1].generate(world[1].tokenize("a star", image=None))


def test_unknown_words_are_named_in_the_log_once_a_text(caplog):
    clip = mini.load_clip()
    with caplog.at_level(logging.WARNING):
        for prompt in ("a red car center, on snow", "red star top left, on grass", "(blue:1.3) cat", "a red car center, on snow"):
            encode(clip, prompt)
            encode(clip.clone(), prompt)
    assert [message.split(" and may")[0] for message in caplog.messages] == ["Loupe: The mini world does not know car, snow", "Loupe: The mini world does not know cat"]
    assert all("house" in message and "cyan" in message and "water" in message for message in caplog.messages)


@pytest.mark.parametrize("word, other", [("top", "bottom"), ("left", "center"), ("red", "purple"), ("star", "tree")])
def test_every_word_of_a_caption_moves_the_text_states(world, word, other):
    _, clip, _ = world
    words = "red star top left, blue house bottom right, on grass"
    states, changed = (encode(clip, text)[0][0] for text in (words, words.replace(word, other, 1)))
    assert ((changed - states).norm(dim=-1) / states.norm(dim=-1)).max() > 0.5


def test_size_conditioning_reaches_the_network(world):
    model, clip, _ = world
    negative = encode(clip, "")
    positive = encode(clip, "red ball top center, on grass")
    large = [[c, {**d, "width": 512, "height": 512, "crop_w": 200, "crop_h": 200}] for c, d in positive]
    assert (sample(model, positive, negative) - sample(model, large, negative)).abs().mean() > 0.05


def test_vae_round_trip(world):
    _, clip, vae = world
    picture = vae.decode(torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0)))
    assert picture.shape == (1, 64, 96, 3) and picture.min() >= 0 and picture.max() <= 1
    assert vae.encode(picture).shape == (1, 4, 8, 12)


def test_lora_patches_the_model(world):
    model, clip, _ = world
    negative, positive = encode(clip, ""), encode(clip, "red ball top center, on grass")
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    weight = model.model.state_dict()[key]
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(weight.shape[0], 4, generator=generator), torch.randn(4, weight.shape[1], generator=generator)
    lora = {"diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.lora_up.weight": up, "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.lora_down.weight": down}
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    before = sample(model, positive, negative)
    assert not torch.equal(sample(patched, positive, negative), before)
    assert torch.equal(sample(model, positive, negative), before)


def test_every_layer_can_stay_behind_when_the_world_is_loaded_in_part(world):
    """With little memory ComfyUI moves weights to the device call by call, which only its own layers know how to do."""
    model, clip, vae = world
    for patcher in (model, clip.patcher, vae.patcher):
        plain = [name for name, module in patcher.model.named_modules() if isinstance(getattr(module, "weight", None), torch.Tensor) and not hasattr(module, "comfy_cast_weights")]
        assert not plain, plain
    other = mini.load_vae()
    pixels = vae.decode(z := torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    other.patcher.load(other.device, lowvram_model_memory=1)
    assert any(getattr(module, "comfy_cast_weights", False) for module in other.first_stage_model.modules())
    assert torch.equal(other.first_stage_model.decode(z), vae.first_stage_model.decode(z))
    assert torch.equal(other.encode(pixels), vae.encode(pixels))


class DynamicPatcher(comfy.model_patcher.ModelPatcher):
    """Says of itself what the patcher of ComfyUI's dynamic VRAM does."""

    def is_dynamic(self):
        return True


def test_the_world_loads_again_without_dynamic_vram(world, monkeypatch):
    """As LoRA hooks and TorchCompileModel ask for it."""
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", DynamicPatcher)
    for load in (mini.load_model, mini.load_arbitrary, lambda: mini.load_clip().patcher, lambda: mini.load_vae().patcher):
        patcher = load()
        assert patcher.is_dynamic()
        again = patcher.clone(disable_dynamic=True)
        assert not again.is_dynamic() and again.model is not patcher.model
        before, after = patcher.model.state_dict(), again.model.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(after[key], value) for key, value in before.items())
        assert again.clone(disable_dynamic=True).model is again.model
    clip = mini.load_clip().clone()
    clip.patcher = clip.patcher.clone(disable_dynamic=True)
    assert torch.equal(encode(clip, "red ball")[0][0], encode(world[1], "red ball")[0][0])


def test_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("loupe.models.files.BUNDLED", tmp_path)
    with pytest.raises(FileNotFoundError, match="mini_unet.safetensors is missing"):
        mini.load_model()
