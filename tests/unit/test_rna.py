import cv2
import pytest
import torch
from loupe.methods.noise import seeded_noise
from loupe.methods.region_noise import edges, start_factor, strength_map
from loupe.methods.schedules import sd_ratio, start_for

pytestmark = pytest.mark.numerics


def test_edges_and_strength_of_the_reference(golden):
    tensors, description = golden("rna")
    for case in description["cases"]:
        image, size = tensors[case["image"]], tuple(case["target_hw"])
        edge_map = edges(image.float() / 255)
        assert torch.equal(edge_map, tensors[f"{case['image']}.canny"].float())
        strength = strength_map(edge_map, size, case["e_min"], case["e_max"])
        expected = tensors[f"{case['image']}.{size[0]}x{size[1]}.std_{case['e_min']}_{case['e_max']}"]
        torch.testing.assert_close(strength[None, None], expected, rtol=0, atol=2e-6)


def test_noise_addition_of_the_reference(golden):
    tensors, _ = golden("rna")
    strength = strength_map(edges(tensors["img0"].float() / 255), (48, 64), 0.0, 1.2)
    out = tensors["img0.add.latent"] + strength * tensors["img0.add.noise"]
    torch.testing.assert_close(out, tensors["img0.add.out"], rtol=0, atol=1e-6)


def test_thresholds_reach_canny():
    image = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    gray = cv2.cvtColor((image * 255).round().to(torch.uint8).numpy(), cv2.COLOR_RGB2GRAY)
    assert torch.equal(edges(image, 300, 600), torch.from_numpy(cv2.Canny(gray, 300, 600)).float())
    assert not torch.equal(edges(image, 300, 600), edges(image))


def test_flat_image_gets_the_minimum():
    assert torch.equal(strength_map(edges(torch.full((64, 64, 3), 0.5)), (16, 16), 0.3, 1.2), torch.full((16, 16), 0.3))


@pytest.mark.parametrize("e_min,e_max", [(1.0, 0.5), (-0.1, 0.5)])
def test_bad_range_is_refused(e_min, e_max):
    with pytest.raises(ValueError, match="0 <= noise_flat <= noise_edges"):
        strength_map(torch.rand(8, 8), (4, 4), e_min, e_max)


def test_noise_is_seeded_apart_from_the_global_generator():
    before = torch.get_rng_state()
    batch = seeded_noise((3, 4, 5, 5), 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(batch, seeded_noise((3, 4, 5, 5), 7))
    assert not torch.equal(batch, seeded_noise((3, 4, 5, 5), 8))
    assert abs(seeded_noise((1, 4, 128, 128), 0).std() - 1) < 0.02


def test_noise_of_a_sample_does_not_depend_on_its_batch():
    batch = seeded_noise((3, 4, 5, 5), 7)
    assert torch.equal(seeded_noise((1, 4, 5, 5), 7), batch[:1])
    assert torch.equal(seeded_noise((2, 4, 5, 5), 7, [2, 0]), batch[[2, 0]])
    assert torch.equal(seeded_noise((2, 4, 5, 5), 7, [1, 1]), batch[[1, 1]])


def test_strengths_belong_to_the_level_that_a_denoise_starts_from():
    for s, e_max in ((0.681, 1.2), (0.60, 0.84), (0.555, 0.70), (0.50, 0.56), (0.40, 0.37), (0.30, 0.24)):
        assert 1.2 * start_factor(s / (1 - s)) == pytest.approx(e_max, abs=0.006)
    assert start_factor(sd_ratio(581)) == start_factor(float(torch.tensor(sd_ratio(581)))) == 1
    assert start_factor(start_for(0.6), start_for(0.6)) == 1
    assert start_factor(float("inf")) == start_factor(sd_ratio(741)) == 1
