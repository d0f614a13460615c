"""`train mini-arbitrary` and its alignment stage, in small."""

import shutil

import numpy as np
import pytest
import torch
from loupe.methods.regions import Region
from loupe.models import files
from loupe.models.files import BUNDLED
from loupe.models.mini import loaded as mini
from loupe.training.mini import arbitrary, low_resolution
from loupe.training.mini.render import render
from loupe.training.mini.scenes import LARGE_SEED, sample_scene
from safetensors import safe_open
from safetensors.torch import load_file

SCENES = 2


@pytest.fixture(autouse=True)
def gradients(inference):
    with torch.inference_mode(False):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A run's folder with two rendered scenes."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "scenes").mkdir()
    np.save(folder / "scenes" / "large_00000.npy", np.stack([render(sample_scene(LARGE_SEED + i), 512, 1) for i in range(SCENES)]))
    return folder


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A folder of bundled weights that training may write to."""
    for name in ("mini_vae", "mini_unet", "mini_text"):
        (tmp_path / f"{name}.safetensors").symlink_to(BUNDLED / f"{name}.safetensors")
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
    return tmp_path


def train(folder, *arguments):
    arbitrary.main(["--out", str(folder), "--batch", "2", "--count", str(SCENES), "--device", "cpu", *arguments])


def metadata(file):
    with safe_open(file, "pt") as f:
        return f.metadata()


def test_both_stages_leave_a_file_that_the_node_loads(images, weights):
    file = weights / arbitrary.FILE
    train(images, "--steps", "2")
    first, start = load_file(file), load_file(weights / "mini_unet.safetensors")
    pairs = load_file(images / "arbitrary.safetensors")
    assert pairs["high"].shape == pairs["low"].shape == (SCENES * low_resolution.VIEWS, 4, 32, 32)
    assert first[arbitrary.STEM].shape[1] == 8 and first[arbitrary.STEM][:, 4:].abs().max() > 0
    assert not torch.equal(first["out.2.weight"], start["out.2.weight"])
    assert metadata(file)["training"].startswith("python dev.py train mini-arbitrary --steps 2")

    train(images, "--align", "--steps", "1", "--image-weight", "2")
    second = load_file(file)
    assert first.keys() == second.keys() and not torch.equal(first["out.2.weight"], second["out.2.weight"])
    assert metadata(file)["training"].startswith("python dev.py train mini-arbitrary --align") and metadata(file)["image_weight"] == "2.0"
    loaded = mini.load_arbitrary().model.diffusion_model.state_dict()
    assert all(torch.equal(value, second[key].to(value)) for key, value in loaded.items())
    assert torch.equal(load_file(images / arbitrary.FILE)[arbitrary.STEM], first[arbitrary.STEM])


def test_start_goes_on_from_a_file(images, weights, tmp_path):
    shutil.copy(BUNDLED / arbitrary.FILE, tmp_path / "start.safetensors")
    (tmp_path / "scenes").symlink_to(images / "scenes")
    train(tmp_path, "--steps", "1", "--lr", "1e-12", "--start", str(tmp_path / "start.safetensors"))
    kept = load_file(weights / arbitrary.FILE)
    assert all(torch.equal(kept[key], value) for key, value in load_file(tmp_path / "start.safetensors").items())
    assert "mini-arbitrary --start" in metadata(weights / arbitrary.FILE)["training"]


def test_stage_two_asks_for_stage_one(images, weights, tmp_path):
    (tmp_path / "scenes").symlink_to(images / "scenes")
    with pytest.raises(FileNotFoundError, match="mini_arbitrary.safetensors.*train mini-arbitrary"):
        train(tmp_path, "--align", "--steps", "1")


def test_low_resolution_of_a_view_is_its_own(images):
    image = np.load(images / "scenes" / "large_00000.npy")[0]
    whole, flipped, *zooms = [view[0] for view in low_resolution.views(image, LARGE_SEED)]
    assert np.array_equal(whole[:, ::-1], flipped) and len(zooms) == low_resolution.VIEWS - 2
    for view in (whole, *zooms):
        low = low_resolution.low_resolution(view, 64)
        assert view.shape == low.shape == (256, 256, 3)
        assert np.abs(low_resolution.shrink(low, 32).astype(int) - low_resolution.shrink(view, 32)).mean() < 2


def test_target_is_the_pair_at_any_size(images):
    large = low_resolution.Images(images / "scenes", "large")
    plain, flipped = (low_resolution.target(large, low_resolution.VIEWS + i, 288) for i in (0, 1))
    assert plain.shape == (1, 3, 288, 288)
    assert torch.equal(plain.flip(-1), flipped)
    assert not torch.equal(plain, low_resolution.target(large, 0, 288))


def test_queries_stay_inside_the_window_and_the_image():
    g = torch.Generator().manual_seed(0)
    sides = set()
    for _ in range(300):
        cells, side, region = arbitrary.draw_queries(32, g)
        pixels = side // 32
        sides.add(side)
        for start, size, first in ((cells.y, cells.height, region.y), (cells.x, cells.width, region.x)):
            assert 0 <= start <= 32 - size
            assert (start + arbitrary.BORDER) * pixels <= first <= (start + size - arbitrary.BORDER) * pixels - arbitrary.QUERIES
    assert sides == set(arbitrary.SIDES)


@pytest.mark.parametrize("side", [256, 416])
def test_window_is_decoded_as_in_the_whole_image(side):
    decoder = arbitrary.Decoder("cpu")
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cells, pixels = Region(8, 12, 16, 16), side // 32
    region = Region(12 * pixels + 3, 18 * pixels, 24, 32)
    part = decoder(latents, cells, side, region)
    whole = decoder(latents.detach(), Region(0, 0, 32, 32), side, region)
    assert part.shape == (1, 3, 24, 32)
    assert (part - whole).abs().mean() < 0.02 * whole.std()
    part.sum().backward()
    assert cells.crop(latents.grad).abs().max() > 0
    cells.crop(latents.grad).zero_()
    assert latents.grad.abs().max() == 0
    assert all(p.grad is None for p in (*decoder.vae.parameters(), *decoder.network.parameters()))
