import cv2
import numpy as np
import pytest
import torch
from loupe.benchmarks.scoring import (
    load_detector,
    psnr,
    score_images,
)
from loupe.models import implicit_decoder, lsr
from loupe.models.files import BUNDLED
from loupe.models.mini.captions import COLUMNS, ROWS
from loupe.models.mini.vae import MiniVAE
from loupe.models.mini.world import WORDS, unknown_words, warning_of
from loupe.training.mini.render import render
from loupe.training.mini.scenes import (
    COLORS,
    GROUNDS,
    SHAPES,
    Scene,
    Thing,
    caption,
    crop_caption,
    mirrored,
    sample_scene,
)
from safetensors import safe_open
from safetensors.torch import load_file

SEEDS = range(7_000_000, 7_000_006)


@pytest.fixture(scope="module")
def vae():
    net = MiniVAE()
    net.load_state_dict({k: v.float() for k, v in load_file(BUNDLED / "mini_vae.safetensors").items()})
    return net.eval()


@pytest.fixture(scope="module")
def scale_factor():
    with safe_open(BUNDLED / "mini_vae.safetensors", "pt") as f:
        return float(f.metadata()["scale_factor"])


def images(size):
    return torch.from_numpy(np.stack([render(sample_scene(seed), size, 1) for seed in SEEDS])).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_scene_is_a_function_of_its_seed():
    assert sample_scene(11) == sample_scene(11) != sample_scene(12)
    assert np.array_equal(render(sample_scene(11), 64), render(sample_scene(11), 64))


def test_renders_of_one_scene_agree_across_sizes():
    for seed in SEEDS:
        large, small = render(sample_scene(seed), 256), render(sample_scene(seed), 128)
        shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
        assert np.abs(shrunk.astype(int) - small).mean() < 6


def test_large_render_holds_detail_that_a_small_one_cannot():
    large, small = (render(sample_scene(7_000_001), size, 1) for size in (512, 128))
    enlarged = cv2.resize(small, (512, 512), interpolation=cv2.INTER_CUBIC)
    assert cv2.Laplacian(large, cv2.CV_32F).var() > 2 * cv2.Laplacian(enlarged, cv2.CV_32F).var()


def test_captions():
    things = (Thing("star", "red", 0.2, 0.3, 0.15, 0, 1), Thing("house", "blue", 0.8, 0.7, 0.15, 0, 2))
    scene = Scene("grass", 1, (1, 1, 1), things)
    assert caption(scene) == "red star top left, blue house bottom right, on grass"
    assert mirrored(caption(scene)) == "blue house bottom left, red star top right, on grass"
    assert mirrored(mirrored(caption(scene))) == caption(scene)
    assert crop_caption(scene, 0, 0, 0.5) == "red star bottom center, on grass"
    assert crop_caption(scene, 0.4, 0, 0.2) == "on grass"


def test_words_are_those_of_the_captions():
    assert {word for words in WORDS.values() for word in words} == {*GROUNDS, *SHAPES, *COLORS, *COLUMNS, *ROWS, "a", "on"}
    assert [warning for seed in range(200) if (warning := warning_of(caption(sample_scene(seed))))] == []


@pytest.mark.parametrize("prompt, unknown", [
    ("a red car center, on snow", ["car", "snow"]),
    ("Red STAR top left, on Grass", []),
    ("(red:1.2) ball, ((blue)) heart:0.9) embedding:style, on sand.", []),
    ("cats, cats and 3 dogs", ["cats", "and", "3", "dogs"]),
    ("", []),
])
def test_unknown_words_are_found(prompt, unknown):
    assert unknown_words(prompt) == unknown
    warning = warning_of(prompt)
    assert (warning is None) == (not unknown)
    if unknown:
        assert f"does not know {', '.join(unknown)} " in warning and all(word in warning for kind in ("shapes", "colors", "places", "grounds") for word in WORDS[kind])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_detector_reads_true_renders(shape, ground):
    color = "blue" if ground in ("brick", "wood", "sand", "grass") else "red"
    scene = Scene(ground, 3, (1, 1, 1), (Thing(shape, color, 0.5, 0.35, 0.18, 0.1, 5),))
    scores = score_images(load_detector(), [render(scene, 128)], [scene])
    assert scores == {"shape": 1, "color": 1, "slot": 1, "extra": 0}


def test_detector_notices_what_is_wrong():
    right, other = sample_scene(7_000_000, count=1), sample_scene(7_000_003, count=1)
    assert (right.things[0].shape, right.things[0].color) != (other.things[0].shape, other.things[0].color)
    scores = score_images(load_detector(), [render(other, 128)], [right])
    assert scores["shape"] * scores["color"] == 0 and scores["extra"] == 1 - scores["shape"]


@pytest.mark.parametrize("size, floor", [(128, 26.5), (256, 28), (512, 30)])
def test_autoencoder_quality(vae, size, floor):
    x = images(size)
    with torch.no_grad():
        assert psnr(vae.decode(vae.encode(x)), x) > floor


def test_autoencoder_latents_have_unit_deviation_when_scaled(vae, scale_factor):
    with torch.no_grad():
        assert 0.8 < (vae.encode(images(128)) * scale_factor).std() < 1.2


@pytest.mark.parametrize("low, high", [(128, 256), (128, 512)])
def test_lsr_beats_bicubic_latents(vae, scale_factor, low, high):
    net, metadata = lsr.load(str(BUNDLED / "mini_lsr.safetensors"))
    assert metadata.latents.scale_factor == pytest.approx(scale_factor)
    large = images(512)
    to = lambda size: torch.nn.functional.interpolate(large, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    side = (high // 8, high // 8)
    with torch.no_grad():
        z, target = (vae.encode(to(size)) * scale_factor for size in (low, high))
        bicubic = torch.nn.functional.interpolate(z, side, mode="bicubic")
        learned = torch.cat([net(row[None], side) for row in z])
        assert (learned - target).abs().mean() < 0.75 * (bicubic - target).abs().mean()
        decoded = [psnr(vae.decode(latent / scale_factor), to(high)) for latent in (learned, bicubic)]
    assert decoded[0] > decoded[1] + 2


@pytest.mark.parametrize("side", [192, 320])
def test_implicit_decoder_beats_a_resize(vae, side):
    net, _ = implicit_decoder.load(str(BUNDLED / "mini_decoder.safetensors"))
    large = images(512)
    to = lambda image, size: torch.nn.functional.interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)
    with torch.no_grad():
        decoded = net.features(vae, vae.encode(to(large, 128)))
        learned, plain = psnr(net(decoded, (side, side)), to(large, side)), psnr(to(decoded.image, side), to(large, side))
    assert net.fits(vae)
    assert learned > plain + 0.02


def test_bundled_files_say_what_they_are_and_stay_small():
    files = list(BUNDLED.glob("*.safetensors"))
    assert len(files) >= 5 and sum(f.stat().st_size for f in files) < 60e6
    for file in files:
        with safe_open(file, "pt") as f:
            metadata = f.metadata()
        assert metadata["format"].startswith("loupe.") and metadata["license"] == "GPL-3.0-only"
        assert metadata["training"].startswith("python dev.py train ") and metadata["commit"]
