"""`train mini-text` and `train mini-unet`, in small."""

import pytest
import torch
from loupe.models import files
from loupe.models.files import BUNDLED
from loupe.training.mini import denoiser as unet
from loupe.training.mini import reading, text
from loupe.training.mini.scenes import caption, sample_scene
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SCENE = sample_scene(0)


@pytest.fixture(autouse=True)
def gradients(inference):
    with torch.inference_mode(False):
        yield


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A folder of bundled weights that training may write to."""
    for name in ("mini_vae", "mini_unet", "mini_text"):
        (tmp_path / f"{name}.safetensors").symlink_to(BUNDLED / f"{name}.safetensors")
    monkeypatch.setattr(files, "BUNDLED", tmp_path)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    """A run's folder with encoded images."""
    rows = text.Vocabulary().rows([caption(SCENE), ""])
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({
        "whole": torch.randn(3, 4, 16, 16), "whole_rows": rows[:1].repeat(3, 1),
        "zoom": torch.randn(2, 4, 16, 16), "zoom_place": torch.tensor([[192, 8, 16], [256, 0, 128]]),
        "zoom_rows": rows[:1].repeat(2, 1), "zoom_visible_rows": rows[:1].repeat(2, 1), "empty_rows": rows[1:],
    }, folder / "latents.safetensors")
    return folder


def training(file):
    with safe_open(file, "pt") as f:
        return f.metadata()["training"]


def distance(a, b):
    return max((a[key].float() - b[key].float()).abs().max().item() for key in b)


def test_the_denoiser_starts_from_a_file_and_leaves_the_text_encoder_as_it_is(run, weights):
    bundled, words = load_file(weights / "mini_unet.safetensors"), load_file(weights / "mini_text.safetensors")
    unet.main(["--out", str(run), "--batch", "4", "--device", "cpu", "--minutes", "1e-6", "--start", str(BUNDLED / "mini_unet.safetensors")])
    trained = load_file(weights / "mini_unet.safetensors")
    assert trained.keys() == bundled.keys() and 0 < distance(trained, bundled) < 1e-3
    assert training(weights / "mini_unet.safetensors").startswith("python dev.py train mini-unet --start --minutes 1e-06 --batch 4")
    assert distance(load_file(weights / "mini_text.safetensors"), words) == 0


def test_the_text_encoder_learns_by_itself(run, weights):
    bundled = load_file(weights / "mini_text.safetensors")
    reading.main(["--out", str(run), "--batch", "8", "--device", "cpu", "--steps", "1", "--near"])
    near = load_file(weights / "mini_text.safetensors")
    assert near.keys() == bundled.keys() and 0 < distance(near, bundled) < 1e-3
    (run / "mini-text.checkpoint.pt").unlink()
    reading.main(["--out", str(run), "--batch", "8", "--device", "cpu", "--steps", "1"])
    assert distance(load_file(weights / "mini_text.safetensors"), bundled) > 0.1
    assert training(weights / "mini_text.safetensors").startswith("python dev.py train mini-text --steps 1")


def test_labels_say_what_is_in_which_slot():
    labels = reading.slot_labels(SCENE)
    thing = SCENE.things[0]
    row, column = reading.place(thing.x, thing.y).split()
    slot = reading.ROWS.index(row) * 3 + reading.COLUMNS.index(column)
    assert labels[2 * slot:2 * slot + 2] == [reading.SHAPES.index(thing.shape) + 1, list(reading.COLORS).index(thing.color) + 1]
    assert sum(label > 0 for label in labels[:-1]) == 2 * len(SCENE.things)
