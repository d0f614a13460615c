"""What `bench peers` counts and times in its server."""

import math

import comfy.sample
import pytest
import torch
from loupe.benchmarks.probe import Start, Stop
from loupe.engine import with_parts
from loupe.models.mini import loaded as mini
from loupe.patches.regional_denoise import RegionalDenoise

VARIANT = mini.VARIANTS["text to image"]
STEPS = 2


@pytest.fixture(scope="module")
def begun():
    clip = VARIANT.clip()
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red star", ""))
    return torch.zeros(1, 8, 8, 3), VARIANT.model(), None, positive, negative


@pytest.mark.parametrize("parts, rows, area", [
    ((), 2 * STEPS, 2 * STEPS * (24 * 16) / 16**2),
    ((RegionalDenoise((16, 16), 0.5, "uniform", jitter=False),), 2 * 2 * STEPS, 2 * 2 * STEPS),
])
def test_all_that_the_network_sees_is_counted(begun, parts, rows, area):
    image, model, _, positive, negative, count = Start.execute(*begun, native_cells=16).args
    latent = torch.zeros(1, 4, 24, 16)
    patched = with_parts(model, *parts) if parts else model
    comfy.sample.sample(patched, torch.randn(latent.shape), STEPS, 4.0, "euler", "normal", positive, negative, latent, denoise=0.5, disable_pbar=True, seed=0)
    found = Stop.execute(image, count)
    assert found.args[0] is image
    assert found.ui["rows"] == [rows]
    assert found.ui["area"] == [area]
    assert found.ui["seconds"][0] > 0
    assert found.ui["wall"][0] > 0


def test_nothing_is_counted_twice_or_taken_from_the_cache(begun):
    first, second = (Start.execute(*begun, native_cells=16).args[-1] for _ in range(2))
    first(lambda x: x, torch.zeros(2, 4, 8, 8))
    assert (first.rows, first.area, second.rows) == (2, 0.5, 0)
    assert math.isnan(Start.fingerprint_inputs())
